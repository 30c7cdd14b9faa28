"""An agent in a tool of another whose run is parked or killed in the middle: it comes to the same end as one that is
not, and all of them together never to more than the one at the top may spend."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage
from sqlalchemy import delete

from standby import agent, clock
from standby.agents import AgentScope, AtStop, Budget, current_scope, run_agent, waits
from standby.errors import ScopeStopped
from standby.ledger.tables import Checkpoint, table_of
from tests.agents.bench import Bench, BenchRun
from tests.agents.conftest import Script, allow, ask, call
from tests.agents.test_families import Clock, all_spent
from tests.agents.test_stops import Looker
from tests.fundamentals.conftest import Desk, Interruption

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


class Moments:
    """Counts what is come by, and kills the attempt that comes to the one with this number: nothing of it is told."""

    def __init__(self, last: int | None = None) -> None:
        self.last, self.passed = last, 0
        self.attempt: asyncio.Task[Any] | None = None

    async def come(self) -> None:
        self.passed += 1
        if self.passed == self.last:
            assert self.attempt is not None
            self.attempt.cancel()
            await asyncio.Event().wait()

    async def killed(self, run: BenchRun) -> None:
        self.attempt = asyncio.create_task(run.result())
        with pytest.raises(asyncio.CancelledError):
            await self.attempt


class Tree:
    """Three agents, each in a tool of the one before; the one in the middle starts two, one after the other.

    ``handed``: what ``current_scope`` said at each place, in all attempts.
    """

    def __init__(self, budget: Budget, moments: Moments) -> None:
        self.budget, self.moments = budget, moments
        self.handed: dict[str, set[Budget]] = defaultdict(set)
        self.acted: list[str] = []

    def agent(self, name: str, *lines: Any) -> Agent[None, str]:
        async def say(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
            await self.moments.come()
            line = lines[sum(isinstance(message, ModelResponse) for message in messages)]
            parts: Any = line if isinstance(line, list) else [TextPart(line)]
            return ModelResponse(parts=parts, usage=RequestUsage(input_tokens=10))

        thinker: Agent[None, str] = Agent(FunctionModel(say, model_name="scripted"), name=name)

        @thinker.tool_plain
        async def look() -> str:
            await self.moments.come()
            return "x"

        @thinker.tool_plain
        async def act() -> str:
            await self.moments.come()
            self.acted.append(name)
            return "x"

        return thinker

    async def left(self, place: str, *, but: int = 0) -> AgentScope:
        """What is left to hand on; without some steps, if there is a limit to them."""
        scope = await current_scope()
        self.handed[place].add(scope.budget)
        steps = scope.budget.steps
        budget = Budget(steps=None if steps is None else steps - but)
        return scope.narrowed(allow("look", "act", "delegate", budget=budget))

    async def low(self, name: str, *, but: int) -> str:
        worker = self.agent(name, [call("look"), call("look")], [call("act")], f"{name} is done")
        return (await run_agent(worker, "go", scope=await self.left(name, but=but))).output or "nothing"

    async def middle(self) -> str:
        boss = self.agent("middle", [call("delegate")], "both are done")

        @boss.tool_plain
        @waits
        async def delegate() -> str:
            first = await self.low("first", but=11)
            await self.moments.come()
            second = await self.low("second", but=5)
            await self.moments.come()
            return f"{first}, {second}"

        return (await run_agent(boss, "go", scope=await self.left("middle"))).output or "nothing"

    async def work(self) -> str | None:
        top = self.agent("top", [call("look"), call("delegate")], [call("look")], "all is done")

        @top.tool_plain
        @waits
        async def delegate() -> str:
            await self.moments.come()
            return await self.middle()

        return (await run_agent(top, "go", scope=allow("look", "delegate", "act", budget=self.budget))).output


JUST_ENOUGH = Budget(steps=21, tool_calls=10, tokens=101)


async def test_a_tree_that_is_killed_anywhere_comes_to_the_end_that_it_comes_to_anyway(bench: Bench) -> None:
    """With a budget that is just enough: nothing is charged twice, and nothing is forgotten."""
    warm = Tree(JUST_ENOUGH, Moments())
    run = await bench.start(warm.work)
    assert await run.result() == "all is done"
    whole = await all_spent(bench, run)
    assert (whole.requests, whole.tool_calls, whole.tokens) == (11, 10, 110)
    for last in range(1, warm.moments.passed + 1):
        cold = Tree(JUST_ENOUGH, Moments(last))
        run = await bench.start(cold.work)
        await cold.moments.killed(run)
        assert await run.again() == "all is done", f"killed at {last}"
        assert cold.acted == ["first", "second"]
        spent = await all_spent(bench, run)
        assert (spent.requests, spent.tool_calls, spent.tokens) == (11, 10, 110), f"killed at {last}"
        assert {place: len(seen) for place, seen in cold.handed.items()} == dict.fromkeys(warm.handed, 1)
        for place in ("first", "second"):
            assert cold.handed[place] == warm.handed[place], f"killed at {last}"


@pytest.mark.parametrize(
    "budget", [Budget(steps=20), Budget(tool_calls=9), Budget(tokens=91)], ids=["steps", "tool_calls", "tokens"]
)
async def test_a_tree_that_is_killed_has_no_more_than_one_that_is_not(bench: Bench, budget: Budget) -> None:
    warm = Tree(budget, Moments())
    run = await bench.start(warm.work)
    with pytest.raises(ScopeStopped):
        await run.result()
    for last in range(1, warm.moments.passed + 1, 4):
        cold = Tree(budget, Moments(last))
        run = await bench.start(cold.work)
        await cold.moments.killed(run)
        with pytest.raises(ScopeStopped):
            await run.again()
        spent = await all_spent(bench, run)
        assert spent.steps <= 20
        assert spent.tool_calls <= (budget.tool_calls or 10)
        assert spent.tokens <= 100


async def test_a_journal_of_before_what_was_spent_by_then_was_kept_does_as_well(bench: Bench) -> None:
    """What those that the attempt has not come to have spent is not taken off for them."""
    for last in (8, 12, 15, 18):
        cold = Tree(JUST_ENOUGH, Moments(last))
        run = await bench.start(cold.work)
        await cold.moments.killed(run)
        checkpoints = table_of(Checkpoint)
        async with bench.ledger.database.transaction() as connection:
            await connection.execute(delete(checkpoints).where(checkpoints.c.key.like("%.left.%")))
        assert await run.again() == "all is done"
        assert {place: len(seen) for place, seen in cold.handed.items()} == {"middle": 1, "first": 1, "second": 1}


class Pair:
    """An agent that has another one in its tool, which acts when it may. ``handed``: what was handed on, each time."""

    def __init__(self, scope: Any, *lines: Any, child: AgentScope | None = None) -> None:
        self.handed: list[AgentScope] = []
        self.acted = 0
        self.scripts = Script(call("delegate"), "done"), Script(*(lines or (call("act"), "child done")))
        self.top, self.low = (
            Agent[None, str](one.model, name=name) for one, name in zip(self.scripts, ("top", "child"), strict=True)
        )

        @self.low.tool_plain
        async def act() -> str:
            self.acted += 1
            return "x"

        @self.top.tool_plain
        @waits
        async def delegate() -> str:
            scope = await current_scope()
            self.handed.append(scope)
            mine = scope.narrowed(child or scope)
            return (await run_agent(self.low, "go", scope=mine)).output or "nothing"

        async def work() -> str | None:
            return (await run_agent(self.top, "go", scope=scope)).output

        self.work, self.flow = work, agent(work)

    @property
    def left(self) -> list[Budget]:
        return [scope.budget for scope in self.handed]


async def test_a_child_that_is_parked_goes_on_with_what_it_had(desk: Desk) -> None:
    """Its own steps are not taken off what it has a second time when the run wakes in another attempt."""
    scope = AgentScope(tools=(*allow("delegate", "look").tools, *ask("act").tools), budget=Budget(steps=8, tokens=41))
    pair = Pair(scope, call("look"), call("act"), "child done")

    @pair.low.tool_plain
    async def look() -> str:
        return "x"

    run = await desk.start(pair.flow)
    await run.open_waits()
    assert run.attempt is not None
    run.attempt.cancel()
    with pytest.raises(BaseException):  # noqa: B017 - however Prefect ends a cancelled attempt
        await run.attempt
    run.begin()
    await run.answer({"approved": True})
    assert await run.result() == "done"
    assert pair.acted == 1
    assert pair.left == [Budget(steps=7, tokens=31)] * 2


async def test_a_limit_that_is_raised_is_raised_for_those_in_the_tools_as_well(bench: Bench) -> None:
    scope = allow("delegate", "act", budget=Budget(steps=4))

    async def read() -> AgentScope:
        return scope

    pair = Pair(read)
    run = await bench.start(pair.work)
    with pytest.raises(ScopeStopped, match="steps are spent"):
        await run.result()
    scope = allow("delegate", "act", budget=Budget(steps=6))
    assert await run.again() == "done"
    assert pair.left == [Budget(steps=3), Budget(steps=5)]
    assert (await all_spent(bench, run)).steps == 6


async def test_a_call_that_begins_again_in_the_same_attempt_hands_on_what_it_did(desk: Desk) -> None:
    """Its scope asks about it by then, and it goes through its first lines again when it is approved."""
    scope = AgentScope(tools=(*allow("delegate", "look").tools, *ask("act").tools), budget=Budget(steps=6))

    async def read() -> AgentScope:
        return scope

    pair = Pair(read)
    run = await desk.start(pair.flow)
    await run.open_waits()
    scope = AgentScope(tools=ask("delegate", "act").tools, budget=Budget(steps=6))
    await run.answer({"approved": True})
    await run.answer({"approved": True}, key="top/1.asks")
    assert await run.result() == "done"
    assert pair.left == [Budget(steps=5)] * 2


async def test_what_a_child_was_spending_when_it_died_does_not_stop_those_above_it(
    bench: Bench, interruption: Interruption
) -> None:
    """A request counts as what others took until it is done; it is made again, by the child itself."""

    def dies(_: Any) -> str:
        interruption()
        return "child done"

    pair = Pair(allow("delegate", "act", budget=Budget(tokens=60)), dies)
    pair.scripts[0].tokens, pair.scripts[1].tokens = 40, 1
    pair.scripts[0].lines = (
        call("delegate"),
        ModelResponse(parts=[TextPart("done")], usage=RequestUsage(input_tokens=5)),
    )
    run = await bench.interrupted(pair.work)
    assert await run.again() == "done"
    assert (await all_spent(bench, run)).tokens == 46


async def test_money_that_a_child_has_spent_is_taken_off_once(bench: Bench, interruption: Interruption) -> None:
    def costs(said: Any) -> ModelResponse:
        parts: Any = [said if not isinstance(said, str) else TextPart(said)]
        return ModelResponse(parts=parts, usage=RequestUsage(input_tokens=1, output_tokens=1, cost=Decimal("0.3")))

    def dies(_: Any) -> ModelResponse:
        interruption()
        return costs("child done")

    scope = allow("delegate", "act", budget=Budget(money=Decimal("1")))
    pair = Pair(scope, costs(call("act")), dies)
    pair.scripts[0].lines = (costs(call("delegate")), costs("done"))
    run = await bench.interrupted(pair.work)
    assert await run.again() == "done"
    assert pair.left == [Budget(money=Decimal("0.7"))] * 2


async def test_time_at_work_of_a_child_is_taken_off_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, interruption: Interruption
) -> None:
    time = Clock(monkeypatch)

    def takes(line: Any, *, dies: bool = False) -> Callable[[Any], Any]:
        def said(_: Any) -> Any:
            if dies:
                interruption()
            time.now += 4
            return line

        return said

    scope = allow("delegate", "act", budget=Budget(running=timedelta(seconds=11)))
    pair = Pair(scope, takes(call("act")), takes("child done", dies=True))
    run = await bench.interrupted(pair.work)
    assert await run.again() == "done"
    assert pair.left == [Budget(running=timedelta(seconds=11))] * 2


@pytest.fixture
def day() -> Iterator[Callable[[float], None]]:
    """Sets the clock to so many days after a noon."""
    at = NOON
    clock.set_source(lambda: at)

    def later(days: float) -> None:
        nonlocal at
        at = NOON + timedelta(days=days)

    yield later
    clock.set_source(None)


async def test_time_that_a_child_has_waited_is_taken_off_once(
    bench: Bench, interruption: Interruption, day: Callable[[float], None]
) -> None:
    """The limit of a week is over after a week, not after half of one."""

    def dies(_: Any) -> str:
        interruption()
        return "child done"

    pair = Pair(allow("delegate", "act", budget=Budget(wall=timedelta(days=7))), call("act"), dies)
    run = await bench.interrupted(pair.work)
    day(5)
    assert await run.again() == "done"
    assert pair.left == [Budget(wall=timedelta(days=7))] * 2


async def test_those_that_race_beside_a_child_that_goes_on_have_what_is_left_of_it(
    bench: Bench, interruption: Interruption
) -> None:
    """One in the tool, and two in runs of their own that were started from there."""

    def dies(_: Any) -> Any:
        interruption()
        return call("act")

    at_end: Any = {"at_stop": AtStop.FINISH}
    scope = allow("delegate", "act", "look", budget=Budget(steps=15), **at_end)
    pair = Pair(scope, call("act"), dies, *[call("act")] * 9, child=allow("act", **at_end))
    run = await bench.interrupted(pair.work)
    others = [Looker(pair.handed[0].narrowed(allow("look", **at_end)), *[call("look")] * 12) for _ in range(2)]
    runs = [await bench.start(other.work) for other in others]
    assert await asyncio.gather(*(one.result() for one in (run, *runs))) == [None, "steps", "steps"]
    assert pair.left[1] == pair.left[0]
    assert (await all_spent(bench, run, *runs)).steps == 15
    made = sum(script.asked for script in (*pair.scripts, *(other.script for other in others)))
    called = 2 + pair.acted + sum(other.looked for other in others)
    assert made - 1 + called == 15, "the call that ended by an error counts, the request that was not answered does not"
