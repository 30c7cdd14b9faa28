"""What a run asks of Prefect as it parks, waits, wakes and starts an agent is answered by a proxy, now and then."""

from __future__ import annotations

import json
from uuid import UUID

import pytest
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Scheduled

from standby.host.guest import Phase
from standby.states import RunState
from tests.host.conftest import Inn, Run, Spoil
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:unclosed (<socket\.|transport <_SelectorSocketTransport):ResourceWarning"),
    pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True),
]

STATUSES = pytest.mark.parametrize("status", [200, 404], ids=["html", "not found"])
WRITES = pytest.mark.parametrize(
    ("status", "lands"),
    [(200, False), (404, False), (409, False), (200, True)],
    ids=["html", "not found", "conflict", "done and html"],
)


async def is_parked(run: Run) -> None:
    await run.is_in(RunState.PARKED, RunState.FAILED)
    assert (await run.is_shown(StateType.PAUSED, StateType.FAILED)).type is StateType.PAUSED, await run.shown()


async def answer(inn: Inn, run: Run) -> None:
    """Through Prefect, which takes no answer to a form that it does not have."""
    made = await inn.client.resume_flow_run(UUID(run.id), run_input={"answer": 8})
    assert made.status == "ACCEPT", made


@STATUSES
async def test_a_warm_run_that_is_answered_in_prefect_has_its_answer(inn: Inn, spoil: Spoil, status: int) -> None:
    run = await inn.start("visitor")
    await run.is_warm()
    spoil("POST", "/input/filter", status)
    await answer(inn, run)
    assert await run.result() == 8


async def test_an_answer_that_does_not_fit_is_put_away(inn: Inn, spoil: Spoil) -> None:
    """Also when the answer to the call that has done it is lost."""
    run = await inn.start("visitor")
    await run.is_warm()
    [wait] = await inn.ledger.waits.of_run(run.id)
    key = f"suspended-{wait.id}-{wait.opening}-1-response"
    await inn.client.create_flow_run_input(UUID(run.id), key, json.dumps({"answer": "eight"}))
    done = spoil("DELETE", key, 200, lands=True)
    await inn.client.set_flow_run_state(UUID(run.id), Scheduled(name="Resuming"))
    await wait_until(lambda: done and run.guest.phase is Phase.WARM)
    await run.signal("round-0", 7)
    assert await run.result() == 7


@WRITES
@pytest.mark.parametrize(
    ("ending", "holding"), [("/input", b"schema"), ("/set_state", b"Suspended")], ids=["form", "state"]
)
async def test_a_run_is_suspended(
    inn: Inn, spoil: Spoil, status: int, lands: bool, ending: str, holding: bytes
) -> None:
    spoil("POST", ending, status, holding, lands=lands)
    run = await inn.start("cold")
    await is_parked(run)
    await answer(inn, run)
    assert await run.result() == 8


@WRITES
@pytest.mark.parametrize(
    ("ending", "holding"), [("/input", b"schema"), ("/set_state", b"Paused")], ids=["form", "state"]
)
async def test_a_run_begins_to_pause(
    inn: Inn, spoil: Spoil, status: int, lands: bool, ending: str, holding: bytes
) -> None:
    spoil("POST", ending, status, holding, lands=lands)
    run = await inn.start("pauser")
    await is_parked(run)
    await answer(inn, run)
    assert await run.result() == 8


@STATUSES
async def test_a_run_that_pauses_looks_again(inn: Inn, spoil: Spoil, status: int) -> None:
    run = await inn.start("pauser")
    await is_parked(run)
    spoil("GET", f"/flow_runs/{run.id}", status, times=3)
    await answer(inn, run)
    assert await run.result() == 8


@STATUSES
async def test_a_run_that_pauses_and_has_its_signal_goes_on(inn: Inn, spoil: Spoil, status: int) -> None:
    run = await inn.start("pauser")
    await is_parked(run)
    spoil("GET", f"/flow_runs/{run.id}", status)
    spoil("POST", f"{run.id}/set_state", status, b"RUNNING")
    await run.signal("round-0", 7)
    assert await run.result() == 7


@STATUSES
@pytest.mark.parametrize(("method", "ending"), [("GET", ""), ("POST", "/create_flow_run")], ids=["found", "made"])
async def test_an_agent_is_started_once(inn: Inn, spoil: Spoil, status: int, method: str, ending: str) -> None:
    deployment = await inn.client.read_deployment(await inn.deploy("visitor"))
    of_visitors = f"/name/visitor/{deployment.name}" if method == "GET" else f"/{deployment.id}{ending}"
    parent = await inn.deploy("parent")
    spoil(method, of_visitors, status)
    made = await inn.client.create_flow_run_from_deployment(
        parent, parameters={"deployment": f"visitor/{deployment.name}"}
    )
    assert await Run(inn, str(made.id)).result() == 0
    of_it = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))

    async def started() -> list[FlowRun]:
        try:
            return await inn.client.read_flow_runs(deployment_filter=of_it)
        except PrefectHTTPStatusError as busy:  # its SQLite, while the host writes
            if busy.response.status_code < 500:
                raise
            return []

    assert len(await wait_until(started)) == 1
