"""What a host asks of Prefect is answered by a proxy before it, now and then, which says nothing of what was asked."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_WORKER_HEARTBEAT_SECONDS, temporary_settings
from prefect.workers.process import ProcessWorker

from standby import confirming
from standby.host import worker
from standby.parking import following
from standby.states import RunState
from tests.host.conftest import Inn, Run, Spoil
from tests.support import outside
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:unclosed (<socket\.|transport <_SelectorSocketTransport):ResourceWarning"),
    pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True),
]

STATUSES = pytest.mark.parametrize("status", [200, 404], ids=["html", "not found"])


@STATUSES
async def test_a_warm_run_that_is_answered_goes_on(inn: Inn, spoil: Spoil, status: int) -> None:
    run = await inn.start("visitor")
    await run.is_warm()
    spoil("GET", f"/flow_runs/{run.id}", status)
    await inn.client.resume_flow_run(UUID(run.id), run_input={"answer": 8})
    await run.is_in(RunState.COMPLETED, RunState.FAILED)
    assert await run.result() == 8


@STATUSES
async def test_a_new_run_is_begun(inn: Inn, spoil: Spoil, status: int) -> None:
    spoil("GET", f"/deployments/{await inn.deploy('visitor')}", status)
    run = await inn.start("visitor", rounds=0)
    assert await run.result() == 0
    assert not await run.states() & {StateType.CRASHED, StateType.FAILED}


async def test_a_new_run_that_has_a_process_of_its_own_is_begun(
    inn: Inn, spoil: Spoil, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect's own worker would cancel it."""
    begun = asyncio.Event()

    async def process(_: Any, flow_run: Any, task_status: Any) -> None:
        task_status.started(1)
        begun.set()

    monkeypatch.setattr(ProcessWorker, "_submit_run_and_capture_errors", process)
    deployment = await inn.deploy("visitor", job_variables={"isolation": "process"})
    spoil("GET", f"/deployments/{deployment}", 404, times=2)
    await inn.client.create_flow_run_from_deployment(deployment)
    await wait_until(begun.is_set)


@STATUSES
async def test_a_cold_run_that_is_resumed_goes_on(inn: Inn, spoil: Spoil, status: int) -> None:
    run = await inn.start("visitor")
    await run.is_warm()
    assert inn.host.warmth.make_room(1) == 1
    await wait_until(lambda: run.id not in inn.host.guests)
    inn.host.placing.forget_deployments()
    spoil("GET", f"/deployments/{await inn.deploy('visitor')}", status)
    await inn.client.resume_flow_run(UUID(run.id), run_input={"answer": 8})
    await run.is_in(RunState.COMPLETED, RunState.FAILED)
    assert await run.result() == 8


@STATUSES
async def test_a_run_at_work_is_not_failed(inn: Inn, spoil: Spoil, status: int) -> None:
    """It is said that somebody has suspended it."""
    run = await inn.start("worker", steps=1)
    await wait_until(lambda: run.id in inn.host.guests)
    guest = run.guest
    await run.result()
    spoil("GET", f"/flow_runs/{run.id}", status)
    await guest.suspended_by_somebody()


@STATUSES
async def test_a_host_refuses_a_run_again(inn: Inn, spoil: Spoil, status: int) -> None:
    """And goes on meanwhile."""
    deployment = await inn.deploy("never", entrypoint="leaves_when_loaded.py:never")
    done = spoil("POST", "/set_state", status, b"FAILED")
    run = Run(inn, str((await inn.client.create_flow_run_from_deployment(deployment)).id))
    await wait_until(lambda: done)
    other = await inn.start("visitor", rounds=0)
    assert await other.result() == 0
    await run.is_shown(StateType.FAILED)


@STATUSES
async def test_a_host_polls_again(inn: Inn, spoil: Spoil, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    await inn.closes()
    monkeypatch.setattr(worker, "POLL_SECONDS", 0.1)
    with temporary_settings({PREFECT_WORKER_HEARTBEAT_SECONDS: 1}):
        await inn.opens()
    done = spoil("POST", "/get_scheduled_flow_runs", status)
    synced = spoil("POST", "/deployments/filter", status)
    await wait_until(lambda: done and synced)
    assert inn._task is not None
    run = await inn.start("visitor", rounds=0)
    assert await run.result() == 0
    assert not inn._task.done()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to be told is told twice, and the keeper looks at once whether it was."""
    monkeypatch.setattr(following, "TRIES", 2)
    monkeypatch.setattr(confirming, "CONFIRM_AFTER", timedelta(0))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("status", "times"), [(403, 1), (404, 1), (409, 1), (409, 2), (500, 2)])
async def test_a_run_that_has_completed_is_never_shown_as_failed(
    inn: Inn, spoil: Spoil, status: int, times: int
) -> None:
    """Its end is told again: by its host, or where that has given it up by the keeper."""
    run = await inn.start("noted")
    await run.is_warm()
    outside.gate(outside._place(), "go").touch()
    spoil("POST", f"{run.id}/set_state", status, b"COMPLETED", times)
    await run.signal("round-0", 7)
    assert await run.result() == 7
    assert StateType.FAILED not in await run.states()
    assert run.deeds("hook") == 0


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("gone", ["its deployment", "its parameter"])
async def test_a_run_that_has_completed_and_cannot_be_run_again_is_shown_as_completed(
    inn: Inn, spoil: Spoil, gone: str
) -> None:
    """Nobody could tell of its end, and its host cannot begin it once more to do so."""
    run = await inn.start("noted")
    await run.is_warm()
    outside.gate(outside._place(), "go").touch()
    spoil("POST", f"{run.id}/set_state", 403, b"COMPLETED", 2)
    if gone == "its deployment":
        await inn.client.delete_deployment(await inn.deploy("noted"))
        inn.host.placing.forget_deployments()
    else:
        await inn.client.update_flow_run(UUID(run.id), parameters={"of_another_version": 1})
    await run.signal("round-0", 7)
    assert await run.result() == 7
    assert f"`standby show {run.id}` has its result" in ((await run.prefect()).message or "")
    assert StateType.FAILED not in await run.states()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("times", [1, 2], ids=["it is told again", "its host looks again"])
@pytest.mark.parametrize(
    ("method", "ending", "status", "holding"), [("GET", "", 404, b""), ("POST", "/set_state", 409, b"RUNNING")]
)
async def test_a_run_that_goes_on_is_shown_so(
    inn: Inn, spoil: Spoil, method: str, ending: str, status: int, holding: bytes, times: int
) -> None:
    run = await inn.start("noted")
    await run.is_warm()
    done = spoil(method, f"/flow_runs/{run.id}{ending}", status, holding, times)
    await run.signal("round-0", 7)
    await wait_until(lambda: run.deeds("went on") and len(done) == times)
    await inn.host.following.drained(run.id)
    if times > 1:
        await inn.host.refresh()  # as it does every half minute
    await run.is_shown(StateType.RUNNING)
    outside.gate(outside._place(), "go").touch()
    assert await run.result() == 7


async def test_a_run_that_was_deleted_in_prefect_goes_on_to_its_end(inn: Inn) -> None:
    run = await inn.start("noted")
    await run.is_warm()
    await inn.client.delete_flow_run(UUID(run.id))
    await run.signal("round-0", 7)
    await wait_until(lambda: run.deeds("went on"))
    outside.gate(outside._place(), "go").touch()
    await wait_until(lambda: run.id not in inn.host.guests and not inn.host.following.behind)
    assert (await run.row()).state == RunState.COMPLETED


@pytest.mark.parametrize("limit", [1], indirect=True)
async def test_a_run_that_has_ended_has_no_place_while_prefect_is_away(inn: Inn, spoil: Spoil) -> None:
    """Its place is for who was answered meanwhile."""
    runs = [await inn.start("visitor") for _ in range(2)]
    for run in runs:
        await run.is_warm()
    done = spoil("POST", "/set_state", 503, times=10**4)
    for run in runs:
        await run.signal("round-0", 7)
    for run in runs:
        await run.is_in(RunState.COMPLETED)
        assert StateType.COMPLETED not in await run.states()
    done += [503] * 10**4  # Prefect is back
    for run in runs:
        assert await run.result() == 7
