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
    Message,
    SendMessageRequest,
    SubscribeToTaskRequest,
    Task,
    TaskArtifactUpdateEvent,
    TaskPushNotificationConfig,
    TaskStatusUpdateEvent,
)
from a2a.types import TaskState as WireState
from a2a.utils.errors import TaskNotCancelableError, TaskNotFoundError, UnsupportedOperationError

from standby import pushes
from standby.agent_tasks import AT_REST, OVER, TaskState, answerable, asked, task
from standby.callers import Caller, delegates, why_no_more
from standby.gateway.a2a import messages, wire
from standby.gateway.a2a.card import card
from standby.gateway.a2a.listing import listed
from standby.gateway.a2a.translating import called, streamed, translated
from standby.gateway.a2a.watching import Watching
from standby.gateway.agents import Agents, named
from standby.gateway.answering import answered
from standby.gateway.refusals import Refused
from standby.ledger.tasks import Found
from standby.states import Door, Verdict

PATIENCE_SECONDS = 20.0
"""How long a message that does not return immediately waits for its task to be over, or to ask."""

MOST_STREAMS = 200
"""Streams at the same time; each holds a connection for as long as its task goes on."""

Event = Task | TaskStatusUpdateEvent | TaskArtifactUpdateEvent


class Handler(RequestHandler):
    def __init__(self, agents: Agents) -> None:
        self._agents = agents
        self._ledger = agents.ledger
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
        found = await self._taken(params, caller)
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
        found = await self._taken(params, caller)
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
        await _check(params)
        return await self._save(found, params, caller)

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

    async def _taken(self, params: SendMessageRequest, caller: Caller) -> Found:
        """Start a run with the message, or answer with it."""
        message, push = params.message, params.configuration.task_push_notification_config
        named("message.messageId", message.message_id)
        if push.url:
            await _check(push)
        if message.task_id:
            found = await self._found(message.task_id, caller)
            context_id = task(found, caller, {}, artifacts=False)["contextId"]
            if message.context_id and message.context_id != context_id:
                raise Refused(422, "The message does not fit.", [("contextId", f"the task's is {context_id}")])
            await self._answer(found, message, caller)
        else:
            found = await self._start(params, caller)
        if push.url:
            await self._save(found, push, caller)
        return await self._found(found.id, caller)

    async def _start(self, params: SendMessageRequest, caller: Caller) -> Found:
        message = params.message
        agent = messages.metadata(message, "agent")
        schema = None
        if agent is None:
            known = [one.name for one in await self._agents.all()]
            if len(known) != 1:
                why = f"name the agent to start: {', '.join(known) or 'there is none'}"
                raise Refused(422, "The message does not fit.", [("metadata.agent", why)])
            agent = known[0]
        if any(part.WhichOneof("content") == "text" for part in message.parts):
            found = await self._agents.get(agent)
            if found is None:
                raise Refused(422, "The message does not fit.", [("metadata.agent", f"there is no agent {agent}")])
            schema = found.schema
        return await self._agents.start(
            caller, Door.A2A, agent, messages.parameters(message, schema),
            request_id=message.message_id, context_id=message.context_id or None,
        )  # fmt: skip

    async def _answer(self, found: Found, message: Message, caller: Caller) -> None:
        """Answer what the task asks. A message that is sent again is about what it was about at first, and counts once,
        whatever is asked meanwhile.

        ``found`` has the waits as they were before its decisions: an answer that has let the run go on to another wait
        is among these.
        """
        note = f"message {message.message_id}"
        mine = [one for one in found.decisions if (one.door, one.actor, one.note) == (Door.A2A, caller.name, note)]
        if mine:
            wait = next(wait for wait in found.waits if wait.id == mine[0].wait_id)
            if wait.opening != mine[0].opening or mine[0].verdict in (Verdict.WON, Verdict.COUNTED):
                return
        else:
            wait = await self._meant(found, message, caller)
        text = messages.answer(message)
        await answered(self._ledger, self._agents.place, caller, wait, text, door=Door.A2A, note=note)

    async def _meant(self, found: Found, message: Message, caller: Caller) -> Any:
        """The wait that the message answers: the one it names, or the one that asks its sender."""
        wait_id = messages.metadata(message, "wait_id")
        if wait_id is not None:
            for wait in found.waits:
                if wait.id == wait_id:
                    return wait
            raise Refused(422, "The message does not fit.", [("metadata.wait_id", "the task has no such wait")])
        questions = asked(found)
        if not questions:
            raise UnsupportedOperationError("The task asks nothing now.")
        mine = answerable(found, caller, await delegates(self._ledger)) or questions
        if len(mine) > 1:
            listed = ", ".join(f"{wait.id} ({wait.key})" for wait in mine)
            raise Refused(
                422, "The message does not fit.", [("metadata.wait_id", f"name the one you answer: {listed}")]
            )
        return mine[0]

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

    async def _save(self, found: Found, push: TaskPushNotificationConfig, caller: Caller) -> TaskPushNotificationConfig:
        config_id = named("id", push.id or found.id)
        others = {one.config_id for one in await self._ledger.pushes.of_task(found.id) if one.key_id != caller.key_id}
        saved = config_id not in others and await self._ledger.pushes.save(
            found.id, config_id, caller.key_id, url=push.url, token=push.token or None,
            scheme=push.authentication.scheme or None, credentials=push.authentication.credentials or None,
        )  # fmt: skip
        if not saved:
            why = "it is somebody else's" if config_id in others else "the task has too many push notifications"
            raise Refused(422, "Nobody is told there.", [("id", why)])
        made = TaskPushNotificationConfig()
        made.CopyFrom(push)
        made.id, made.task_id = config_id, found.id
        return made

    async def _pushes(self, task_id: str, caller: Caller) -> list[Any]:
        found = await self._found(task_id, caller)
        return [push for push in await self._ledger.pushes.of_task(found.id) if push.key_id == caller.key_id]


def _state(shown: Task) -> TaskState:
    return TaskState(WireState.Name(shown.status.state))


async def _check(push: TaskPushNotificationConfig) -> None:
    """Raise ``Refused`` for where nobody is told anything."""
    who = push.authentication
    problems = await pushes.check(push.url, token=push.token, scheme=who.scheme, credentials=who.credentials)
    if problems:
        raise Refused(422, "Nobody is told there.", problems)


def _read_back(push: Any) -> TaskPushNotificationConfig:
    """What was saved, without its secrets."""
    return TaskPushNotificationConfig(id=push.config_id, task_id=push.task_id, url=push.url)
