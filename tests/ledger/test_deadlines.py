"""Many deadlines at once: each fires once, whatever else happens to its wait meanwhile."""

import asyncio
import random
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from standby import clock
from standby.ledger import Ledger, deadlines
from standby.ledger.tables import Run, Wait, table_of
from standby.states import Door, Hold, Need, Outcome, RunState, Verdict, WaitState
from tests.support.seeds import seeds

from .acts import answer, approval, claim, open_group, parked, signal, state_of_run, states_of
from .conftest import Connect, Watch

runs = table_of(Run)


async def test_they_settle_with_their_default_or_as_timed_out(ledger: Ledger, watch: Watch) -> None:
    await parked(ledger, [approval(deadline=watch.now, has_default=True, default_answer='"no"')], run="defaults")
    await parked(ledger, [approval(deadline=watch.now)], run="times out")
    await parked(ledger, [approval(deadline=watch.now)], run="in a process", hold=Hold.PAUSE)
    await parked(ledger, [approval(deadline=watch.now + timedelta(seconds=1))], run="later")
    woken = (await ledger.deadlines.fire(await ledger.waits.due())).woken
    assert {one.run_id: one.address for one in woken} == {
        "defaults": None, "times out": None, "in a process": "127.0.0.1:9",
    }  # fmt: skip
    settled = {run: (await ledger.waits.of_run(run))[0] for run in ("defaults", "times out", "later")}
    assert {run: (wait.state, wait.outcome, wait.answer) for run, wait in settled.items()} == {
        "defaults": (WaitState.SETTLED, Outcome.DEFAULTED, '"no"'),
        "times out": (WaitState.SETTLED, Outcome.TIMED_OUT, None),
        "later": (WaitState.OPEN, None, None),
    }
    [decision] = await ledger.waits.decisions_of("defaults")
    assert (decision.door, decision.verdict, decision.answer) == (Door.DEADLINE, Verdict.WON, '"no"')
    assert await state_of_run(ledger, "defaults") == RunState.READY
    assert await ledger.deadlines.fire(await ledger.waits.due()) == (0, [])


async def test_a_group_is_woken_when_it_has_what_it_needs(ledger: Ledger, watch: Watch) -> None:
    both = [approval("a", deadline=watch.now), approval("b", deadline=watch.now)]
    await parked(ledger, both, run="any", need=Need.ANY)
    await parked(ledger, both, run="all", need=Need.ALL)
    await parked(ledger, [both[0], approval("b")], run="one of all", need=Need.ALL)
    woken = (await ledger.deadlines.fire(await ledger.waits.due())).woken
    assert sorted(one.run_id for one in woken) == ["all", "any"]
    assert sorted((await states_of(ledger, "any")).values()) == [WaitState.CLOSED, WaitState.SETTLED]
    assert await states_of(ledger, "one of all") == {"a": WaitState.SETTLED, "b": WaitState.OPEN}


async def test_a_group_that_is_left_open_keeps_no_other_of_its_run_from_waking_it(ledger: Ledger, watch: Watch) -> None:
    """An agent may have given up what it waited for first, and wait for something else."""
    left = [approval("left a", deadline=watch.now), approval("left b")]
    attempt = (await claim(ledger)).attempt
    await open_group(ledger, left, attempt=attempt, need=Need.ALL, key="left")
    now = [approval("now a", deadline=watch.now), approval("now b", deadline=watch.now)]
    group = await open_group(ledger, now, attempt=attempt, need=Need.ALL, key="now")
    assert await ledger.runs.park("run", attempt, group.waits[0].group_key, Hold.SUSPEND, None) is RunState.PARKED
    settled, woken = await ledger.deadlines.fire(await ledger.waits.due())
    assert (settled, [one.run_id for one in woken]) == (3, ["run"])


async def test_of_two_that_are_due_where_one_is_enough_the_earlier_one_fires(ledger: Ledger, watch: Watch) -> None:
    second = timedelta(seconds=1)
    members = [approval("late", deadline=watch.now + second), approval("early", deadline=watch.now)]
    await parked(ledger, members, need=Need.ANY)
    watch.forward(second)
    assert (await ledger.deadlines.fire(await ledger.waits.due())).settled == 1
    assert await states_of(ledger) == {"early": WaitState.SETTLED, "late": WaitState.CLOSED}


async def test_a_run_that_has_not_parked_yet_or_has_ended_is_not_woken(ledger: Ledger, watch: Watch) -> None:
    for run in ("at work", "ended"):
        await ledger.runs.claim(
            run, flow="f", name=run, deployment_id=None, holder="m/1/1", lease=timedelta(minutes=1)
        )  # fmt: skip
        await open_group(ledger, [approval(deadline=watch.now)], run=run)
    due = await ledger.waits.due()
    await ledger.database.write(update(runs).where(runs.c.id == "ended").values(state=RunState.CANCELLED))
    assert await ledger.deadlines.fire(due) == (1, [])
    assert [await states_of(ledger, run) for run in ("at work", "ended")] == [
        {"approval": WaitState.SETTLED}, {"approval": WaitState.OPEN},
    ]  # fmt: skip


async def test_a_wait_that_somebody_is_at_is_passed_over(connect: Connect, watch: Watch) -> None:
    """A transaction for many waits for nobody; what is left is due again."""
    one, two = await connect(), await connect()
    if one.database.sqlite:
        pytest.skip("SQLite has one writer at a time and no locked rows")
    for run in ("free", "locked"):
        await parked(one, [approval(deadline=watch.now)], run=run)
    due = await one.waits.due()
    async with two.database.transaction() as connection:
        await connection.execute(select(runs).where(runs.c.id == "locked").with_for_update())
        assert [woken.run_id for woken in (await asyncio.wait_for(one.deadlines.fire(due), 10)).woken] == ["free"]
    assert [woken.run_id for woken in (await one.deadlines.fire(await one.waits.due())).woken] == ["locked"]


@pytest.mark.parametrize("seed", seeds())
async def test_answers_and_keepers_race_for_many(connect: Connect, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """G5, G6, rows 28 and 37: 300 waits are due, two keepers fire them in small transactions, people answer."""
    monkeypatch.setattr(deadlines, "TOGETHER", 20)
    one, two, three = [await connect() for _ in range(3)]
    dice = random.Random(seed)
    now = clock.utcnow()
    for number in range(300):
        row = signal(correlation=str(number), deadline=now, has_default=True, default_answer='"default"')
        await parked(one, [row], run=f"{number:03}")
    waits = await one.waits.due()
    asked = dice.sample(waits, 100)

    async def answered(wait: Any) -> Any:
        await asyncio.sleep(dice.random() * 0.1)
        return await answer(three, wait.id, '"answer"')

    async def fired(ledger: Ledger) -> list[str]:
        woken = []
        while due := await ledger.waits.due():
            woken += [one.run_id for one in (await ledger.deadlines.fire(dice.sample(due, len(due)))).woken]
        return woken

    first, second, *settled = await asyncio.gather(fired(one), fired(two), *map(answered, asked))
    answerers = [wait.run_id for wait, made in zip(asked, settled, strict=True) if made.wake]
    assert Counter([*first, *second, *answerers]) == Counter({f"{number:03}": 1 for number in range(300)})
    for wait, made in zip(asked, settled, strict=True):
        [now_] = await one.waits.of_run(wait.run_id)
        assert now_.answer == ('"answer"' if made.won else '"default"')
    assert await one.waits.decided_more_than_once() == []


@pytest.mark.parametrize("seed", seeds())
async def test_answers_and_keepers_race_for_groups(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Two waits of each of 100 runs are due; of half of them one is enough. Each run is woken once."""
    monkeypatch.setattr(deadlines, "TOGETHER", 7)
    one, two, three = [await connect() for _ in range(3)]
    dice = random.Random(seed)
    now = clock.utcnow()
    need_of = {f"{number:03}": dice.choice([Need.ANY, Need.ALL]) for number in range(100)}
    for run, need in need_of.items():
        members = [signal(f"g/{name}", correlation=run + name, deadline=now, has_default=True) for name in "ab"]
        await parked(one, members, run=run, need=need)
    waits = await one.waits.due()
    assert len(waits) == 200

    async def answered(wait: Any) -> Any:
        await asyncio.sleep(dice.random() * 0.1)
        return await answer(three, wait.id, '"answer"')

    async def fired(ledger: Ledger) -> list[str]:
        woken = []
        while due := await ledger.waits.due():
            woken += [one.run_id for one in (await ledger.deadlines.fire(dice.sample(due, len(due)))).woken]
        return woken

    first, second, *settled = await asyncio.gather(fired(one), fired(two), *map(answered, dice.sample(waits, 60)))
    answerers = [made.wait.run_id for made in settled if made.wake]
    assert Counter([*first, *second, *answerers]) == Counter(dict.fromkeys(need_of, 1))
    for run, need in need_of.items():
        states = sorted((await states_of(one, run)).values())
        assert states == ([WaitState.CLOSED, WaitState.SETTLED] if need is Need.ANY else [WaitState.SETTLED] * 2)
    assert await one.waits.decided_more_than_once() == []


async def test_a_wait_that_opened_again_with_another_deadline_is_left(ledger: Ledger, watch: Watch) -> None:
    await parked(ledger, [approval(deadline=watch.now)])
    due = await ledger.waits.due()
    waits = table_of(Wait)
    await ledger.database.write(update(waits).values(deadline=watch.now + timedelta(days=1)))
    assert await ledger.deadlines.fire(due) == (0, [])
    assert await states_of(ledger) == {"approval": WaitState.OPEN}
