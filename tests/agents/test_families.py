"""What an agent and those it starts spend together never is more than it may: whatever races, and whoever dies."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent

from standby.agents import AgentScope, AtStop, Budget, costs, current_scope, recorder, run_agent, waits
from standby.agents.budgets import Spent
from standby.agents.families import Member, aside, left_in, short_in, together
from standby.agents.purse import _spent
from standby.agents.thread import Thread
from standby.errors import UsageError
from standby.ledger import Ledger
from standby.runs import current_run
from standby.stops import Left
from tests.agents.bench import Bench, BenchRun
from tests.agents.conftest import Script, allow, call, raising
from tests.agents.test_stops import Looker
from tests.fundamentals.conftest import Interrupted, Interruption

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.fixture
async def bench(ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """On each kind of database."""
    monkeypatch.setenv("STANDBY_LEDGER_URL", ledger_url)
    monkeypatch.setenv("STANDBY_HOME", str(tmp_path / "home"))
    ledger = await Ledger.connect(ledger_url)
    yield Bench(ledger, ledger_url)
    await ledger.close()


class Starter:
    """An agent that hands its scope on, and is killed there, in its first turn. ``handed``: what it gave."""

    def __init__(self, **scope: Any) -> None:
        self.script = Script(call("hand_on"), "done")
        self.handed: list[AgentScope] = []
        self.result: Any = None
        die = Interruption()
        thinker: Agent[None, str] = Agent(self.script.model, name="starter")

        @thinker.tool_plain
        @waits
        async def hand_on() -> str:
            self.handed.append(await current_scope())
            die()
            return "x"

        async def work() -> str | None:
            self.result = await run_agent(thinker, "go", scope=allow("hand_on", "look", **scope))
            return self.result.stopped

        self.work = work


async def all_spent(bench: Bench, *runs: BenchRun) -> Spent:
    """What the ledger has of these, with what is set aside."""
    rows = [row for run in runs for row in await bench.ledger.purses.of_run(run.id)]
    return sum((_spent.validate_json(row.spent) + _spent.validate_json(row.under_way) for row in rows), Spent())


@pytest.mark.parametrize(
    ("budget", "requests", "tool_calls"),
    [
        (Budget(steps=11), None, None),
        (Budget(tool_calls=6), None, 5),
        (Budget(tokens=65), 6, None),
    ],
    ids=["steps", "tool_calls", "tokens"],
)
async def test_two_that_race_for_the_last_of_it_do_not_get_more_than_is_left(
    bench: Bench, budget: Budget, requests: int | None, tool_calls: int | None
) -> None:
    """Each could have it all alone. The last request may go over a limit in tokens, and one of them makes it."""
    starter = Starter(budget=budget, at_stop=AtStop.FINISH)
    run = await bench.interrupted(starter.work)
    children = [
        Looker(starter.handed[0].narrowed(allow("look", at_stop=AtStop.FINISH)), *[call("look")] * 12) for _ in range(2)
    ]
    runs = [await bench.start(child.work) for child in children]
    [what] = budget.model_dump(exclude_none=True)
    assert await asyncio.gather(*(one.result() for one in runs)) == [what, what]
    asked, looked = sum(child.script.asked for child in children), sum(child.looked for child in children)
    if what == "steps":
        assert asked + looked == 9
    assert requests in (None, asked)
    assert tool_calls in (None, looked)
    assert await run.again() == what, "nor has the one that started them"
    assert starter.script.asked == 1
    assert "with the agents it started" in starter.result.why
    assert len(starter.handed) == 1


async def test_what_a_child_had_left_is_there_for_the_next(bench: Bench) -> None:
    """Nothing is lost by handing it on."""
    starter = Starter(budget=Budget(steps=9))
    await bench.interrupted(starter.work)
    for left in (7, 5, 3):
        child = Looker(starter.handed[0].narrowed(allow("look")), call("look"), "done")
        run = await bench.start(child.work)
        if left > 3:
            assert await run.result() is None
        child = Looker(starter.handed[0].narrowed(allow("look", budget=Budget(steps=0), at_stop=AtStop.FINISH)))
        assert await bench.run(child.work) == "steps", "and who spends nothing takes nothing away"
    last = Looker(starter.handed[0].narrowed(allow("look", at_stop=AtStop.FINISH)))
    # 2 of the starter's own (one set aside), 2 children of 3 steps each.
    assert await bench.run(last.work) == "steps"
    assert (last.script.asked, last.looked) == (1, 0)
    assert last.result is not None
    assert "the agent that started it has no more to spend" in last.result.why


async def test_nobody_is_asked_for_more_where_more_would_not_help(bench: Bench) -> None:
    """A person may grant a child more, and it still has no more than the agent that started it."""
    starter = Starter(budget=Budget(steps=3), at_stop=AtStop.ASK)
    await bench.interrupted(starter.work)
    scope = starter.handed[0].model_copy(update={"budget": Budget()})
    child = Looker(scope.narrowed(allow("look", at_stop=AtStop.ASK)))
    run = await bench.start(child.work)
    assert await run.result() == "steps"
    assert child.script.asked == 1
    assert not any("more" in key for key in await run.journal())


async def test_what_a_child_was_spending_when_it_died_is_not_there_for_others(bench: Bench) -> None:
    """The request that it died in counts as what others took, until its run is retried and the journal says."""
    starter = Starter(budget=Budget(tokens=100))
    await bench.interrupted(starter.work)

    dies = raising(Left("run"), then="done")  # no error: after one nothing stays set aside
    child = Looker(starter.handed[0].narrowed(allow("look")), call("look"), dies)
    run = await bench.start(child.work)
    with pytest.raises(Left):
        await run.result()
    assert (await all_spent(bench, run)).tokens == 20
    assert await run.again() is None
    spent = await all_spent(bench, run)
    assert (spent.requests, spent.tool_calls, spent.tokens) == (2, 1, 20), "and nothing is counted twice"


async def test_what_a_request_has_cost_is_known_before_the_journal_has_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a process that dies between the two has spent it all the same."""
    starter = Starter(budget=Budget(tokens=100))
    await bench.interrupted(starter.work)
    child = Looker(starter.handed[0].narrowed(allow("look")), "done")
    child.script.tokens = 70
    run = await bench.start(child.work)
    spend = Thread.spend

    async def and_dies(self: Thread, *said: Any) -> None:
        await spend(self, *said)
        raise Interrupted("between the two")

    with monkeypatch.context() as patch:
        patch.setattr(Thread, "spend", and_dies)
        with pytest.raises(Interrupted):
            await run.result()
    assert (await all_spent(bench, run)).tokens == 70
    assert await run.again() is None
    assert (await all_spent(bench, run)).tokens == 70


async def test_an_agent_in_a_tool_of_another_spends_what_that_has(bench: Bench) -> None:
    """Through as many agents as there are between."""
    scripts = [Script(call("delegate"), "done"), Script(call("delegate"), "done"), Script(*[call("look")] * 9)]
    top, middle, low = (Agent(one.model, name=name) for one, name in zip(scripts, ("top", "mid", "low"), strict=True))
    inner: list[Any] = []

    @low.tool_plain
    async def look() -> str:
        return "x"

    async def delegated(to: Agent[None, str]) -> str:
        scope = (await current_scope()).narrowed(allow("look", "delegate", at_stop=AtStop.FINISH))
        inner.append(await run_agent(to, "go", scope=scope))
        return "x"

    @middle.tool_plain(name="delegate")
    @waits
    async def to_low() -> str:
        return await delegated(low)

    @top.tool_plain(name="delegate")
    @waits
    async def to_middle() -> str:
        return await delegated(middle)

    async def work() -> Any:
        scope = allow("look", "delegate", budget=Budget(steps=10), at_stop=AtStop.FINISH)
        return (await run_agent(top, "go", scope=scope)).stopped

    assert await bench.run(work) == "steps"
    assert [one.stopped for one in inner] == ["steps", "steps"]
    assert sum(one.spent.steps for one in inner) == 8, "and two of the one at the top"
    assert [one.asked for one in scripts] == [1, 1, 3]


async def test_a_scope_that_no_agent_of_this_ledger_handed_on_does_nothing(bench: Bench) -> None:
    child = Looker(allow("look", purse="somebody's"))
    with pytest.raises(UsageError, match="this ledger knows nothing of that one"):
        await bench.run(child.work)
    assert child.script.asked == 0


async def test_it_stays_with_the_one_that_started_it(bench: Bench, interruption: Interruption) -> None:
    """A run that is tried again under another's scope would spend what the first one does not see."""
    starters = [Starter(budget=Budget(tokens=100)) for _ in range(2)]
    for starter in starters:
        await bench.interrupted(starter.work)
    scope = starters[0].handed[0]

    async def read_scope() -> AgentScope:
        return scope

    child = Looker(read_scope, call("look"), lambda _: interruption() or "done")
    run = await bench.interrupted(child.work)
    scope = starters[1].handed[0]
    with pytest.raises(UsageError, match="another agent hands on than before"):
        await run.again()
    with pytest.raises(UsageError, match="cannot count to both"):
        starters[0].handed[0].narrowed(scope)
    scope = allow("look")
    assert await run.again() is None
    [row] = await bench.ledger.purses.of_run(run.id)
    assert row.parent == starters[0].handed[0].purse, "also where it is not told again"


ALONE = Member("top", "run", None, Budget(), Spent(), Spent(), NOON)


class Clock:
    """A time that passes when a tool says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        for module in (recorder, costs):
            monkeypatch.setattr(module, "monotonic", lambda: self.now)


async def test_time_at_work_of_those_in_a_tool_counts_while_it_is_under_way(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So one after another they do not have the whole of it each."""
    time, stops = Clock(monkeypatch), list[str | None]()
    script = Script(call("hand_on"), "done")
    thinker: Agent[None, str] = Agent(script.model, name="parent")

    @thinker.tool_plain
    @waits
    async def hand_on() -> str:
        scope = await current_scope()
        for number in range(5):
            child: Agent[None, str] = Agent(Script(call("work"), "done").model, name=f"child {number}")

            @child.tool_plain
            async def work() -> str:
                time.now += 0.8
                return "x"

            found = await run_agent(child, "go", scope=scope.narrowed(allow("work", at_stop=AtStop.FINISH)))
            stops.append(found.stopped)
        return "x"

    async def work() -> Any:
        scope = allow("hand_on", "work", budget=Budget(running=timedelta(seconds=1)), at_stop=AtStop.FINISH)
        return (await run_agent(thinker, "go", scope=scope)).stopped

    assert await bench.run(work) == "running"
    assert stops == [None, *["running"] * 4]
    assert time.now == 1.6, "the last call may go over the limit"


@pytest.mark.parametrize("handed_on", [True, False])
async def test_time_at_work_in_a_tool_of_the_same_run_counts_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, interruption: Interruption, handed_on: bool
) -> None:
    """At any depth, to all above: as that of those in the tool where it counts for them, else as the tool's."""
    time, left, inner = Clock(monkeypatch), list[float](), list[float]()
    scripts = [Script(call("delegate"), call("delegate"), "done"), Script(call("delegate"), "done"),
               Script(call("look"), "done")]  # fmt: skip
    top, middle, low = (Agent(one.model, name=name) for one, name in zip(scripts, ("top", "mid", "low"), strict=True))
    all_of_it = Budget(running=timedelta(seconds=100))

    @low.tool_plain
    async def look() -> str:
        time.now += 4
        return "x"

    @middle.tool_plain(name="delegate")
    @waits
    async def to_low() -> str:
        time.now += 2
        scope = (await current_scope()).narrowed(allow("look")) if handed_on else allow("look")
        inner.append((await run_agent(low, "go", scope=scope)).spent.running.total_seconds())
        return "x"

    @top.tool_plain(name="delegate")
    @waits
    async def to_middle() -> str:
        running = (await current_scope()).budget.running
        assert running is not None
        left.append(running.total_seconds())
        if len(left) == 1:
            time.now += 1
            scope = (await current_scope()).narrowed(allow("look", "delegate"))
            inner.append((await run_agent(middle, "go", scope=scope)).spent.running.total_seconds())
        else:
            interruption()
        return "x"

    async def work() -> float:
        found = await run_agent(top, "go", scope=allow("look", "delegate", budget=all_of_it))
        return found.spent.running.total_seconds()

    run = await bench.interrupted(work)
    assert await run.again() == 1, "by itself"
    assert inner == ([4, 2] if handed_on else [4, 6])
    assert left == [100, 93, 93]


async def test_time_at_work_up_to_a_park_counts_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, interruption: Interruption
) -> None:
    time, inner = Clock(monkeypatch), list[float]()
    low: Agent[None, str] = Agent(Script(call("look"), "done").model, name="low")
    top: Agent[None, str] = Agent(Script(call("delegate"), "done").model, name="top")

    @low.tool_plain
    @waits
    async def look() -> str:
        time.now += 4
        if not interruption.over:
            run = current_run.get()
            assert run is not None
            await run.leave()  # as a wait does that parks it
        interruption()
        return "x"

    @top.tool_plain
    @waits
    async def delegate() -> str:
        time.now += 1
        inner.append(
            (await run_agent(low, "go", scope=(await current_scope()).narrowed(allow("look")))).spent.running.seconds
        )
        return "x"

    async def work() -> int:
        budget = Budget(running=timedelta(seconds=100))
        return (await run_agent(top, "go", scope=allow("delegate", "look", budget=budget))).spent.running.seconds

    run = await bench.interrupted(work)
    assert (await all_spent(bench, run)).running == timedelta(seconds=5)
    assert (await run.again(), inner) == (2, [8])


def test_time_at_work_is_added_up() -> None:
    """And the time since the beginning is each one's own."""
    busy = Spent(requests=1, running=timedelta(seconds=9), money=Decimal(1))
    mine = replace(ALONE, spent=Spent(running=timedelta(seconds=10)))
    inside, outside = (
        replace(ALONE, id=run, run_id=run, parent="top", spent=busy, began_at=NOON + timedelta(hours=1))
        for run in ("run", "other")
    )
    spent = together([mine, inside, outside], mine, NOON + timedelta(hours=2))
    assert (spent.running, spent.wall) == (timedelta(seconds=28), timedelta(hours=2))
    assert (spent.requests, spent.money) == (2, Decimal(2))


def test_a_price_that_is_not_known_anywhere_below_stops_all_where_money_is_limited() -> None:
    top = replace(ALONE, limits=Budget(money=Decimal(1)))
    below = replace(ALONE, id="below", run_id="other", parent="top", spent=Spent(requests=1, unpriced=1))
    for mine in (top, below):
        short = short_in([top, below], mine, NOON, requests=1, tool_calls=0)
        assert short is not None
        assert (short.what, short.final) == ("money", True)
        whose = "its scope" if mine is top else "the scope of the agent that started it"
        assert short.remedy.startswith(f"Take the limit in money out of {whose} and")
    with pytest.raises(UsageError, match="price"):
        left_in([top, below], below, NOON)


def test_a_request_is_set_aside_as_what_others_took() -> None:
    below = replace(ALONE, id="below", parent="top", spent=Spent(requests=2, tokens=31, money=Decimal("0.4")))
    set_aside = aside([ALONE, below], 1, 2)
    assert (set_aside.requests, set_aside.tool_calls) == (1, 2)
    assert (set_aside.tokens, set_aside.money) == (16, Decimal("0.2"))
