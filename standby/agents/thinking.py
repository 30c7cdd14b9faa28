"""One ``run_agent`` under way: pydantic-ai's loop, turn by turn, from where the journal ends, inside the scope."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import is_
from typing import Any, TypeVar

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ToolCallPart
from pydantic_ai.models import ModelRequestContext
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults, RunContext
from pydantic_ai.usage import RunUsage, UsageLimits
from pydantic_graph import End

from standby import clock
from standby.agents import asking
from standby.agents.budgets import Budget, exhausted
from standby.agents.forms import More, more_budget
from standby.agents.gate import Gate, Recorder
from standby.agents.parts import parts_of
from standby.agents.scope import AgentScope, AtStop
from standby.agents.serving import Serving
from standby.agents.thread import Thread
from standby.agents.tracing import joined
from standby.errors import ScopeStopped, UsageError
from standby.states import CheckpointState
from standby.waiting import wait_at
from standby.waits import Approval, Signal

R = TypeVar("R")

log = logging.getLogger("standby.agents")

Scoped = AgentScope | Callable[[], Awaitable[AgentScope]]
"""A scope, or what reads it anew: after every wait, and in every attempt."""

Fresh = Callable[[dict[str, Any]], Awaitable[str]]
"""From a call's arguments to what it is about as of now, such as an etag."""

STOP = "agent.stop"
"""Topic of the signal that stops an agent before its next model request; the key is the run's id."""

MORE_IN = {"steps": "steps", "tool_calls": "tool calls", "tokens": "tokens", "money": "US dollars",
           "running": "seconds at work", "wall": "seconds in all"}  # fmt: skip
"""The budgets that a person can raise, and their units."""


@dataclass
class Thinking:
    """What the gate and the questions need to know. ``deferred``: calls of this turn that others deliver."""

    agent: Agent[Any, Any]
    thread: Thread
    scoped: Scoped
    serving: Serving
    deps: Any
    model: Any
    fresh: Mapping[str, Fresh]
    recheck: Callable[[], Awaitable[None]] | None
    until: Callable[[Sequence[ModelMessage]], Awaitable[bool]] | None
    on_change: str
    scope: AgentScope = field(default_factory=AgentScope)
    schemas: dict[str, str] = field(default_factory=dict)
    known: list[ModelMessage] = field(default_factory=list)
    deferred: set[int] = field(default_factory=set)
    may_have_changed: bool = True
    stopped: ScopeStopped | None = None

    async def refresh(self) -> None:
        """Look at everything again that may have changed while the run waited. Raises what ``recheck`` raises."""
        scope = self.scoped if isinstance(self.scoped, AgentScope) else await self.scoped()
        if not isinstance(scope, AgentScope):
            raise TypeError(f"scope= must give an AgentScope, not {type(scope).__name__}.")
        self.scope = scope
        if self.recheck is not None:
            await self.recheck()

    async def parked(self, wait: Callable[[], Awaitable[R]], *, tool_calls: int = 0) -> R:
        """Wait in the own task, and look afterwards whether there is still room for so many calls."""
        answer = await self._waited(wait)
        await self._check_stop()
        await self._check(tool_calls=tool_calls)
        return answer

    async def _waited(self, wait: Callable[[], Awaitable[R]]) -> R:
        answer = await wait()
        self.may_have_changed = True
        await self.refresh()
        return answer

    async def _here(self, work: Callable[[], Awaitable[R]]) -> R:
        """In the own task, from wherever this is called."""
        return await (work() if self.thread.run.in_own_task else self.serving.here(work))

    async def think(self, task: Any) -> Any:
        """Go on from the journal to the output. Raises ``ScopeStopped``, and whatever the model and the tools raise."""
        thread = self.thread
        history = thread.history()
        self.known = list(history)
        options: dict[str, Any] = {"message_history": history} if thread.last is not None else {"user_prompt": task}
        if thread.last is None and thread.messages:  # a conversation to go on with
            options["message_history"] = thread.messages
            self.known = list(thread.messages)
        with joined(thread.beginning.trace if thread.beginning is not None else {}):
            async with self.agent.iter(
                **options,
                deps=self.deps,
                model=self.model,
                usage=self._usage(),
                usage_limits=UsageLimits(request_limit=None),
                conversation_id=thread.run.id,
                capabilities=[Recorder(thinking=self), Gate(thinking=self)],
                infer_name=False,
            ) as run:
                node = run.next_node
                while not isinstance(node, End):
                    if Agent.is_model_request_node(node):
                        await self._before_request([*run.all_messages(), node.request])
                    elif Agent.is_call_tools_node(node):
                        self.deferred.clear()
                        await self._before_calls(node.model_response.tool_calls)
                    node = await run.next(node)
        if self.stopped is not None:
            raise self.stopped  # whatever a capability of the agent has made of it
        if run.result is None:
            raise UsageError(
                f"Agent {thread.name!r} ended without a result: a capability of it let an error disappear."
            )
        thread.messages = run.all_messages()
        return run.result.output

    def _usage(self) -> RunUsage:
        """What was spent before the last turn, for tools to see; that one is counted when it is gone through."""
        usage = RunUsage()
        for answer in self.thread.answers[:-1]:
            usage.incr(answer.usage)
            usage.requests += 1
        return usage

    def new_of(self, messages: Sequence[ModelMessage]) -> tuple[list[ModelMessage], bool]:
        """What came to the history since the last turn; or all of it (True), where its beginning was rewritten."""
        known = self.known
        same = len(messages) >= len(known) and all(map(is_, known, messages))
        return (list(messages[len(known) :]), False) if same else (list(messages), True)

    def ordinal_of(self, tool_call_id: str | None) -> int | None:
        """The number, from 1, of a call in the last answer; None for one that is not in it."""
        calls = self.thread.response().tool_calls
        return next((n for n, call in enumerate(calls, start=1) if call.tool_call_id == tool_call_id), None)

    def ordinal(self, call: ToolCallPart) -> int:
        found = self.ordinal_of(call.tool_call_id)
        assert found is not None
        return found

    def was_asking(self) -> bool:
        """Whether an earlier attempt has asked about calls of this turn: what is still to do is what it asked about."""
        return self.thread.entry(f"{self.thread.turn}.asks") is not None

    def look_for_changes(self, request: ModelRequestContext) -> tuple[dict[str, str] | None, list[str]]:
        """What the agent is made of, where that is new, and what of it is another than before the last wait or crash.

        Raises ``ScopeStopped`` where the agent must not go on with it.
        """
        if not self.may_have_changed:
            return None, []
        self.may_have_changed = False
        parts, before = parts_of(request, self.scope), self.thread.parts
        if parts == before:
            return None, []
        self.thread.parts = parts
        if before is None:
            return parts, []
        changed = sorted(name for name in {*parts, *before} if parts.get(name) != before.get(name))
        log.warning("Run %s: agent %s goes on with other parts: %s", self.thread.run.id, self.thread.name, changed)
        if self.on_change == "stop":
            raise self._stop("change", f"{', '.join(changed)} changed, and it must not go on then")
        return parts, changed

    async def tag(self, tool: str, arguments: dict[str, Any]) -> str | None:
        return await self.fresh[tool](arguments) if tool in self.fresh else None

    async def resolve(self, ctx: RunContext[Any], requests: DeferredToolRequests) -> DeferredToolResults:
        """What people and others say about calls that wait for them. Only in the own task."""
        return await asking.resolve(self, ctx, requests)

    async def _before_request(self, messages: list[ModelMessage]) -> None:
        if self.thread.turn < self.thread.recorded:
            return  # it was made before
        await self._check_stop()
        if self.until is not None and self.thread.turn and await self.until(messages):
            raise self._stop("goal", "the goal is reached")
        await self._check(requests=1)

    async def _before_calls(self, calls: Sequence[ToolCallPart]) -> None:
        done = sum(
            self.thread.entry(self.thread.call_key(number, call.tool_name, approved=approved)) is not None
            for number, call in enumerate(calls, start=1)
            for approved in (False, True)
        )
        mine = [call for call in calls if call.tool_name in self.schemas]
        if len(mine) > done:
            await self._check(tool_calls=len(mine) - done)

    async def _check_stop(self) -> None:
        """Whether a person has sent word to stop: a signal of the topic ``STOP`` with the run's id as its key."""
        thread = self.thread
        rest = f"{thread.turn}.stop"
        if thread.entry(rest) is None and not await thread.run.ledger.signals.is_kept(STOP, thread.run.id):
            return
        word: Signal[Any] = Signal(STOP, key=thread.run.id)
        said = (await self._here(lambda: wait_at(thread.place(rest), {"": word})))[""]
        raise self._stop("person", f"a person stopped it: {said}" if said else "a person stopped it")

    def _stop(self, what: str, why: str) -> ScopeStopped:
        self.stopped = ScopeStopped(self.thread.name, what, why)
        return self.stopped

    def must_fail(self, stopped: ScopeStopped) -> bool:
        """Whether a stop is an error. To have reached the goal, or to be stopped by a person, is none."""
        return stopped.what == "change" or (
            self.scope.at_stop is AtStop.FAIL and stopped.what not in ("goal", "person")
        )

    def _check_time(self) -> None:
        if self.scope.deadline is not None and clock.utcnow() >= self.scope.deadline:
            raise self._stop("deadline", f"the deadline {self.scope.deadline.isoformat()} has passed")

    async def _check(self, **more: int) -> None:
        """Raise ``ScopeStopped`` if the scope has no room for so many more requests and calls, and nobody grants it."""
        while True:
            self._check_time()
            budget = self.scope.budget.raised(self.thread.granted)
            found = exhausted(budget, self.thread.spent_now(), **more)
            if found is None:
                return
            what, why = found
            hopeless = what == "money" and self.thread.spent.unpriced
            if self.scope.at_stop is not AtStop.ASK or hopeless:
                raise self._stop(what, why)
            granted = await self._here(lambda what=what, why=why: self._ask_for_more(what, why))  # type: ignore[misc]
            if granted is None:
                raise self._stop(what, f"{why}, and no more was granted")
            self.thread.grant(granted)

    async def _ask_for_more(self, what: str, why: str) -> Budget | None:
        """Ask a person for more; None if there is none to be had. Only in the own task."""
        thread, number = self.thread, 1
        while (entry := thread.entry(key := f"{thread.turn}.more.{what}.{number}")) is not None:
            if entry.state != CheckpointState.RECORDED:
                break
            number += 1
        asking_ = self.scope.asking
        nobody = More(approved=False, comment="Nobody answered in time.")
        timed: dict[str, Any] = {} if asking_.within is None else {"within": asking_.within, "otherwise": nobody}
        question = Approval(
            f"May {thread.name} spend more {MORE_IN[what]}?",
            form=More,
            show=f"It stopped because {why}.\n\nSo far: {thread.spent_now().said}.",
            party=asking_.party,
            policy=asking_.policy,
            **timed,
        )
        answer = (await self._waited(lambda: wait_at(thread.place(key), {"": question})))[""]
        return more_budget(what, answer)
