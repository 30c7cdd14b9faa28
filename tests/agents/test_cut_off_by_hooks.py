"""Calls that a hook of the agent cuts off while they act, or makes again: each try is a call, and counted once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic_ai import Agent, ModelRetry, RunContext
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import ToolRetryError
from pydantic_ai.usage import RequestUsage

from standby import agent, step
from standby.agents import AgentScope, AtStop, Budget, current_scope, run_agent, waits
from standby.agents.thread import Thread
from standby.agents.transcript import threads_of
from standby.errors import ScopeStopped
from standby.places import Place
from standby.runs import AgentRun
from tests.agents.bench import Bench, BenchRun
from tests.agents.conftest import Said, Script, allow, ask, call
from tests.agents.test_families import all_spent
from tests.fundamentals.conftest import Desk, Interrupted, Interruption
from tests.support.waiting import wait_until

Handler = Callable[[Any], Awaitable[Any]]
LIMIT = 1.0  # within which a busy machine begins with a call


async def by_timeout(handler: Handler, args: Any) -> Any:
    async with asyncio.timeout(LIMIT):
        return await handler(args)


async def by_wait_for(handler: Handler, args: Any) -> Any:
    """In some versions of Python a task of its own."""
    return await asyncio.wait_for(handler(args), LIMIT)


async def by_shield(handler: Handler, args: Any) -> Any:
    """Goes on without it, and does not cut it off."""
    return await asyncio.wait_for(asyncio.shield(handler(args)), LIMIT)


async def nothing() -> None: ...


class Limit(AbstractCapability[Any]):
    """Cuts calls of ``dream`` off by a time limit. ``then``: what becomes of it, from how to make the call again."""

    def __init__(self, limited: Callable[[Handler, Any], Awaitable[Any]] = by_timeout) -> None:
        self.limited = limited
        self.catches = True
        self.between: Callable[[], Awaitable[None]] = nothing
        self.tries = 1

    async def wrap_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, handler: Handler) -> Any:
        if call.tool_name != "dream":
            return await handler(args)
        for _ in range(self.tries):
            try:
                return await self.limited(handler, args)
            except (TimeoutError, ValueError):
                if not self.catches:
                    raise
                await self.between()
        return "too late"


class Dreamer:
    """An agent whose tool ``dream`` never returns by itself, but from the try ``wakes`` on. ``acted``: its tries."""

    def __init__(self, *lines: Said | Callable[[Any], Said], limit: Limit | None = None, **scope: Any) -> None:
        self.script = Script(*lines)
        self.limit = limit or Limit()
        self.scope: AgentScope = allow("dream", "look", **{"at_stop": AtStop.FINISH} | scope)
        self.thinker: Agent[None, str] = Agent(self.script.model, name="thinker", capabilities=[self.limit])
        self.acted = 0
        self.wakes: float = float("inf")
        self.fails = False
        self.result: Any = None

        @self.thinker.tool
        async def dream(ctx: RunContext[None]) -> str:
            self.acted += 1
            ctx.usage.incr(RequestUsage(input_tokens=1000))
            if self.acted < self.wakes:
                if self.fails:
                    raise ValueError("a bad dream")
                await asyncio.Event().wait()
            return "a good dream"

    async def work(self) -> Any:
        self.result = await run_agent(self.thinker, "go", scope=self.scope)
        return self.result.stopped

    async def counted(self, run: BenchRun) -> tuple[int, int]:
        """Calls and tokens, as the agent and its transcript have them alike."""
        [thread] = threads_of(await run.bench.ledger.checkpoints.journal(run.id))
        spent = self.result.spent
        assert (thread["tool_calls"], thread["tokens"]) == (spent.tool_calls, spent.tokens)
        return spent.tool_calls, spent.tokens


@pytest.mark.parametrize("limited", [by_timeout, by_wait_for])
async def test_a_call_that_a_hook_cuts_off_is_a_call(bench: Bench, limited: Any) -> None:
    dreamer = Dreamer(call("dream"), call("dream"), "done", limit=Limit(limited), budget=Budget(tool_calls=1))
    run = await bench.start(dreamer.work)
    assert await run.result() == "tool_calls"
    assert dreamer.acted == 1
    assert await dreamer.counted(run) == (1, 1020)


@pytest.mark.parametrize("limited", [by_timeout, by_wait_for])
async def test_it_is_counted_once_and_not_made_again_after_a_crash(
    bench: Bench, interruption: Interruption, limited: Any
) -> None:
    dreamer = Dreamer(
        call("dream"), lambda _: interruption() or "done", limit=Limit(limited), budget=Budget(tool_calls=1)
    )
    run = await bench.interrupted(dreamer.work)
    [thread] = threads_of(await bench.ledger.checkpoints.journal(run.id))
    assert [one["outcome"] for one in thread["turns"][0]["calls"]] == ["cut off"]
    assert await run.again() is None
    assert dreamer.acted == 1
    assert dreamer.script.told() == [("dream", "too late", "success")]
    assert await dreamer.counted(run) == (1, 1020)


async def test_it_is_over_while_another_call_beside_it_still_acts(bench: Bench, interruption: Interruption) -> None:
    dreamer = Dreamer([call("dream"), call("look")], "done", budget=Budget(tool_calls=2))
    run = await bench.start(dreamer.work)

    async def is_over() -> bool:
        return "thinker/1.1.dream" in await run.journal()

    @dreamer.thinker.tool_plain
    async def look() -> str:
        await wait_until(is_over)
        interruption()
        return "seen"

    with pytest.raises(Interrupted):
        await run.result()
    dreamer.scope = allow("dream", "look", budget=Budget(tool_calls=3))
    assert await run.again() is None
    assert dreamer.acted == 1
    assert await dreamer.counted(run) == (3, 1020), "look was tried twice"


async def test_where_the_limit_is_an_error_that_ends_the_run_a_retry_tries_it_again(bench: Bench) -> None:
    dreamer = Dreamer(call("dream"), "done", budget=Budget(tool_calls=2), at_stop=AtStop.FAIL)
    dreamer.limit.catches = False
    dreamer.wakes = 3
    run = await bench.start(dreamer.work)
    for acted in (1, 2):
        with pytest.raises(TimeoutError):
            await run.result()
        assert dreamer.acted == acted
    with pytest.raises(ScopeStopped, match="2 of 2 tool calls are spent"):
        await run.again()
    dreamer.scope = allow("dream", budget=Budget(tool_calls=3))
    assert await run.again() is None
    assert dreamer.acted == 3
    assert await dreamer.counted(run) == (3, 3020)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_hook_that_makes_a_call_again_makes_one_more(bench: Bench, fails: bool) -> None:
    dreamer = Dreamer(call("dream"), call("dream"), "done", budget=Budget(tool_calls=2))
    dreamer.limit.tries, dreamer.wakes, dreamer.fails = 3, 2, fails
    run = await bench.start(dreamer.work)
    assert await run.result() == "tool_calls"
    assert dreamer.acted == 2
    assert dreamer.script.told() == [("dream", "a good dream", "success")]
    assert await dreamer.counted(run) == (2, 2020)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_hook_may_do_more_before_it_makes_a_call_again(bench: Bench, fails: bool) -> None:
    """By which the error that it has caught would be a part of the path."""
    dreamer = Dreamer(call("dream"), "done")
    dreamer.limit.tries, dreamer.wakes, dreamer.fails = 2, 2, fails

    @step(visible=False)
    async def take_a_breath() -> None: ...

    dreamer.limit.between = take_a_breath.with_options(key="breath")
    run = await bench.start(dreamer.work)
    assert await run.result() is None
    assert dreamer.script.told() == [("dream", "a good dream", "success")]
    assert await dreamer.counted(run) == (2, 2020)
    assert "failed" not in (await run.journal()).values()


@pytest.mark.parametrize("fails", [False, True])
async def test_a_hook_does_not_make_a_call_more_often_than_it_may(bench: Bench, fails: bool) -> None:
    dreamer = Dreamer(call("dream"), "done", budget=Budget(tool_calls=2))
    dreamer.limit.tries, dreamer.fails = 3, fails
    run = await bench.start(dreamer.work)
    assert await run.result() == "tool_calls"
    assert dreamer.acted == 2
    assert await dreamer.counted(run) == (2, 2010)


async def test_an_error_that_a_hook_has_caught_needs_no_room_after_a_crash(
    bench: Bench, interruption: Interruption
) -> None:
    dreamer = Dreamer(call("dream"), lambda _: interruption() or "done", budget=Budget(tool_calls=1))
    dreamer.fails = True
    run = await bench.interrupted(dreamer.work)
    assert await run.again() is None
    assert dreamer.acted == 1
    assert await dreamer.counted(run) == (1, 1020)


async def test_a_call_that_is_cut_off_while_it_is_written_down_is_counted_once(
    bench: Bench, interruption: Interruption, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent has gone on without its value, and goes on without it after a crash."""
    record = AgentRun.record

    async def and_hangs(self: AgentRun, place: Place, text: str) -> None:
        await record(self, place, text)
        if place.key == "thinker/1.1.dream":
            await asyncio.Event().wait()

    monkeypatch.setattr(AgentRun, "record", and_hangs)
    dreamer = Dreamer(call("dream"), lambda _: interruption() or "done", budget=Budget(tool_calls=1))
    dreamer.wakes = 1
    run = await bench.interrupted(dreamer.work)
    assert await run.again() is None
    assert dreamer.acted == 1
    assert dreamer.script.told() == [("dream", "too late", "success")]
    assert await dreamer.counted(run) == (1, 1020)


async def test_a_call_that_is_cut_off_while_its_error_is_written_down_is_counted_once(
    bench: Bench, interruption: Interruption, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, cut_off = Thread.tried, asyncio.Event()

    async def until_cut_off(self: Thread, *said: Any) -> None:
        await tried(self, *said)
        await cut_off.wait()

    async def limited(handler: Handler, args: Any) -> Any:
        async with asyncio.timeout(LIMIT):
            asyncio.get_running_loop().call_later(LIMIT, cut_off.set)  # directly after the limit's own timer
            return await handler(args)

    monkeypatch.setattr(Thread, "tried", until_cut_off)
    dreamer = Dreamer(
        call("dream"), lambda _: interruption() or "done", limit=Limit(limited), budget=Budget(tool_calls=1)
    )
    dreamer.fails = True
    run = await bench.interrupted(dreamer.work)
    assert await run.again() is None
    assert dreamer.acted == 1
    assert dreamer.script.told() == [("dream", "too late", "success")]
    assert await dreamer.counted(run) == (1, 1020)


async def test_what_was_set_aside_for_it_is_spent_and_not_under_way_any_more(bench: Bench) -> None:
    dreamer = Dreamer([call("dream"), call("look")], "done", budget=Budget(tool_calls=5))
    run = await bench.start(dreamer.work)
    seen: list[int] = []

    async def is_over() -> bool:
        return "thinker/1.1.dream" in await run.journal()

    @dreamer.thinker.tool_plain
    async def look() -> str:
        await wait_until(is_over)
        await current_scope()
        seen.append((await all_spent(bench, run)).tool_calls)
        return "seen"

    assert await run.result() is None
    assert seen == [2], "with this one, which is under way"


async def test_an_approved_call_that_is_cut_off_is_over_after_a_crash(desk: Desk, interruption: Interruption) -> None:
    dreamer = Dreamer(call("dream"), lambda _: interruption() or "done")
    dreamer.scope = ask("dream", budget=Budget(tool_calls=1))

    @agent
    async def dreaming() -> Any:
        return await dreamer.work()

    run = await desk.start(dreaming)
    await run.answer({"approved": True}, key="thinker/1.asks")
    with pytest.raises(Interrupted):
        await run.result()
    run.begin()
    assert await run.result() is None
    assert dreamer.acted == 1
    assert dreamer.script.told() == [("dream", "too late", "success")]
    assert dreamer.result.spent.tool_calls == 1


@pytest.mark.parametrize("kind", [waits, lambda tool: tool], ids=["in the own task", "beside it"])
@pytest.mark.parametrize("retry", [False, True])
async def test_a_call_that_has_come_to_something_is_not_made_again(
    bench: Bench, interruption: Interruption, kind: Any, retry: bool
) -> None:
    """Now as after a crash: the hook is given what it came to."""
    seen: list[Any] = []
    acted: list[int] = []

    class Twice(AbstractCapability[Any]):
        async def wrap_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, handler: Handler) -> Any:
            for _ in range(2):
                try:
                    seen.append(await handler(args))
                except ToolRetryError:
                    seen.append("retried")
            return seen[-1]

    script = Script(call("look"), lambda _: interruption() or "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker", capabilities=[Twice()])

    async def look() -> str:
        acted.append(1)
        if retry:
            raise ModelRetry("again")
        return f"seen {len(acted)}"

    thinker.tool_plain(kind(look))

    async def work() -> int:
        return (await run_agent(thinker, "go", scope=allow("look"))).spent.tool_calls

    run = await bench.interrupted(work)
    assert await run.again() == 1
    assert (seen, acted) == (["retried" if retry else "seen 1"] * 4, [1])


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("kind", "limited"), [(waits, by_timeout), (lambda tool: tool, by_shield)])
async def test_a_call_that_a_hook_does_not_cut_off_is_over_before_the_agent_goes_on(
    bench: Bench, fails: bool, kind: Any, limited: Any
) -> None:
    """What comes after the time limit does not act beside it, uncounted."""
    script, late = Script(call("order"), call("look"), "done"), asyncio.Event()
    looked: list[int] = []
    ordered: list[int] = []

    class Late(AbstractCapability[Any]):
        async def wrap_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, handler: Handler) -> Any:
            try:
                return await limited(handler, args)
            except TimeoutError:
                late.set()
                if fails:
                    raise ModelRetry("too late") from None
                return "too late"

    thinker: Agent[None, str] = Agent(script.model, name="thinker", capabilities=[Late()])

    @thinker.tool_plain
    @kind
    async def order() -> str:
        await late.wait()
        for _ in range(1000):  # by then the model would have been asked, and the other tool called
            await asyncio.sleep(0)
        ordered.append(1)
        return "ordered"

    @thinker.tool_plain
    async def look() -> str:
        looked.append(1)
        return "seen"

    async def work() -> Any:
        scope = allow("order", "look", budget=Budget(tool_calls=1), at_stop=AtStop.FINISH)
        found = await run_agent(thinker, "go", scope=scope)
        return [found.stopped, found.spent.tool_calls]

    assert await bench.run(work) == ["tool_calls", 1]
    assert (ordered, looked) == ([1], [])
    assert script.asked == 2
