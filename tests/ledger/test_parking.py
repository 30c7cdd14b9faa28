"""Park, wake, rescue: where a run is while nobody works on it, and who may take it from whom."""

import asyncio
import random
from datetime import timedelta

import pytest

from standby.ledger import Ledger
from standby.states import Hold, Need, RunState, WaitState
from tests.support.seeds import seeds

from .acts import (
    HEAD_STARTS,
    LEASE,
    ME,
    OTHER,
    answer,
    approval,
    claim,
    deliver,
    open_group,
    parked,
    signal,
    state_of_run,
    states_of,
    take_over,
)
from .conftest import Connect, Watch


async def test_a_suspended_run_holds_nothing(ledger: Ledger) -> None:
    await parked(ledger, [approval()])
    run = await ledger.runs.get("run")
    assert run is not None
    assert (run.state, run.hold, run.holder, run.lease_expires_at) == (RunState.PARKED, Hold.SUSPEND, None, None)
    assert await ledger.runs.held() == []


async def test_a_paused_run_keeps_its_lease(ledger: Ledger) -> None:
    await parked(ledger, [approval()], hold=Hold.PAUSE)
    run = await ledger.runs.get("run")
    assert run is not None
    assert (run.state, run.hold, run.holder, run.wake_address) == (RunState.PARKED, Hold.PAUSE, ME, "127.0.0.1:9")
    assert (await claim(ledger, holder=OTHER)).attempt == 0
    assert await ledger.runs.unpark("run", 1)
    run = await ledger.runs.get("run")
    assert run is not None
    assert (run.state, run.hold, run.wake_address) == (RunState.RUNNING, None, None)


async def test_parking_is_told_of_an_answer_that_came_in_between(ledger: Ledger) -> None:
    await claim(ledger)
    [wait] = (await open_group(ledger, [approval()])).waits
    assert not (await answer(ledger, wait.id)).wake
    assert await ledger.runs.park("run", 1, "approval", Hold.SUSPEND) is RunState.READY
    run = await ledger.runs.get("run")
    assert run is not None
    assert run.ready_at == run.parked_at


@pytest.mark.parametrize("seed", seeds())
async def test_an_answer_that_meets_a_parking_run_always_wakes_it(connect: Connect, seed: int) -> None:
    """G9: either the parking run sees the answer, or who answers sees the parked run, and exactly one of them."""
    agent, door = await connect(), await connect()
    dice = random.Random(seed)
    woken = 0
    for number in range(100):
        run = str(number)
        start = HEAD_STARTS[number % 3]
        await claim(agent, run)
        [wait] = (await open_group(agent, [approval()], run=run)).waits

        async def parking(pause: float = dice.random() / 400 + start[0], run: str = run) -> RunState | None:
            await asyncio.sleep(pause)
            return await agent.runs.park(run, 1, "approval", Hold.SUSPEND)

        async def answering(pause: float = dice.random() / 400 + start[1], wait: str = wait.id) -> bool:
            await asyncio.sleep(pause)
            return (await answer(door, wait)).wake

        state, wake = await asyncio.gather(parking(), answering())
        assert (state, wake) in {(RunState.READY, False), (RunState.PARKED, True)}
        assert await state_of_run(agent, run) == RunState.READY
        woken += wake
    assert 0 < woken < 100, f"it was no race: {woken} of 100 were woken"


async def test_a_stray_resume_finds_the_wait_open_and_parks_again(ledger: Ledger) -> None:
    """Failure 20."""
    group = await parked(ledger, [approval()])
    taken = await claim(ledger, holder=OTHER)
    assert (taken.attempt, taken.was) == (2, RunState.PARKED)
    again = await open_group(ledger, [approval()], attempt=2)
    assert (again.ready, again.waits[0].id) == (False, group.waits[0].id)
    assert await ledger.runs.park("run", 2, "approval", Hold.SUSPEND) is RunState.PARKED


async def test_a_running_run_is_rescued_from_its_dead_attempt(ledger: Ledger) -> None:
    await claim(ledger)
    assert await ledger.runs.rescue("run", 1, ME) is RunState.READY
    run = await ledger.runs.get("run")
    assert run is not None
    assert (run.state, run.attempt, run.holder) == (RunState.READY, 2, None)
    assert not await ledger.runs.renew("run", 1, LEASE), "the dead attempt, if it was not dead, is fenced"
    assert (await claim(ledger)).attempt == 3


async def test_a_run_is_rescued_only_from_the_attempt_that_was_seen_dead(ledger: Ledger) -> None:
    await claim(ledger)
    attempt = await take_over(ledger)
    assert await ledger.runs.rescue("run", 1, ME) is None
    assert await ledger.runs.rescue("run", attempt, ME) is None
    assert await ledger.runs.rescue("none", 1, ME) is None
    assert await ledger.runs.renew("run", attempt, LEASE), "nobody was fenced"


async def test_a_run_that_has_parked_since_needs_no_rescue(ledger: Ledger) -> None:
    await parked(ledger, [approval()])
    assert await ledger.runs.rescue("run", 1, ME) is None
    assert await state_of_run(ledger) == RunState.PARKED


async def test_a_run_whose_process_paused_and_died_is_taken_up_again(ledger: Ledger) -> None:
    await parked(ledger, [approval()], hold=Hold.PAUSE)
    assert await ledger.runs.rescue("run", 1, ME) is RunState.READY
    assert await states_of(ledger) == {"approval": WaitState.OPEN}
    taken = await claim(ledger)
    assert (taken.attempt, taken.was) == (3, RunState.READY)


async def test_an_ended_run_is_not_rescued(ledger: Ledger) -> None:
    await claim(ledger)
    await ledger.runs.end("run", 1, RunState.COMPLETED, result="1")
    assert await ledger.runs.rescue("run", 1, None) is None


async def test_of_many_rescuers_one_rescues(connect: Connect) -> None:
    ledgers = [await connect() for _ in range(6)]
    for number in range(10):
        run = str(number)
        await claim(ledgers[0], run)
        rescued = await asyncio.gather(*(ledger.runs.rescue(run, 1, ME) for ledger in ledgers))
        assert [state for state in rescued if state is not None] == [RunState.READY]


async def test_an_attempt_that_lets_go_leaves_its_run_to_the_keeper(ledger: Ledger) -> None:
    await claim(ledger)
    assert await ledger.runs.release("run", 1)
    [run] = await ledger.runs.held()
    assert (run.state, run.holder) == (RunState.RUNNING, None)
    assert await ledger.runs.rescue("run", 1, None) is RunState.READY


async def test_a_run_cancelled_from_outside_ends_once(ledger: Ledger) -> None:
    await parked(ledger, [approval()])
    assert await ledger.runs.end_from_outside("run", RunState.CANCELLED, "Cancelled in Prefect")
    run = await ledger.runs.get("run")
    assert run is not None
    assert (run.state, run.attempt, run.error) == (RunState.CANCELLED, 2, "Cancelled in Prefect")
    assert not run.confirmed, "Prefect may have it as Cancelling yet"
    assert await states_of(ledger) == {"approval": WaitState.CLOSED}
    assert not await ledger.runs.end_from_outside("run", RunState.FAILED)
    assert not await ledger.runs.end_from_outside("none", RunState.FAILED)


async def test_what_was_seen_of_a_run_before_its_retry_does_not_end_the_attempt_after_it(ledger: Ledger) -> None:
    await parked(ledger, [approval()])
    attempt = (await claim(ledger)).attempt
    assert not await ledger.runs.end_from_outside("run", RunState.CANCELLED, attempt=attempt - 1)
    assert await ledger.runs.renew("run", attempt, LEASE)
    assert await ledger.runs.end_from_outside("run", RunState.CANCELLED, attempt=attempt)
    assert not await ledger.runs.renew("run", attempt, LEASE)


async def test_a_cancelled_run_that_is_retried_waits_again_and_takes_an_answer(ledger: Ledger) -> None:
    await parked(ledger, [signal()])
    await ledger.runs.end_from_outside("run", RunState.CANCELLED)
    attempt = (await claim(ledger)).attempt
    await open_group(ledger, [signal()], attempt=attempt)
    assert (await deliver(ledger, "d1")).run_id == "run"


async def test_a_run_that_is_ready_for_long_is_listed_until_it_is_taken_up(ledger: Ledger, watch: Watch) -> None:
    [wait] = (await parked(ledger, [approval()])).waits
    await answer(ledger, wait.id)
    assert await ledger.runs.ready_since(watch.now - timedelta(seconds=1)) == []
    watch.forward(timedelta(seconds=1))
    assert [run.id for run in await ledger.runs.ready_since(watch.now - timedelta(seconds=1))] == ["run"]
    await claim(ledger)
    assert await ledger.runs.ready_since(watch.now) == []


async def test_an_end_is_unconfirmed_until_prefect_was_seen_to_know_it(ledger: Ledger, watch: Watch) -> None:
    await claim(ledger)
    await ledger.runs.end("run", 1, RunState.COMPLETED, result="1")
    assert [run.id for run in await ledger.runs.unconfirmed(watch.now)] == ["run"]
    assert await ledger.runs.unconfirmed(watch.now - timedelta(seconds=1)) == []
    await ledger.runs.confirm(["run"])
    assert await ledger.runs.unconfirmed(watch.now) == []


async def test_runs_are_found_by_name_or_the_start_of_their_id_and_listed_oldest_first(
    ledger: Ledger, watch: Watch
) -> None:
    await claim(ledger, "abcdefgh")
    watch.forward(timedelta(seconds=1))
    await claim(ledger, "abcdefgi")
    await ledger.runs.end("abcdefgh", 1, RunState.COMPLETED)
    assert {run.id for run in await ledger.runs.find("abcdef")} == {"abcdefgh", "abcdefgi"}
    assert await ledger.runs.find("abcde") == [], "too short"
    assert [run.id for run in await ledger.runs.find("name of abcdefgi")] == ["abcdefgi"]
    assert await ledger.runs.find("abcde_") == []
    assert [run.id for run in await ledger.runs.all(ended=True)] == ["abcdefgh", "abcdefgi"]
    assert [run.id for run in await ledger.runs.all(ended=False)] == ["abcdefgi"]


async def test_a_run_with_a_group_of_all_is_readied_by_whoever_comes_last(connect: Connect) -> None:
    ledgers = [await connect() for _ in range(4)]
    for number in range(15):
        run = str(number)
        group = await parked(ledgers[0], [approval(key) for key in "abcd"], run=run, need=Need.ALL)
        settled = await asyncio.gather(
            *(answer(ledger, wait.id) for ledger, wait in zip(ledgers, group.waits, strict=True))
        )
        assert [one.wake for one in settled].count(True) == 1
        assert await state_of_run(ledgers[0], run) == RunState.READY
