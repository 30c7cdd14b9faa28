"""Row 42: one process cannot reach the ledger for a while. It stops there, and nothing is lost or ended."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from standby import settings
from standby.states import RunState
from tests.support.attempts import Attempt
from tests.support.link import Link, link_to
from tests.support.stage import Run, Stage
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)

YES = {"approved": True}


@pytest.fixture
async def link(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Link]:
    """The way of some attempts to the ledger. The keeper has one of its own, has been at work, and compares often."""
    monkeypatch.setattr(settings, "RENEW_EVERY", timedelta(0))
    monkeypatch.setattr(settings, "RECONCILE_EVERY", timedelta(0))
    async with link_to(stage.ledger_url) as link:
        yield link


def begin_over(link: Link, run: Run) -> Attempt:
    own, run.stage.ledger_url = run.stage.ledger_url, link.url
    try:
        return run.begin()
    finally:
        run.stage.ledger_url = own


async def lease_runs_out(run: Run) -> None:
    await run.stage.ledger.database.write(text("UPDATE runs SET lease_expires_at = 0 WHERE id = :run"), {"run": run.id})


async def looked_at_by_all(run: Run) -> Any:
    """The run's row after the keeper had every opportunity."""
    for _ in range(10):
        await run.stage.tick()
    return await run.row()


@pytest.mark.parametrize("agent", ["ask_after", "ask_after_in_its_process"])
@pytest.mark.parametrize("parked", [True, False])
async def test_an_attempt_that_was_cut_off_and_taken_over_does_not_fail_the_run(
    stage: Stage, link: Link, agent: str, parked: bool
) -> None:
    """G8: it can write nothing to the ledger, and says nothing of the run to Prefect."""
    run = await stage.start(f"cut_off.py:{agent}", gated="g")
    old = begin_over(link, run)
    await wait_until(lambda: run.deeds("gate"), shows=run.shown)
    link.cut()
    await lease_runs_out(run)
    await run.recover()
    new = run.begin()
    await wait_until(lambda: len(run.deeds("gate")) == 2, shows=run.shown)
    if parked:
        stage.open_gate("g")
        await wait_until(run.at_rest, shows=run.shown)
    before = await run.prefect()
    stage.open_gate("g.first")
    await old.ended()
    assert (await run.prefect()).id == before.id, old.output
    stage.open_gate("g")
    assert await run.rests() is RunState.PARKED
    assert (await looked_at_by_all(run)).state == RunState.PARKED
    assert (await run.answer(YES)).won
    await new.ended()
    assert await run.rests() is RunState.COMPLETED
    assert await run.result() == "reported pondered True"


async def test_a_run_whose_last_commit_was_made_and_not_confirmed_completes(stage: Stage, link: Link) -> None:
    run = await stage.start("cut_off.py:finishing", gated="g")
    attempt = begin_over(link, run)
    await wait_until(lambda: stage.deeds("gate"), shows=run.shown)
    link.loses_commits = True
    stage.open_gate("g")
    await attempt.ended()
    assert link.lost, attempt.output
    assert (await run.row()).state == RunState.COMPLETED
    link.mend()

    async def shown_as_completed() -> bool:
        await run.rests()
        await stage.tick()
        return (await run.prefect()).is_completed()

    await wait_until(shown_as_completed, shows=run.shown)
    assert await run.result() == "reported work"


@pytest.mark.parametrize("after", [False, True])
async def test_a_connection_that_breaks_at_a_record_fails_nobody(stage: Stage, link: Link, after: bool) -> None:
    """The next one works; what was written, and not confirmed, is not taken for another attempt's."""
    run = await stage.start("cut_off.py:ask_after", gated="g")
    stage.open_gate("g.first")
    link.breaks_at, link.breaks_after = b"INSERT INTO checkpoints", after
    attempt = begin_over(link, run)
    await attempt.ended()
    assert link.breaks_at is None, "it came by"
    assert (await run.row()).state == RunState.PARKED, attempt.output
    assert (await run.answer(YES)).won
    assert await run.rests() is RunState.COMPLETED
    assert len(run.deeds("gate")) == 1


async def test_an_agent_that_catches_everything_takes_no_other_way_for_a_lost_connection(
    stage: Stage, link: Link
) -> None:
    """G1: an answer is the same on every replay, also for one that could not be taken in the first time."""
    run = await stage.start("cut_off.py:careful", gated="g")
    assert await run.rests() is RunState.PARKED
    assert (await run.answer(YES)).won
    attempt = begin_over(link, run)
    await wait_until(lambda: stage.deeds("gate"), shows=run.shown)
    link.cut()
    stage.open_gate("g")
    await attempt.ended()
    assert run.deeds("report") == [], attempt.output
    await lease_runs_out(run)
    assert await run.rests() is RunState.COMPLETED
    assert await run.result() == "reported approved True"


async def test_a_run_that_is_resumed_while_the_ledger_is_away_still_has_its_question_and_its_answer(
    stage: Stage, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G3: what Prefect has accepted counts, though the attempt that was to read it could not begin."""
    monkeypatch.setattr(settings, "START_GRACE", timedelta(seconds=0.5))
    run = await stage.start("deadlines.py:asking")
    assert await run.rests() is RunState.PARKED
    await run.resume({"approved": True, "comment": "by Prefect"})
    link.cut()
    attempt = begin_over(link, run)
    await attempt.ended()
    assert not (await run.prefect()).is_final(), attempt.output
    assert (await looked_at_by_all(run)).state == RunState.PARKED
    assert await run.rests() is RunState.COMPLETED
    assert await run.result() == "by Prefect"
