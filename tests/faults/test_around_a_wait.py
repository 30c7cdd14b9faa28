"""Rows 9 to 12, 14, 15 and 20 of the failure matrix: a process dies around a wait, or is woken for nothing."""

from __future__ import annotations

from uuid import UUID

import psutil
import pytest
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter
from prefect.states import Running, Scheduled

from standby.events import WAIT_OPENED
from standby.states import RunState
from tests.support.attempts import Attempt
from tests.support.stage import Run, Stage
from tests.support.waiting import together, wait_until

YES = {"approved": True, "comment": "fine"}


# On PostgreSQL, too, in `test_every_point`.
@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
async def test_a_wait_killed_while_it_opens_is_one_wait(stage: Stage) -> None:
    """Rows 9, 11; G7: wherever the process dies on the way into its wait, the run parks at exactly one."""

    async def killed_at(point: str, written: int) -> None:
        run = await stage.start("deadlines.py:asking")
        await run.dies_at(point)
        found = [wait.id for wait in await run.waits()]
        assert len(found) == written, point

        async def resumed() -> bool:
            # A tick of another part may have scheduled it once more when it was not at rest yet.
            assert await run.rests() is RunState.PARKED
            assert found in ([], [(await run.open_wait()).id])
            return await run.resume(YES) is SetStateStatus.ACCEPT

        await wait_until(resumed, shows=run.shown)
        assert await run.rests() is RunState.COMPLETED
        assert await run.result() == "fine"
        assert len(await run.waits()) == 1

    await together(
        killed_at("wait.opening", written=0),
        killed_at("wait.opened", written=1),
        killed_at("wait.suspending", written=1),
        killed_at("wait.suspended", written=1),
        killed_at("wait.parked", written=1),
    )


async def test_an_answer_that_comes_while_a_dead_run_still_counts_as_running_is_used(stage: Stage) -> None:
    """Row 11; G3, G7: killed between the wait's commit and the suspend, answered, and only then rescued."""
    run = await stage.start("deadlines.py:asking")
    await run.dies_at("wait.opened")
    assert (await run.prefect()).type is StateType.RUNNING
    assert (await run.answer(YES)).won
    assert await run.rests() is RunState.COMPLETED
    assert await run.result() == "fine"


async def test_a_wait_is_announced_though_its_process_died_right_after_the_commit(stage: Stage) -> None:
    """Row 10: the notification comes at least once, with the id of the wait that is open after the recovery."""
    run = await stage.start("deadlines.py:asking")
    await run.dies_at("wait.opened")
    [written] = await run.waits()
    assert await run.rests() is RunState.PARKED
    await stage.tick()
    assert (await run.open_wait()).id == written.id
    assert (await run.open_wait()).announced_at is not None
    await wait_until(lambda: announcements(stage, written.id), shows=run.shown)


async def announcements(stage: Stage, wait_id: str) -> list[str]:
    events = await stage.client.read_events(
        EventFilter(
            event=EventNameFilter(name=[WAIT_OPENED]), resource=EventResourceFilter(id=[f"standby.wait.{wait_id}"])
        ),
        limit=10,
    )
    return [str(event.id) for event in events.events]


async def test_a_run_killed_while_it_holds_its_process_loses_nothing(stage: Stage) -> None:
    """Row 12; G7: the process that waited in memory is gone; the answer wakes the run in a new one."""

    async def killed() -> Run:
        run = await stage.start("holding.py:holding")
        attempt = run.begin()
        await wait_until(run.at_rest, shows=run.shown)
        await attempt.killed()
        return run

    async def answered_after_the_rescue(run: Run) -> None:
        await run.recover()
        attempt = run.begin()
        await wait_until(run.at_rest, shows=run.shown)
        assert (await run.answer(YES)).won
        await attempt.ended()

    one, other = await together(killed(), killed())
    # Before the keeper works at all, for it rescues both.
    assert await one.resume(YES) is SetStateStatus.ACCEPT
    assert (await one.prefect()).type is StateType.RUNNING, "with nobody behind it"
    await answered_after_the_rescue(other)
    for run in (one, other):
        assert await run.rests() is RunState.COMPLETED
        assert await run.result() == "True fine"
        assert len(await run.waits()) == 1


async def test_two_waits_under_one_name_have_two_keys_and_two_answers(stage: Stage) -> None:
    """Row 15: in a loop, each occurrence is its own wait and keeps its own answer on every replay."""

    async def asked_twice(agent: str, *, held: bool) -> None:
        run = await stage.start(f"rounds.py:{agent}", rounds=2)
        await answer_rounds(run, [40, 2], held=run.begin() if held else None)
        waits = await run.waits()
        assert [wait.key for wait in waits] == ["approval", "approval#2"]
        assert [wait.answer for wait in waits] == ['{"number":40}', '{"number":2}']
        assert await run.result() == 42

    await together(asked_twice("rounds_cold", held=False), asked_twice("rounds_held", held=True))


async def answer_rounds(run: Run, numbers: list[int], held: Attempt | None = None) -> list[int]:
    """Answer the run's questions in turn. Returns how much memory the process that holds it has at each, in bytes."""
    memory = []
    for count, number in enumerate(numbers, start=1):
        if held is None:
            assert await run.rests() is RunState.PARKED
        else:
            await wait_until(lambda: waits_for_the(run, count), shows=run.shown)  # noqa: B023
            memory.append(psutil.Process(held.pid).memory_info().rss)
        assert (await run.open_wait()).reason == f"Number {count}?"
        assert (await run.answer({"number": number})).won
    if held is not None:
        assert await held.ended() == 0
    assert await run.rests() is RunState.COMPLETED
    return memory


async def waits_for_the(run: Run, count: int) -> bool:
    """Whether the run has come to its question number ``count``, and rests there."""
    return len(await run.waits()) == count and await run.at_rest()


async def test_fifty_cycles_of_park_and_wake_leave_memory_as_it_was(stage: Stage) -> None:
    """Row 14: one process parks and wakes 50 times; the result is right and its memory does not grow."""
    run = await stage.start("rounds.py:rounds_held", rounds=50)
    memory = await answer_rounds(run, list(range(50)), held=run.begin())
    assert await run.result() == sum(range(50))
    assert len(run.deeds("add")) == 50
    grown = (memory[-1] - memory[9]) / 1024
    assert grown < 4096, f"{grown:.0f} KiB more after 40 more cycles: {memory}"


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
async def test_twenty_cycles_in_twenty_processes_replay_the_same(stage: Stage) -> None:
    """Row 14; G1: each cycle is a process of its own that replays all before it; no step runs twice."""
    run = await stage.start("rounds.py:rounds_cold", rounds=20)
    await answer_rounds(run, list(range(20)))
    assert await run.result() == sum(range(20))
    deeds = run.deeds("add")
    assert len(deeds) == len({deed.key for deed in deeds}) == len({deed.pid for deed in deeds}) == 20


async def test_a_stray_resume_passes_no_gate(stage: Stage) -> None:
    """Row 20; G7: scheduled again without an answer, the run finds its wait open and parks again."""
    run = await stage.start("deadlines.py:asking")
    await run.rests()
    before = await run.open_wait()
    result = await stage.client.set_flow_run_state(UUID(run.id), Scheduled(name="Resuming"))
    assert result.status is SetStateStatus.ACCEPT
    assert await run.rests() is RunState.PARKED
    assert (await run.open_wait()).id == before.id
    assert (await run.row()).attempt == 2
    assert run.deeds("act_on") == []
    assert await run.resume(YES) is SetStateStatus.ACCEPT
    assert await run.rests() is RunState.COMPLETED
    assert await run.result() == "fine"


async def test_a_stray_resume_of_a_held_run_passes_no_gate(stage: Stage) -> None:
    """Row 20: the same for a run that waits in its process."""
    run = await stage.start("holding.py:holding")
    attempt = run.begin()
    await wait_until(run.at_rest, shows=run.shown)
    before = await run.prefect()
    result = await stage.client.set_flow_run_state(UUID(run.id), Running())
    assert result.status is SetStateStatus.ACCEPT

    async def paused_again() -> bool:
        return (await run.prefect()).id != before.id and await run.at_rest()

    await wait_until(paused_again, shows=run.shown)
    assert run.deeds("act_on") == []
    assert await run.resume(YES) is SetStateStatus.ACCEPT
    await attempt.ended()
    assert await run.rests() is RunState.COMPLETED
    assert await run.result() == "True fine"
    assert len(await run.waits()) == 1


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
async def test_what_an_agent_has_in_its_finally_does_not_act_when_it_parks(stage: Stage) -> None:
    """G7: the run stands at one question, and goes on from there."""
    runs = [await stage.start("deadlines.py:tidying") for _ in range(4)]
    for run in runs:
        assert await run.rests() is RunState.PARKED
        assert [deed.key.rpartition("/")[2] for deed in run.deeds("act_on")] == ["reserve"]
        assert [wait.reason for wait in await run.waits()] == ["Buy?"]
        assert (await run.answer(YES)).won
        assert await run.rests() is RunState.PARKED
        assert (await run.open_wait()).reason == "Is it closed?"
        assert (await run.answer(YES)).won
        assert await run.rests() is RunState.COMPLETED
        assert await run.result() == "buy True"
        assert [deed.key.rpartition("/")[2] for deed in run.deeds("act_on")] == ["reserve", "buy", "release"]
