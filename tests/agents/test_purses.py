"""What an agent has set aside and written down for its family, where it ends otherwise than by an output."""

import asyncio
from typing import Any

import pytest
from pydantic_ai import Agent, RunContext
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage

from standby.agents import AtStop, Budget, current_scope, run_agent, waits
from standby.agents.purse import Purse
from standby.agents.thread import Thread
from standby.errors import LedgerUnavailable
from standby.stops import Fenced
from tests.agents.bench import Bench, BenchRun
from tests.agents.conftest import Script, allow, call
from tests.agents.test_families import all_spent


class Delegates:
    """An agent with a tool that has another one work, whose model fails; it catches that. ``errors``: what it caught.

    Each turn is two steps of its own.
    """

    def __init__(self, times: int) -> None:
        def fail(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            raise OSError("the model is down")

        child: Agent[None, str] = Agent(FunctionModel(fail), name="child")
        self.script = Script(*[call("delegate")] * times, "done")
        thinker: Agent[None, str] = Agent(self.script.model, name="thinker")
        self.errors: list[str] = []

        @thinker.tool_plain
        @waits
        async def delegate() -> str:
            try:
                await run_agent(child, "go", scope=(await current_scope()).narrowed(allow("x")))
            except OSError as error:
                self.errors.append(str(error))
            return "x"

        async def work() -> Any:
            scope = allow("delegate", budget=Budget(steps=2 * times + 1), at_stop=AtStop.FINISH)
            return (await run_agent(thinker, "go", scope=scope)).stopped

        self.work = work


async def test_a_child_that_ends_by_an_error_keeps_nothing_set_aside(bench: Bench) -> None:
    delegates = Delegates(4)
    run = await bench.start(delegates.work)
    assert await run.result() is None
    assert delegates.errors == ["the model is down"] * 4
    spent = await all_spent(bench, run)
    assert (spent.requests, spent.tool_calls) == (5, 4)


@pytest.mark.parametrize("error", [LedgerUnavailable("sqlite", "away"), Fenced("a", 1)])
async def test_what_the_child_has_ended_by_is_told_also_where_the_ledger_is_away(
    bench: Bench, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    delegates = Delegates(1)
    close = Purse.close

    async def fails_once(self: Purse) -> None:
        monkeypatch.setattr(Purse, "close", close)
        raise error

    monkeypatch.setattr(Purse, "close", fails_once)
    run = await bench.start(delegates.work)
    assert await run.result() == "steps"
    assert delegates.errors == ["the model is down"]
    assert (await all_spent(bench, run)).requests == 2, "one of them set aside"


class Spends:
    """An agent whose tool spends 1000 tokens, and is cut off with its attempt; that others can spend with it."""

    def __init__(self) -> None:
        self.script = Script(call("ask_others"), "done", tokens=10)
        thinker: Agent[None, str] = Agent(self.script.model, name="thinker")
        self.begun = asyncio.Event()
        self.tries = 0

        @thinker.tool
        async def ask_others(ctx: RunContext[None]) -> str:
            await current_scope()
            ctx.usage.incr(RequestUsage(input_tokens=1000))
            self.tries += 1
            self.begun.set()
            if self.tries == 1:
                await asyncio.Event().wait()
            return "asked"

        async def work() -> Any:
            return (await run_agent(thinker, "go", scope=allow("ask_others"))).spent.tokens

        self.work = work

    async def cancelled(self, run: BenchRun) -> None:
        attempt = asyncio.create_task(run.result())
        await self.begun.wait()
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt


async def test_what_a_call_had_cost_that_is_cut_off_is_known_to_the_family_at_once(bench: Bench) -> None:
    spends = Spends()
    run = await bench.start(spends.work)
    await spends.cancelled(run)
    spent = await all_spent(bench, run)
    assert (spent.tokens, spent.tool_calls) == (1010, 1), "and the call stays set aside: it is made again"
    assert await run.again() == 2020
    spent = await all_spent(bench, run)
    assert (spent.tokens, spent.tool_calls) == (2020, 1)


async def test_it_is_known_to_the_family_before_the_journal_has_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    spends = Spends()
    run = await bench.start(spends.work)

    async def away(self: Thread, *_: Any) -> bool:
        raise LedgerUnavailable("sqlite", "away")

    monkeypatch.setattr(Thread, "_write", away)
    await spends.cancelled(run)
    assert "thinker/1.tried.1.1" not in await run.journal()
    assert (await all_spent(bench, run)).tokens == 1010


@pytest.mark.parametrize("error", [LedgerUnavailable("sqlite", "away"), Fenced("a", 1)])
async def test_a_cancel_is_one_also_where_the_family_cannot_be_told(
    bench: Bench, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    spends = Spends()
    run = await bench.start(spends.work)

    async def fails(self: Purse, *_: Any) -> None:
        raise error

    with monkeypatch.context() as patch:

        async def when_cut_off(self: Thread, *said: Any) -> None:
            patch.setattr(Purse, "spend", fails)
            await cut_off(self, *said)

        cut_off = Thread.cut_off
        patch.setattr(Thread, "cut_off", when_cut_off)
        await spends.cancelled(run)
    assert "thinker/1.tried.1.1" not in await run.journal()
    assert await run.again() == 1020
