"""G8: when a run is taken over, the old attempt's writes are refused and it stops."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text

from standby import settings
from standby.states import RunState
from tests.support.attempts import Attempt
from tests.support.freezing import freeze
from tests.support.stage import Run, Stage
from tests.support.waiting import together, wait_until

YES = {"approved": True}


@pytest.fixture(autouse=True)
def _keeper_that_has_been_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has just begun waits whether an attempt renews a lease that has ended by the clock."""
    monkeypatch.setattr(settings, "RENEW_EVERY", timedelta(0))


async def test_two_attempts_of_one_run_at_once_have_each_effect_once(stage: Stage) -> None:
    """G8: started twice, the second waits until the first is done, and finds everything done."""

    async def started_twice(agent: str) -> None:
        run = await stage.start(f"gates.py:{agent}", gated=agent)
        first = await at_gate(run)
        second = run.begin()
        await wait_until(lambda: "Beginning flow run" in second.output, shows=run.shown)
        stage.open_gate(agent)
        assert await together(first.ended(), second.ended()) == [0, 0]
        if agent == "sending_and_asking":
            assert await run.rests() is RunState.PARKED
            assert (await run.answer(YES)).won
        assert await run.rests() is RunState.COMPLETED
        assert await run.result() == "sent, reported"
        assert len(run.deeds("send")) == len(run.deeds("report")) == 1

    await together(started_twice("sending"), started_twice("sending_and_asking"))


async def test_a_frozen_attempt_that_was_taken_over_writes_nothing_when_it_thaws(stage: Stage) -> None:
    """G8: frozen between effect and record until its lease is over; the new attempt's record and state stay."""

    async def frozen(agent: str) -> None:
        run = await stage.start(f"gates.py:{agent}", gated=agent)
        old = await at_gate(run)
        await freeze(old.pid, stage.ledger_url)
        await lease_runs_out(run)
        await run.recover()
        stage.open_gate(agent)
        end = await run.rests()
        assert end is (RunState.PARKED if agent == "sending_and_asking" else RunState.COMPLETED)
        before = await seen(run)
        old.thaw()
        assert await old.ended() == 0
        assert await seen(run) == before, old.output
        if end is RunState.PARKED:
            assert (await run.answer(YES)).won
        assert await run.rests() is RunState.COMPLETED
        assert await run.result() == "sent, reported"
        assert len(run.deeds("send")) == len(run.deeds("report")) == 1

    await together(frozen("sending"), frozen("sending_and_asking"))


async def test_an_attempt_that_was_taken_over_stops_without_writing(stage: Stage) -> None:
    """G8: in a step that goes on and on, it hears of the takeover when it renews its lease, and ends there."""
    run = await stage.start("gates.py:pondering", gated="pondering")
    old = await at_gate(run)

    async def rescued() -> bool:
        await lease_runs_out(run)  # again and again, for it lives and renews it
        await run.stage.tick()
        return (await run.prefect()).is_scheduled()

    await wait_until(rescued, shows=run.shown)
    new = run.begin()
    await wait_until(lambda: len(run.deeds("gate")) == 2, shows=run.shown)
    assert await old.ended() == 0
    assert (await run.prefect()).is_running(), old.output
    assert new.running
    stage.open_gate("pondering")
    assert await new.ended() == 0
    assert await run.rests() is RunState.COMPLETED
    assert await run.result() == "pondered, reported"
    assert {deed.key for deed in run.deeds("gate")} == {f"{run.id}/ponder"}


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
async def test_a_second_attempt_that_comes_late_does_not_retry_what_failed(stage: Stage) -> None:
    """The keeper took the first for dead, as it was slow to start, and the run was scheduled twice."""
    run = await stage.start("gates.py:failing", gated="failing")
    first = await at_gate(run)
    second = run.begin()
    await wait_until(lambda: "Beginning flow run" in second.output, shows=run.shown)
    stage.open_gate("failing")
    await first.ended()
    await second.ended()
    assert await run.rests() is RunState.FAILED
    assert len(run.deeds("refuse")) == 1
    assert (await run.prefect()).is_failed()
    await run.retry()
    assert await run.rests() is RunState.FAILED
    assert len(run.deeds("refuse")) == 2


async def at_gate(run: Run) -> Attempt:
    """A new attempt that has come to the gate in its step."""
    attempt = run.begin()
    await wait_until(lambda: run.deeds("gate"), shows=run.shown)
    return attempt


async def lease_runs_out(run: Run) -> None:
    """As if the attempt had been silent for its whole lease, which would take too long to wait for."""
    await run.stage.ledger.database.write(text("UPDATE runs SET lease_expires_at = 0 WHERE id = :run"), {"run": run.id})


async def seen(run: Run) -> list[object]:
    """All that a late write could change; not what the keeper notes of its own accord."""
    journal = sorted(await run.stage.ledger.checkpoints.journal(run.id))
    waits = [dict(wait._mapping) | {"announced_at": None} for wait in await run.waits()]
    row = dict((await run.row())._mapping) | {"confirmed": None}
    return [row, journal, waits, (await run.prefect()).id]
