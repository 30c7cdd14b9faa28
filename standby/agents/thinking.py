"""One ``run_agent`` under way: pydantic-ai's loop, turn by turn, from where the journal ends, inside the scope."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import is_
from typing import Any, TypeVar

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ToolCallPart
from pydantic_ai.models import ModelRequestContext
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults, RunContext
from pydantic_ai.usage import UsageLimits
from pydantic_graph import End

from standby import clock
from standby.agents import asking
from standby.agents.block import scope_named
from standby.agents.budgets import Budget, Spent
from standby.agents.canonical import digest
from standby.agents.changes import Listed, stop_before_calls, stop_if_changed
from standby.agents.costs import Mark, Usage, called_within
from standby.agents.families import Short, short_of
from standby.agents.forms import More, more_budget
from standby.agents.gate import Gate
from standby.agents.judging import judge
from standby.agents.more import MoreApproval
from standby.agents.names import for_people
from standby.agents.permissions import may_be_called
from standby.agents.recorder import Recorder
from standby.agents.resuming import count_told, taken_up, usage_before
from standby.agents.scope import AgentScope, AtStop, Permission
from standby.agents.serving import Serving
from standby.agents.thread import Thread
from standby.agents.tracing import joined
from standby.errors import ScopeStopped, UsageError
from standby.states import CheckpointState
from standby.stops import stopped_without_ledger
from standby.topics import STOP
from standby.waiting import wait_at
from standby.waits import Signal

R = TypeVar("R")

Scoped = AgentScope | Callable[[], Awaitable[AgentScope] | AgentScope]
"""A scope, or what reads it anew: after every wait, and in every attempt."""

Fresh = Callable[[dict[str, Any]], Awaitable[str] | str]
"""From a call's arguments to what it is about as of now, such as an etag."""

MORE_IN = {"steps": "steps", "tool_calls": "tool calls", "tokens": "tokens", "money": "US dollars",
           "running": "seconds at work", "wall": "seconds in all"}  # fmt: skip
"""The budgets that a person can raise, and their units."""


async def _awaited(told: Awaitable[R] | R) -> R:
    """What a function of the caller says, whether it is async or not."""
    return await told if isinstance(told, Awaitable) else told


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
    recheck: Callable[[], Awaitable[None] | None] | None
    until: Callable[[Sequence[ModelMessage]], Awaitable[bool] | bool] | None
    on_change: str
    outer: Thinking | None = None  # of the agent in a tool of which this one is
    scope: AgentScope = field(default_factory=AgentScope)
    schemas: dict[str, str] = field(default_factory=dict)
    known: list[ModelMessage] = field(default_factory=list)
    deferred: set[int] = field(default_factory=set)
    answered: dict[str, Any] = field(default_factory=dict)  # what people said in this attempt, by the key of the wait
    may_have_changed: bool = True
    request: ModelRequestContext | None = None  # the one that the last answer is to
    listed: Listed | None = None
    compared_at: float | None = None  # how long the attempt had waited when it was made sure that nothing changed
    was_sent: bool = False  # the model request that is under way, to a model
    stopped: ScopeStopped | None = None
    mark: Mark = field(default_factory=lambda: Mark(Usage()))
    looked_at: float = 0.0  # how long the attempt had waited when the scope was last looked at

    async def refresh(self) -> None:
        """Look at everything again that may have changed while the run waited. Raises what ``recheck`` raises."""
        scope = await self.scope_now()
        self.scope, self.thread.budget = scope, scope.budget
        if scope.purse is not None:
            purse = self.thread.purse or await self.thread.open_purse(scope.purse)
            if purse.parent != scope.purse:
                raise UsageError(
                    f"Agent {self.thread.name!r} was given a scope that another agent hands on than before. What it "
                    "spends goes on counting to the first one: give it that one's."
                )
        if self.recheck is not None:
            await _awaited(self.recheck())

    async def scope_now(self) -> AgentScope:
        """The scope as it is now. One that was handed on is a value of then: what it comes from is looked at again."""
        scope = self.scoped if isinstance(self.scoped, AgentScope) else await _awaited(self.scoped())
        if not isinstance(scope, AgentScope):
            raise TypeError(f"scope= must give an AgentScope, not {type(scope).__name__}.")
        from_whom = scope.all() if scope.purse is not None else (one for wider in scope.within for one in wider.all())
        for name in dict.fromkeys(one.block for one in from_whom if one.block is not None):
            scope = scope.inside(await scope_named(name)())
        outer = self.outer
        if outer is not None and outer.thread.purse is not None and outer.thread.purse.id == scope.purse:
            scope = scope.inside(await outer.scope_now())
        return scope

    async def parked(self, wait: Callable[[], Awaitable[R]], *, tool_calls: int = 0) -> R:
        """Wait in the own task, and look afterwards whether there is still room for so many calls."""
        answer = await self._waited(wait)
        waited = self.thread.run.paused_seconds
        await self._check_stop()
        await self.check(tool_calls=tool_calls)
        self.looked_at = waited
        return answer

    async def look_again(self) -> None:
        """Directly before a call acts: if the run has waited since, all that may have changed is looked at again.

        Raises ``ScopeStopped``, and what ``recheck`` raises.
        """
        if self.stopped is not None:
            raise self.stopped
        if self.thread.run.paused_seconds != self.looked_at:
            await self._here(self._look_again)
        await stop_if_changed(self)

    async def _look_again(self) -> None:
        while (waited := self.thread.run.paused_seconds) != self.looked_at:
            self.may_have_changed = True
            await self.refresh()
            await self._check_stop()
            await self.check(tool_calls=1)
            self.looked_at = waited

    async def refusal_within(self, tool: str, arguments: dict[str, Any]) -> str | None:
        """Why a call that another tool makes may not act; None if it may, and then it is counted."""
        judged = judge(self, tool, arguments)
        if judged.permission is not Permission.ALLOW:
            return judged.why
        # The call that makes it, or those beside it, are not counted yet.
        short = await self._short(tool_calls=max(self.thread.calls, 1) + 1)
        if short is not None:
            return f"There is no room for it: {short.why}."
        called_within()
        self.thread.spent += Spent(tool_calls=1)
        self.thread.calls -= 1
        return None

    async def left_out(self, ordinal: int, why: str) -> str:
        """Pass by what an earlier attempt has begun of a call that is refused now, and say what of it happened."""
        if not self.thread.left_over(ordinal):
            return why
        happened = await self._here(lambda: self.thread.leave_out(ordinal))
        return f"{why} An earlier try of it has acted: {', '.join(happened)}." if happened else why

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
        # Where nothing is recorded yet, a conversation to go on with, if there is one.
        history = thread.history() if thread.last is not None else thread.messages
        self.known = list(history)
        trace = thread.beginning.trace if thread.beginning is not None else {}
        with joined(trace), stopped_without_ledger(thread.run.id):
            async with self.agent.iter(
                user_prompt=task,
                message_history=history or None,
                deps=self.deps,
                model=self.model,
                usage=usage_before(thread),
                usage_limits=UsageLimits(request_limit=None),
                conversation_id=thread.run.id,
                capabilities=[Recorder(thinking=self), Gate(thinking=self)],
                infer_name=False,
            ) as run:
                node = await taken_up(run, thread, task)
                while not isinstance(node, End):
                    if Agent.is_model_request_node(node):
                        await self._before_request([*run.all_messages(), node.request])
                    elif Agent.is_call_tools_node(node):
                        self.deferred.clear()
                        count_told(thread, run.usage)
                        self.mark = Mark.at(run.usage)
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
        """Whether an earlier attempt has asked about calls of this turn: what people said then counts for them."""
        return self.thread.entry(f"{self.thread.turn}.asks") is not None

    async def tag(self, tool: str, arguments: dict[str, Any]) -> str | None:
        """The digest of what a call is about as of now; None where nobody says."""
        return digest(await _awaited(self.fresh[tool](arguments))) if tool in self.fresh else None

    async def resolve(self, ctx: RunContext[Any], requests: DeferredToolRequests) -> DeferredToolResults:
        """What people and others say about calls that wait for them. Only in the own task."""
        return await asking.resolve(self, ctx, requests)

    async def _before_request(self, messages: list[ModelMessage]) -> None:
        if self.thread.turn < self.thread.recorded:
            return  # it was made before
        await self._check_stop()
        if self.until is not None and self.thread.turn and await _awaited(self.until(messages)):
            raise self._stop("goal", "the goal is reached")
        await self.check(requests=1)
        await self.thread.close_left(f"{self.thread.turn}.")  # all of that turn has come to something

    async def _before_calls(self, calls: Sequence[ToolCallPart]) -> None:
        left = [(n, one) for n, one in enumerate(calls, 1) if not await self.thread.is_done(n, one.tool_name)]
        await stop_before_calls(self, [call for _, call in left])
        left = [(number, call) for number, call in left if call.tool_name in self.schemas]
        for number, call in left:
            if not may_be_called(self.scope, call.tool_name):
                await self.left_out(number, "")  # the model's tools do not have it any more
        to_do = len(left)
        if to_do and self.thread.turn == self.thread.recorded:
            await self._check_stop()  # an earlier attempt has asked the model
        if to_do:
            await self.check(tool_calls=to_do)

    async def _check_stop(self) -> None:
        """Whether a person has sent word to stop: a signal of the topic ``STOP`` with the run's id as its key.

        There is one word for the run, and it stops this agent and all in whose tools it is.
        """
        around = self._around()
        stopped = (one.stopped for one in around)
        known = next((one.why for one in stopped if one is not None and one.what == "person"), None)
        why = known or await self._word(around)
        if why is None:
            return
        for outer in around[1:]:
            outer.stopped = outer.stopped or ScopeStopped(for_people(outer.thread.name), "person", why)
        raise self._stop("person", why)

    async def _word(self, around: Sequence[Thinking]) -> str | None:
        """Take the word in, if it has come. The outermost agent keeps it: the attempts to come see it there before any
        agent goes on, also one that ends before those around it do."""
        keys = [f"{one.thread.turn}.stop" for one in around]
        asked = [(one.thread, key) for one, key in zip(around, keys, strict=True) if one.thread.entry(key) is not None]
        if not asked and not await self.thread.run.ledger.signals.is_kept(STOP, self.thread.run.id):
            return None
        thread, key = asked[0] if asked else (around[-1].thread, keys[-1])
        thread.set_aside()
        word: Signal[Any] = Signal(STOP, key=thread.run.id)
        said = (await self._here(lambda: wait_at(thread.place(key), {"": word})))[""]
        return f"a person stopped it: {said}" if said else "a person stopped it"

    def _around(self) -> list[Thinking]:
        """This one, and those in whose tools it is, the outermost last."""
        return [self, *(self.outer._around() if self.outer is not None else ())]

    def _stop(self, what: str, why: str, remedy: str = "") -> ScopeStopped:
        self.stopped = ScopeStopped(for_people(self.thread.name), what, why, remedy)
        return self.stopped

    def must_fail(self, stopped: ScopeStopped) -> bool:
        """Whether a stop is an error. To have reached the goal, or to be stopped by a person, is none."""
        return stopped.what == "change" or (
            self.scope.at_stop is AtStop.FAIL and stopped.what not in ("goal", "person")
        )

    def _check_time(self) -> None:
        if self.scope.deadline is not None and clock.utcnow() >= self.scope.deadline:
            raise self._stop(
                "deadline",
                f"the deadline {self.scope.deadline.isoformat()} has passed",
                "Set a later one in its scope and retry the run, or let the scope finish at a stop.",
            )

    async def check(self, **more: int) -> None:
        """Raise ``ScopeStopped`` if the scope has no room for so many more requests and calls, and nobody grants it."""
        while True:
            self._check_time()
            short = await self._short(**more)
            if short is None:
                await self.thread.close_left(f"{self.thread.turn}.more.")  # there is more by now
                return
            if self.scope.at_stop is not AtStop.ASK or short.final:
                raise self._stop(short.what, short.why, short.remedy)
            granted = await self._here(lambda short=short: self._ask_for_more(short))  # type: ignore[misc]
            if granted is None:
                raise self._stop(short.what, f"{short.why}, and no more was granted")
            self.thread.grant(granted)

    async def _short(self, *, requests: int = 0, tool_calls: int = 0) -> Short | None:
        """Why there is no room for so many more requests and calls. Where others spend as well, they are set aside."""
        thread = self.thread
        if thread.purse is not None:
            return await thread.purse.draw(requests=requests, tool_calls=tool_calls)
        calls = thread.calls_with(requests, tool_calls)
        short = short_of(thread.limits, thread.spent_now(), requests=requests, tool_calls=calls)
        if short is None:
            thread.calls = calls
        return short

    async def left_to_hand_on(self) -> AgentScope:
        """What is left of the scope, for others, whose spending counts to it from here on."""
        purse = await self.thread.open_purse()
        return self.scope.model_copy(update={"budget": await purse.left(), "purse": purse.id})

    async def _ask_for_more(self, short: Short) -> Budget | None:
        """Ask a person for more; None if there is none to be had. Only in the own task."""
        thread, what, number = self.thread, short.what, 1
        while (place := thread.place(key := f"{thread.turn}.more.{what}.{number}")).key in self.answered or (
            (entry := thread.entry(key)) is not None and entry.state == CheckpointState.RECORDED
        ):
            number += 1
        await thread.close_left(f"{thread.turn}.more.", but=key)
        asking_ = self.scope.asking
        nobody = More(approved=False, comment="Nobody answered in time.")
        timed: dict[str, Any] = {} if asking_.within is None else {"within": asking_.within, "otherwise": nobody}
        question = MoreApproval(self, f"May {for_people(thread.name)} spend more {MORE_IN[what]}?", short, **timed)
        thread.set_aside()
        answer = (await self._waited(lambda: wait_at(place, {"": question})))[""]
        self.answered[place.key] = answer
        return more_budget(what, answer)
