"""Each call by which a run begins, parks, waits, wakes and starts an agent is answered once by what is not Prefect, in
every way in which a proxy may: that ends no run, nor is it ever shown as crashed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from uuid import UUID

import httpx
import pytest
from prefect.client.schemas.objects import StateType

from standby.states import RunState
from tests.host.conftest import Inn, Run, Spoil, Spoiled
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:unclosed (<socket\.|transport <_SelectorSocketTransport):ResourceWarning"),
    pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True),
]

JSON = {"content-type": "application/json"}


def holding(content: bytes) -> Spoiled:
    return lambda status, request: httpx.Response(status, headers=JSON, content=content, request=request)


def timed_out(status: int, request: httpx.Request) -> httpx.Response:
    # To be asked again at once: else Prefect's client waits for seconds each time.
    return httpx.Response(status, headers={"retry-after": "0"}, html="<p>Request Time-out</p>", request=request)


def garbled(_: int, request: httpx.Request) -> httpx.Response:
    raise httpx.DecodingError("incorrect header check", request=request)


SPOILED = {
    "timed out": (408, timed_out),
    "cut off": (200, holding(b'{"id": "')),
    "empty": (200, holding(b"")),
    "other json": (200, holding(b"{}")),
    "refused": (400, holding(b'{"message": "from a gateway"}')),
    "garbled": (200, garbled),
}

SpoilOnce = Callable[..., list[int]]


@pytest.fixture(params=SPOILED)
def spoil_once(request: pytest.FixtureRequest, spoil: Spoil) -> SpoilOnce:
    status, answer = SPOILED[request.param]
    return partial(spoil, status=status, answer=answer)


async def goes_well(run: Run) -> None:
    assert await run.result() == 8
    assert not await run.states() & {StateType.CRASHED, StateType.FAILED}


async def test_a_run_is_begun_and_suspended(inn: Inn, spoil_once: SpoilOnce) -> None:
    spoil_once("POST", "/set_state", holding=b"PENDING")
    spoil_once("POST", "/set_state", holding=b"RUNNING")
    spoil_once("POST", "/input", holding=b"schema")
    spoil_once("POST", "/set_state", holding=b"Suspended")
    run = await inn.start("cold")
    await run.is_in(RunState.PARKED, RunState.FAILED)
    await run.is_shown(StateType.PAUSED, StateType.FAILED)
    # Through Prefect, which takes no answer to a form that it does not have.
    await inn.client.resume_flow_run(UUID(run.id), run_input={"answer": 8})
    await goes_well(run)


async def test_a_run_pauses_and_looks_and_goes_on(inn: Inn, spoil_once: SpoilOnce) -> None:
    spoil_once("POST", "/set_state", holding=b"Paused")
    run = await inn.start("pauser")
    await run.is_in(RunState.PARKED, RunState.FAILED)
    await run.is_shown(StateType.PAUSED, StateType.FAILED)
    looked = spoil_once("GET", f"/flow_runs/{run.id}")
    await wait_until(lambda: looked)
    spoil_once("POST", f"{run.id}/set_state", holding=b"RUNNING")
    await run.signal("round-0", 8)
    await goes_well(run)


async def test_an_agent_is_started(inn: Inn, spoil_once: SpoilOnce) -> None:
    deployment = await inn.client.read_deployment(await inn.deploy("visitor"))
    parent = await inn.deploy("parent")
    spoil_once("GET", f"/name/visitor/{deployment.name}")
    made = spoil_once("POST", f"/{deployment.id}/create_flow_run", lands=True)
    run = await inn.client.create_flow_run_from_deployment(
        parent, parameters={"deployment": f"visitor/{deployment.name}"}
    )
    assert await Run(inn, str(run.id)).result() == 0
    assert made


async def test_a_warm_run_that_is_answered_in_prefect_has_its_answer(inn: Inn, spoil_once: SpoilOnce) -> None:
    run = await inn.start("visitor")
    await run.is_warm()
    spoil_once("POST", "/input/filter")
    await inn.client.resume_flow_run(UUID(run.id), run_input={"answer": 8})
    await goes_well(run)
