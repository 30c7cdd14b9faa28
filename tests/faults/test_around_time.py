"""Row 36 of the failure matrix: nothing runs when a deadline passes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from prefect.client.schemas.responses import SetStateStatus
from sqlalchemy import text

from standby import clock
from standby.states import Door, Outcome, RunState, Verdict
from tests.support.stage import Stage
from tests.support.waiting import together, wait_until


async def test_deadlines_that_pass_while_everything_is_down_fire_once(stage_of_its_own: Stage) -> None:
    """Row 36; G6: server, keepers and runs are gone across a deadline; at the restart each fires, once.

    An answer that the ledger had before is not overruled, and one that comes afterwards is told that time was up.
    """
    stage = stage_of_its_own
    runs = [await stage.start(f"deadlines.py:{agent}", seconds=3600.0)
            for agent in ("defaulting", "branching", "sleeping", "defaulting")]  # fmt: skip
    assert await together(*(run.rests() for run in runs)) == [RunState.PARKED] * 4
    defaulting, branching, sleeping, answered = runs
    waits = [await run.open_wait() for run in runs]

    stage.server.kill()
    early = await answered.answer({"approved": True, "comment": "in time"})
    assert early.won
    assert not early.woken, "Prefect is down; the answer is safe all the same"
    now = (clock.utcnow() - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    await stage.ledger.database.write(text("UPDATE waits SET deadline = :now WHERE deadline IS NOT NULL"), {"now": now})
    await stage.server.start()
    async with stage.keeping(), stage.keeping():
        assert await together(*(run.rests() for run in runs)) == [RunState.COMPLETED] * 4

    assert [await run.result() for run in runs] == ["nobody answered", "timed out", "slept", "in time"]
    outcomes = [wait.outcome for run in runs for wait in await run.waits()]
    assert outcomes == [Outcome.DEFAULTED, Outcome.TIMED_OUT, Outcome.DEFAULTED, Outcome.ANSWERED]
    for run, wait in zip((defaulting, branching, sleeping), waits, strict=False):
        late = await stage.ledger.waits.settle(
            wait.id, outcome=Outcome.ANSWERED, answer=json.dumps(None), door=Door.TERMINAL, actor="grace"
        )
        assert late is not None
        assert not late.won
        assert late.winner is not None
        assert late.winner.door == Door.DEADLINE
        verdicts = [decision.verdict for decision in await stage.ledger.waits.decisions_of(run.id)]
        assert verdicts == [Verdict.WON, Verdict.LOST]


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
async def test_an_answer_that_prefect_took_is_as_old_as_it_is_there(stage: Stage) -> None:
    """And not as fresh as the run's reading of it, when no worker was there for long."""
    run = await stage.start("deadlines.py:asking_for_now", seconds=1.0)
    assert await run.rests() is RunState.PARKED
    asked = await run.open_wait()
    answered = clock.utcnow()
    assert await run.resume({"approved": True, "comment": "old"}) is SetStateStatus.ACCEPT
    await wait_until(lambda: clock.utcnow() > answered + timedelta(seconds=2))
    assert await run.rests() is RunState.PARKED
    again = await run.open_wait()
    assert (again.id, again.opening) == (asked.id, asked.opening + 1)
    assert "older than 0:00:01" in again.refused
    [taken] = await stage.ledger.waits.decisions_of(run.id)
    assert abs(taken.decided_at - answered) < timedelta(seconds=2)
    assert run.deeds("act_on") == []
