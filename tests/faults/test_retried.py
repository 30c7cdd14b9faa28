"""Runs that have ended are begun again by whoever retries them, with all that was said, and by nobody else."""

from __future__ import annotations

import json
from datetime import timedelta
from uuid import UUID

import pytest
from prefect.client.schemas.responses import SetStateStatus
from prefect.states import Cancelled, Pending, Scheduled
from sqlalchemy import select, update

from standby import settings
from standby.ledger.tables import Run, table_of
from standby.parking import cancel
from standby.states import Door, Outcome, RunState
from tests.support.stage import Stage
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)

YES = {"approved": True, "comment": "go"}


@pytest.fixture(autouse=True)
def _keeper_looks_at_prefect_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "RECONCILE_EVERY", timedelta(0))


async def test_an_answer_that_prefect_took_counts_when_the_run_failed_before_it_read_it(stage: Stage) -> None:
    """G3: woken by it, the run met a bad deployment; that is mended and the run retried. Nobody is asked again."""
    run = await stage.start("changing.py:changing")
    assert await run.rests() is RunState.PARKED
    stage.open_gate("bad deployment")
    assert await run.resume(YES) is SetStateStatus.ACCEPT
    assert await run.rests() is RunState.FAILED
    assert "cannot go on with this code" in await run.error()
    stage.close_gate("bad deployment")
    await run.retry()
    assert await run.rests() is RunState.COMPLETED
    assert await run.result() == "go"


@pytest.mark.parametrize("ahead", [timedelta(minutes=5), -timedelta(minutes=5)])
async def test_a_retry_is_known_by_prefects_history_and_by_no_clock(stage: Stage, ahead: timedelta) -> None:
    """The ledger's clock was ahead of Prefect's when the run failed, or behind. One that comes late is no retry."""
    run = await stage.start("changing.py:changing")
    assert await run.rests() is RunState.PARKED
    stage.open_gate("bad deployment")
    assert (await run.answer(YES)).won
    assert await run.rests() is RunState.FAILED
    await run.retry()
    assert await run.rests() is RunState.FAILED
    await _move_end(stage, run.id, ahead)
    stage.close_gate("bad deployment")
    await run.attempt()
    assert (await run.row()).state == RunState.FAILED, run.last and run.last.output
    await run.retry()
    assert await run.rests() is RunState.COMPLETED
    assert await run.result() == "go"


async def _move_end(stage: Stage, run_id: str, by: timedelta) -> None:
    runs = table_of(Run)
    async with stage.ledger.database.transaction() as connection:
        ended_at = (await connection.execute(select(runs.c.ended_at).where(runs.c.id == run_id))).scalar_one()
        await connection.execute(update(runs).where(runs.c.id == run_id).values(ended_at=ended_at + by))


async def test_an_attempt_of_a_cancelled_run_that_comes_late_does_nothing(stage: Stage) -> None:
    """Its process was slow to start, and the run was cancelled meanwhile; a retry then goes on with it."""
    run = await stage.start("changing.py:slow_to_start")
    stage.open_gate("start 1")
    assert await run.rests() is RunState.PARKED
    assert (await run.answer(YES)).won
    late = run.begin()
    await wait_until(lambda: len(stage.deeds("gate")) == 2, shows=run.shown)
    await cancel(stage.client, run.id, "not wanted")
    await stage.client.set_flow_run_state(UUID(run.id), Cancelled())  # as its worker does

    async def cancelled() -> bool:
        await stage.tick()
        return bool((await run.row()).state == RunState.CANCELLED)

    await wait_until(cancelled, shows=run.shown)
    stage.open_gate("start 2")
    await late.ended()
    assert (await run.row()).state == RunState.CANCELLED, late.output
    assert (await run.prefect()).is_cancelled()
    assert run.deeds("act_on") == []
    stage.open_gate("start 3")
    await run.retry()
    assert await run.rests() is RunState.COMPLETED
    assert await run.result() == "go"


async def test_a_cancel_while_a_process_starts_is_shown_in_the_end(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger has heard of it when the process comes, which Prefect lets show the run as Running."""
    monkeypatch.setattr(settings, "START_GRACE", timedelta(seconds=0.5))
    run = await stage.start("deadlines.py:asking")
    assert await run.rests() is RunState.PARKED
    assert (await run.answer(YES)).won
    await stage.client.set_flow_run_state(UUID(run.id), Pending())
    await stage.client.set_flow_run_state(UUID(run.id), Cancelled(message="not wanted"))

    async def cancelled() -> bool:
        await stage.tick()
        return bool((await run.row()).state == RunState.CANCELLED)

    await wait_until(cancelled, shows=run.shown)
    await run.attempt()
    assert (await run.prefect()).is_cancelled(), run.last and run.last.output
    assert run.deeds("act_on") == []


@pytest.mark.parametrize("begun", [False, True])
async def test_a_cancel_that_the_ledger_has_not_heard_of_when_the_process_comes_is_kept_to(
    stage: Stage, begun: bool
) -> None:
    """Prefect lets a run begin that was cancelled a moment before. A retry then goes on with it."""
    run = await stage.start("deadlines.py:asking")
    if begun:
        assert await run.rests() is RunState.PARKED
        assert (await run.answer(YES)).won
    await stage.client.set_flow_run_state(UUID(run.id), Pending())
    await stage.client.set_flow_run_state(UUID(run.id), Cancelled(message="not wanted"))
    await run.attempt()
    assert (await run.prefect()).is_cancelled(), run.last and run.last.output
    assert run.deeds("act_on") == []
    row = await stage.ledger.runs.get(run.id)
    assert (None if row is None else row.state) == (RunState.CANCELLED if begun else None)
    await run.retry()
    if not begun:
        assert await run.rests() is RunState.PARKED
        assert (await run.answer(YES)).won
    assert await run.rests() is RunState.COMPLETED
    assert await run.result() == "go"


async def test_a_cancel_that_a_wake_has_overtaken_is_kept_to(stage: Stage) -> None:
    """Who woke the run had seen it suspended, and it was cancelled before it was scheduled."""
    run = await stage.start("deadlines.py:asking")
    assert await run.rests() is RunState.PARKED
    answered = await stage.ledger.waits.settle(
        (await run.open_wait()).id, outcome=Outcome.ANSWERED, answer=json.dumps(YES), door=Door.TERMINAL
    )
    assert answered is not None
    assert answered.wake
    await stage.client.set_flow_run_state(UUID(run.id), Cancelled(message="not wanted"))
    await stage.client.set_flow_run_state(UUID(run.id), Scheduled(name="Resuming"))
    await run.attempt()
    assert (await run.prefect()).is_cancelled(), run.last and run.last.output
    assert (await run.row()).state == RunState.CANCELLED
    assert run.deeds("act_on") == []


@pytest.mark.parametrize("agent", ["ask_after", "ask_after_in_its_process"])
async def test_a_run_that_is_cancelled_while_it_works_does_not_fail_at_its_next_wait(stage: Stage, agent: str) -> None:
    run = await stage.start(f"cut_off.py:{agent}", gated="g")
    attempt = run.begin()
    await wait_until(lambda: run.deeds("gate"), shows=run.shown)
    await stage.client.set_flow_run_state(UUID(run.id), Cancelled(message="not wanted"))
    stage.open_gate("g.first")
    await attempt.ended()

    async def ended() -> bool:
        await stage.tick()
        return bool((await run.row()).state == RunState.CANCELLED)

    await wait_until(ended, shows=run.shown)
    assert (await run.prefect()).is_cancelled(), attempt.output
