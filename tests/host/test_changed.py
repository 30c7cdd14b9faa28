"""What somebody changes in Prefect under a run: its deployment, its parameters, its state."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from prefect import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import PREFECT_WORKER_HEARTBEAT_SECONDS, temporary_settings
from prefect.states import Completed, Crashed, Failed, Pending, Running, Scheduled

from standby import settings
from standby.host import hearing, worker
from standby.keeper import Keeper
from standby.parking import suspending
from standby.states import RunState
from tests.host.conftest import Inn, Run
from tests.support import outside
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)


async def cold(inn: Inn) -> Run:
    """A run that waits in its host's pool, with nothing of it in memory."""
    run = await inn.start("visitor", rounds=1)
    await run.is_warm()
    assert inn.host.warmth.make_room(1) == 1
    await wait_until(lambda: run.id not in inn.host.guests)
    return run


async def keeps_until(inn: Inn, run: Run, state: RunState, kind: StateType) -> str:
    """A keeper does what it does until the run is so, and Prefect shows it so; what that says."""
    keeper = Keeper(inn.ledger, get_client)

    async def is_so() -> bool:
        await keeper.tick()
        return (await run.prefect()).type is kind and (await run.row()).state == state

    await wait_until(is_so, shows=run.shown)
    return (await run.prefect()).message or ""


@pytest.fixture(autouse=True)
def _keeper_looks_at_prefect_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "RECONCILE_EVERY", timedelta(0))
    monkeypatch.setattr(settings, "WAKE_GRACE", timedelta(seconds=0.2))


async def test_a_crash_that_is_reported_late_of_a_warm_run_is_put_right(inn: Inn) -> None:
    run = await inn.start("visitor", rounds=1)
    await run.is_warm()
    await inn.client.set_flow_run_state(UUID(run.id), Crashed(message="exit code -9"), force=True)
    await keeps_until(inn, run, RunState.PARKED, StateType.PAUSED)
    resumed = await inn.client.resume_flow_run(UUID(run.id), run_input={"answer": 8})
    assert resumed.status.value == "ACCEPT"
    assert await run.result() == 8


async def test_a_run_whose_deployment_is_deleted_fails_with_that(inn: Inn) -> None:
    run = await cold(inn)
    flow_run = await inn.client.read_flow_run(UUID(run.id))
    assert flow_run.deployment_id is not None
    await inn.client.delete_deployment(flow_run.deployment_id)
    await inn.host.refresh()
    inn.host.placing.forget_deployments()
    await run.signal("round-0", 3)
    assert "was deleted in Prefect" in await keeps_until(inn, run, RunState.FAILED, StateType.FAILED)


async def test_a_parked_run_whose_agent_takes_other_parameters_now_fails_with_that(inn: Inn) -> None:
    run = await cold(inn)
    response = await inn.client._client.patch(f"/flow_runs/{run.id}", json={"parameters": {"times": 1}})
    assert response.is_success, response.text
    await run.signal("round-0", 3)
    assert "times" in await keeps_until(inn, run, RunState.FAILED, StateType.FAILED)
    assert run.deeds("round 0") == 0


async def test_a_retry_while_the_hooks_of_the_failure_run_is_heard(inn: Inn, monkeypatch: pytest.MonkeyPatch) -> None:
    run = await inn.start("hooked")
    await run.is_warm()
    await run.signal("round-0", 3)
    await wait_until(lambda: run.deeds("gate"), shows=run.shown)
    await inn.client.set_flow_run_state(UUID(run.id), Scheduled(name="AwaitingRetry"))
    await wait_until(lambda: run.guest._called is not None)
    sought, seek = [], inn.host.intake.seek

    def noted(run_id: str) -> None:
        sought.append(run_id)
        seek(run_id)

    monkeypatch.setattr(inn.host.intake, "seek", noted)
    outside.gate(outside._place(), "hook").touch()
    await wait_until(lambda: run.id in sought, 10, shows=run.shown)
    await run.is_in(RunState.COMPLETED)
    assert await run.result() == 3


@pytest.mark.parametrize("ended", [Completed, Failed])
async def test_a_run_at_work_that_somebody_ends_by_hand_stays_so(inn: Inn, ended: Callable[..., State[Any]]) -> None:
    run = await inn.start("gated")
    await wait_until(lambda: run.deeds("came"), shows=run.shown)
    state = ended(message="by hand")
    await inn.client.set_flow_run_state(UUID(run.id), state, force=True)
    outside.gate(outside._place(), "go").touch()
    await wait_until(lambda: run.id not in inn.host.guests, shows=run.shown)
    assert await keeps_until(inn, run, RunState(state.type.value.lower()), state.type) == "by hand"
    assert not await inn.ledger.waits.open_ones([run.id])


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
@pytest.mark.parametrize("ended", [Completed, Failed])
async def test_a_run_at_work_that_somebody_ends_by_hand_stops(
    inn: Inn, monkeypatch: pytest.MonkeyPatch, ended: Callable[..., State[Any]], told: bool
) -> None:
    """It would never come to a wait."""
    if not told:
        await inn.closes()
        monkeypatch.setattr(hearing, "NAMES", ("Scheduled",))
        await inn.opens()
    run = await inn.start("gated")
    await wait_until(lambda: run.deeds("came"), shows=run.shown)
    await run.is_shown(StateType.RUNNING)
    state = ended(message="by hand")
    await inn.client.set_flow_run_state(UUID(run.id), state, force=True)
    if not told:
        await inn.host.refresh()  # as it does every half minute
    await wait_until(lambda: run.id not in inn.host.guests, shows=run.shown)
    row = await run.row()
    assert row.state == RunState(state.type.value.lower())
    assert "by hand" in row.error
    await inn.host.following.drained(run.id)
    assert (await run.prefect()).message == "by hand"


async def test_a_runs_own_end_is_not_taken_for_somebodys(inn: Inn, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told of while its hooks run."""
    heard: list[State[Any]] = []
    ended: list[str] = []
    hear = inn.host.hear_of_state
    monkeypatch.setattr(inn.host, "hear_of_state", lambda run_id, state: heard.append(state) or hear(run_id, state))  # type: ignore[func-returns-value]
    monkeypatch.setattr(inn.host.ends, "end_soon", lambda run_id, _: ended.append(run_id))
    run = await inn.start("hooked")
    await run.is_warm()
    await run.signal("round-0", 3)
    await wait_until(lambda: run.deeds("gate"), shows=run.shown)
    await wait_until(lambda: [state for state in heard if state.type is StateType.FAILED], shows=run.shown)
    await inn.host._look_at_prefect()
    assert run.id in inn.host.guests
    outside.gate(outside._place(), "hook").touch()
    await wait_until(lambda: run.id not in inn.host.guests, shows=run.shown)
    await inn.client.set_flow_run_state(UUID(run.id), Scheduled(name="AwaitingRetry"))
    await run.is_in(RunState.COMPLETED)
    assert await run.result() == 3
    await wait_until(lambda: [state for state in heard if state.type is StateType.COMPLETED], shows=run.shown)
    assert not ended


async def test_a_pool_that_was_deleted_and_made_anew_is_heard_of_as_before(
    inn: Inn, monkeypatch: pytest.MonkeyPatch
) -> None:
    await inn.closes()
    with temporary_settings({PREFECT_WORKER_HEARTBEAT_SECONDS: 1}):
        await inn.opens()
    monkeypatch.setattr(worker, "POLL_SECONDS", 3600.0)
    old = (await inn.client.read_work_pool(inn.pool)).id
    await inn.client.delete_work_pool(inn.pool)
    with suppress(ObjectAlreadyExists):  # the host was first
        await inn.client.create_work_pool(WorkPoolCreate(name=inn.pool, type="process"))
    await wait_until(lambda: inn.worker.work_pool.id != old)
    run = await inn.start("visitor", rounds=1)
    await run.is_warm()


@pytest.mark.parametrize("wrong", [Running, Pending, None], ids=["Running", "Pending", "not told"])
async def test_a_warm_run_that_is_shown_as_at_work_is_put_right_and_can_be_answered(
    inn: Inn, monkeypatch: pytest.MonkeyPatch, wrong: Callable[..., State[Any]] | None
) -> None:
    """Somebody has set it so, or Prefect could not be told that it parked."""
    monkeypatch.setattr(settings, "START_GRACE", timedelta(0))
    real = suspending.propose_state
    if wrong is None:

        async def refused(*_: Any, **__: Any) -> State[Any]:
            monkeypatch.setattr(suspending, "propose_state", real)
            raise ObjectNotFound(None)

        monkeypatch.setattr(suspending, "propose_state", refused)
    run = await inn.start("visitor", rounds=1)
    if wrong is not None:
        await run.is_warm()
        await inn.client.set_flow_run_state(UUID(run.id), wrong(), force=True)
    await run.is_in(RunState.PARKED)
    await wait_until(lambda: not run.guest.busy, shows=run.shown)
    assert (await run.prefect()).name != "Suspended"
    await inn.host.refresh()  # as it does every half minute
    # Suspended is what Prefect shows it as for a moment before it wakes it, too.
    await wait_until(lambda: run.guest.run is not None and run.guest.run.attempt == 2, shows=run.shown)
    await run.is_warm()
    await inn.client.resume_flow_run(UUID(run.id), run_input={"answer": 8})
    assert await run.result() == 8
    assert run.deeds("came") == 1
