"""The protocol's operations on the ledger's tasks. The ledger is the only store: any gateway serves any task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from a2a.server.context import ServerCallContext
from a2a.server.request_handlers.request_handler import RequestHandler
from a2a.types import (
    AgentCard,
    CancelTaskRequest,
    DeleteTaskPushNotificationConfigRequest,
    GetExtendedAgentCardRequest,
    GetTaskPushNotificationConfigRequest,
    GetTaskRequest,
    ListTaskPushNotificationConfigsRequest,
    ListTaskPushNotificationConfigsResponse,
    ListTasksRequest,
    ListTasksResponse,
    SendMessageRequest,
    SubscribeToTaskRequest,
    Task,
    TaskArtifactUpdateEvent,
    TaskPushNotificationConfig,
    TaskStatusUpdateEvent,
)
from a2a.types import TaskState as WireState
from a2a.utils.errors import TaskNotCancelableError, TaskNotFoundError, UnsupportedOperationError

from standby.agent_tasks import AT_REST, OVER, TaskState, task
from standby.callers import Caller, delegates, why_no_more
from standby.gateway.a2a import wire
from standby.gateway.a2a.card import card
from standby.gateway.a2a.listing import listed
from standby.gateway.a2a.saving import check, save
from standby.gateway.a2a.taking import Taking
from standby.gateway.a2a.translating import called, streamed, translated
from standby.gateway.a2a.watching import Watching
from standby.gateway.agents import Agents
from standby.gateway.refusals import Refused
from standby.ledger.tasks import Found
from standby.states import Door

PATIENCE_SECONDS = 20.0
"""How long a message that does not return immediately waits for its task to be over, or to ask."""

MOST_STREAMS = 200
"""Streams at the same time; each holds a connection for as long as its task goes on."""

Event = Task | TaskStatusUpdateEvent | TaskArtifactUpdateEvent


class Handler(RequestHandler):
    def __init__(self, agents: Agents) -> None:
        self._agents = agents
        self._ledger = agents.ledger
        self._taking = Taking(agents)
        self._watching = Watching(agents.ledger)
        self._streams = 0

    @called
    async def on_get_task(self, params: GetTaskRequest, caller: Caller) -> Task:
        return await self._shown(await self._found(params.id, caller), caller)

    @called
    async def on_list_tasks(self, params: ListTasksRequest, caller: Caller) -> ListTasksResponse:
        return await listed(self._ledger, params, caller)

    @called
    async def on_cancel_task(self, params: CancelTaskRequest, caller: Caller) -> Task:
        found = await self._found(params.id, caller)
        try:
            await self._agents.cancel(caller, Door.A2A, found)
        except Refused as refused:
            if refused.status == 409:
                raise TaskNotCancelableError(refused.error) from None
            raise
        return await self._shown(await self._found(params.id, caller), caller)

    @called
    async def on_message_send(self, params: SendMessageRequest, caller: Caller) -> Task:
        found = await self._taking.taken(params, caller)
        shown = await self._shown(found, caller)
        if params.configuration.return_immediately:
            return shown
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                mark = await self._watching.mark(found.id)
                while True:
                    shown = await self._shown(await self._found(found.id, caller), caller)
                    if _state(shown) in AT_REST:
                        break
                    mark = await self._watching.moved(found.id, mark)
        except TimeoutError:
            pass  # it goes on; the client asks again, subscribes or is told
        return shown

    @streamed
    async def on_message_send_stream(self, params: SendMessageRequest, caller: Caller) -> AsyncGenerator[Event]:
        found = await self._taking.taken(params, caller)
        async for event in self._events(found.id, caller, until=AT_REST):
            yield event

    @streamed
    async def on_subscribe_to_task(self, params: SubscribeToTaskRequest, caller: Caller) -> AsyncGenerator[Event]:
        found = await self._found(params.id, caller)
        if _state(await self._shown(found, caller)) in OVER:
            raise UnsupportedOperationError("The task is over: there is nothing to come.")
        async for event in self._events(found.id, caller, until=OVER):
            yield event

    @called
    async def on_create_task_push_notification_config(
        self, params: TaskPushNotificationConfig, caller: Caller
    ) -> TaskPushNotificationConfig:
        found = await self._found(params.task_id, caller)
        await check(params)
        return await save(self._ledger, found, params, caller)

    @called
    async def on_get_task_push_notification_config(
        self, params: GetTaskPushNotificationConfigRequest, caller: Caller
    ) -> TaskPushNotificationConfig:
        for push in await self._pushes(params.task_id, caller):
            if push.config_id == params.id:
                return _read_back(push)
        raise TaskNotFoundError(f"The task has no push notification {params.id!r} of yours.")

    @called
    async def on_list_task_push_notification_configs(
        self, params: ListTaskPushNotificationConfigsRequest, caller: Caller
    ) -> ListTaskPushNotificationConfigsResponse:
        mine = await self._pushes(params.task_id, caller)
        return ListTaskPushNotificationConfigsResponse(configs=map(_read_back, mine))

    @called
    async def on_delete_task_push_notification_config(
        self, params: DeleteTaskPushNotificationConfigRequest, caller: Caller
    ) -> None:
        for push in await self._pushes(params.task_id, caller):
            if push.config_id == params.id:
                await self._ledger.pushes.remove(push.task_id, push.config_id)

    async def on_get_extended_agent_card(
        self, params: GetExtendedAgentCardRequest, context: ServerCallContext
    ) -> AgentCard:
        try:
            return card(context.state["base_url"], await self._agents.all())
        except Refused as refused:
            raise translated(refused) from None

    async def _found(self, task_id: str, caller: Caller) -> Found:
        found = await self._agents.find(caller, task_id)
        if found is None:
            raise TaskNotFoundError
        return found

    async def _shown(self, found: Found, caller: Caller) -> Task:
        return wire.made(Task, task(found, caller, await delegates(self._ledger)))

    async def _events(self, task_id: str, caller: Caller, *, until: tuple[TaskState, ...]) -> AsyncGenerator[Event]:
        """The task, and what becomes of it."""
        if self._streams >= MOST_STREAMS:
            raise Refused(503, "Too many streams are open. Ask for the task, or have yourself told.")
        self._streams += 1
        try:
            mark = await self._watching.mark(task_id)
            shown = await self._shown(await self._found(task_id, caller), caller)
            yield shown
            while _state(shown) not in until:
                mark = await self._watching.moved(task_id, mark)
                await self._still_good(caller)
                shown = await self._shown(await self._found(task_id, caller), caller)
                for artifact in shown.artifacts:
                    yield TaskArtifactUpdateEvent(
                        task_id=shown.id, context_id=shown.context_id, artifact=artifact, last_chunk=True
                    )
                yield TaskStatusUpdateEvent(
                    task_id=shown.id, context_id=shown.context_id, status=shown.status, metadata=shown.metadata
                )
        finally:
            self._streams -= 1

    async def _still_good(self, caller: Caller) -> None:
        key = await self._ledger.keys.get(caller.key_id)
        if key is None or why_no_more(key) is not None:
            raise UnsupportedOperationError(f"The key of {caller.name} is good no more.")

    async def _pushes(self, task_id: str, caller: Caller) -> list[Any]:
        found = await self._found(task_id, caller)
        return [push for push in await self._ledger.pushes.of_task(found.id) if push.key_id == caller.key_id]


def _state(shown: Task) -> TaskState:
    return TaskState(WireState.Name(shown.status.state))


def _read_back(push: Any) -> TaskPushNotificationConfig:
    """What was saved, without its secrets."""
    return TaskPushNotificationConfig(id=push.config_id, task_id=push.task_id, url=push.url)
