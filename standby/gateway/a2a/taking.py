"""What a message does: it starts a run, or answers what a task asks."""

from __future__ import annotations

from typing import Any

from a2a.types import Message, SendMessageRequest
from a2a.utils.errors import TaskNotFoundError, UnsupportedOperationError

from standby.agent_tasks import answerable, asked, task
from standby.callers import Caller, delegates
from standby.gateway.a2a import messages
from standby.gateway.a2a.saving import check, save
from standby.gateway.agents import Agents, named
from standby.gateway.answering import answered
from standby.gateway.refusals import Refused
from standby.ledger.tasks import Found
from standby.states import Door, Verdict


class Taking:
    def __init__(self, agents: Agents) -> None:
        self._agents = agents

    async def taken(self, params: SendMessageRequest, caller: Caller) -> Found:
        """Start a run with the message, or answer with it."""
        message, push = params.message, params.configuration.task_push_notification_config
        named("message.messageId", message.message_id)
        if push.url:
            await check(push)
        if message.task_id:
            found = await self._found(message.task_id, caller)
            context_id = task(found, caller, {}, artifacts=False)["contextId"]
            if message.context_id and message.context_id != context_id:
                raise Refused(422, "The message does not fit.", [("contextId", f"the task's is {context_id}")])
            await self._answer(found, message, caller)
        else:
            found = await self._start(params, caller)
        if push.url:
            await save(self._agents.ledger, found, push, caller)
        return await self._found(found.id, caller)

    async def _start(self, params: SendMessageRequest, caller: Caller) -> Found:
        message = params.message
        agent = messages.metadata(message, "agent")
        if agent is None:
            known = [one.name for one in await self._agents.all()]
            if len(known) != 1:
                why = f"name the agent to start: {', '.join(known) or 'there is none'}"
                raise Refused(422, "The message does not fit.", [("metadata.agent", why)])
            agent = known[0]

        async def schema() -> dict[str, Any]:
            found = await self._agents.get(agent)
            if found is None:
                raise Refused(422, "The message does not fit.", [("metadata.agent", f"there is no agent {agent}")])
            return found.schema

        return await self._agents.start(
            caller, Door.A2A, agent, await messages.parameters(message, schema),
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
        await answered(self._agents.ledger, self._agents.place, caller, wait, text, door=Door.A2A, note=note)

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
        mine = answerable(found, caller, await delegates(self._agents.ledger)) or questions
        if len(mine) > 1:
            listed = ", ".join(f"{wait.id} ({wait.key})" for wait in mine)
            raise Refused(
                422, "The message does not fit.", [("metadata.wait_id", f"name the one you answer: {listed}")]
            )
        return mine[0]

    async def _found(self, task_id: str, caller: Caller) -> Found:
        found = await self._agents.find(caller, task_id)
        if found is None:
            raise TaskNotFoundError
        return found
