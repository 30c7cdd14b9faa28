"""G7, G8: a worker's word on a process that is gone comes when the run has ended, or is another attempt's."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from prefect.states import Crashed
from prefect.utilities.engine import propose_state
from sqlalchemy import text

from standby import settings
from standby.states import RunState
from tests.support.freezing import freeze
from tests.support.stage import Run, Stage
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)

YES = {"approved": True}


@pytest.fixture(autouse=True)
def _keeper_that_looks_at_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "RENEW_EVERY", timedelta(0))
    monkeypatch.setattr(settings, "RECONCILE_EVERY", timedelta(0))


async def reported_as_crashed(run: Run) -> None:
    """What a stock worker does when its process exits with -9."""
    said = Crashed(message="Flow run process exited with non-zero status code -9.")
    await propose_state(run.stage.client, said, flow_run_id=UUID(run.id))


@pytest.mark.parametrize("reported", [True, False])
async def test_a_run_that_failed_is_not_run_again_by_itself_though_prefect_had_not_heard(
    stage: Stage, reported: bool
) -> None:
    """Killed between the ledger's record and Prefect's; its worker then says that it crashed, or is gone, too."""
    run = await stage.start("cut_off.py:declining")
    await run.dies_at("run.failed")
    assert (await run.row()).state == RunState.FAILED
    if reported:
        await reported_as_crashed(run)

    async def told() -> bool:
        await stage.tick()
        if (await run.prefect()).is_scheduled():
            await run.attempt()
        return (await run.prefect()).is_failed()

    await wait_until(told, shows=run.shown)
    for _ in range(5):
        await stage.tick()
    assert (await run.prefect()).is_failed()
    assert "declined" in await run.error()
    assert len(run.deeds("refuse")) == 1
    await run.retry()
    assert await run.rests() is RunState.FAILED
    assert len(run.deeds("refuse")) == 2, "somebody wanted that"


@pytest.mark.parametrize("agent", ["ask_after", "ask_after_in_its_process"])
async def test_the_crash_of_an_attempt_that_was_taken_over_is_not_the_crash_of_the_run(
    stage: Stage, agent: str
) -> None:
    """Frozen until its lease was over, taken over, and then killed: its worker says so while the new one is at work."""
    run = await stage.start(f"cut_off.py:{agent}", gated="g")
    old = run.begin()
    await wait_until(lambda: run.deeds("gate"), shows=run.shown)
    await freeze(old.pid, stage.ledger_url)
    await stage.ledger.database.write(text("UPDATE runs SET lease_expires_at = 0 WHERE id = :run"), {"run": run.id})
    await run.recover()
    new = run.begin()
    await wait_until(lambda: len(run.deeds("gate")) == 2, shows=run.shown)
    await old.killed()
    await reported_as_crashed(run)
    assert (await run.prefect()).is_crashed()
    stage.open_gate("g")
    assert await run.rests() is RunState.PARKED
    assert (await run.answer(YES)).won
    await new.ended()
    assert await run.rests() is RunState.COMPLETED
    assert await run.result() == "reported pondered True"
