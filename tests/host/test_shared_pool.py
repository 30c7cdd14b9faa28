"""Several hosts on one pool: Prefect tells all of them of each run that somebody has resumed there."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.client.schemas.objects import StateType
from prefect.states import Scheduled
from sqlalchemy import update

from standby import clock, settings
from standby.host import calling_over
from standby.host.worker import HostWorker
from standby.ledger import tables
from standby.ledger.hosted import LEASES, NO_LIMIT
from standby.ledger.tables import table_of
from standby.states import RunState
from standby.wakeups import Ear
from tests.host.conftest import Inn, Run
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:unclosed (<socket\.|transport <_SelectorSocketTransport):ResourceWarning"),
    pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True),
]

ELSEWHERE = "elsewhere/1/1"
HOUR = timedelta(hours=1)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that the host was given by Prefect and has looked at, to the end."""
    seen: list[str] = []
    submit = HostWorker._submit_run

    async def submitted(self: HostWorker, flow_run: Any) -> None:
        await submit(self, flow_run)
        seen.append(str(flow_run.id))

    monkeypatch.setattr(HostWorker, "_submit_run", submitted)
    monkeypatch.setattr(settings, "RENEW_EVERY", timedelta(seconds=0.2))
    return seen


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as entered:
        yield entered


async def cold(inn: Inn) -> Run:
    run = await inn.start("visitor")
    await run.is_warm()
    assert inn.host.warmth.make_room(1) == 1
    await wait_until(lambda: run.id not in inn.host.guests)
    return run


async def is_held(inn: Inn, run: Run, **values: Any) -> None:
    """The ledger has the run like this."""
    runs = table_of(tables.Run)
    await inn.ledger.database.write(update(runs).where(runs.c.id == run.id).values(**values))


@pytest.mark.parametrize("at", ["warm", "work"])
async def test_what_another_living_host_has_is_left_to_it_until_it_is_dead(
    inn: Inn, looks: list[str], caplog: pytest.LogCaptureFixture, at: str
) -> None:
    caplog.set_level(logging.INFO, "standby.host")
    run = await cold(inn)
    if at == "warm":
        assert await inn.ledger.leases.take(f"{LEASES}127.0.0.1:1/x", ELSEWHERE, timedelta(minutes=1))
        await is_held(inn, run, hold="warm", holder=ELSEWHERE, wake_address="127.0.0.1:1#x")
    else:
        await is_held(inn, run, state="running", hold=None, holder=ELSEWHERE, lease_expires_at=clock.utcnow() + HOUR)
    looks.clear()
    await inn.client.resume_flow_run(UUID(run.id), run_input={"answer": 8})
    await wait_until(lambda: len(looks) >= 3, shows=run.shown)
    assert (await run.prefect()).type is StateType.SCHEDULED, await run.shown()
    assert (await run.row()).holder == ELSEWHERE
    said = [line for line in caplog.messages if "another's, who lives" in line]
    assert len(said) == 1, "once for each run and holder"
    assert run.id in said[0]
    assert ELSEWHERE in said[0]
    if at == "warm":
        await inn.ledger.leases.give_up(f"{LEASES}127.0.0.1:1/x", ELSEWHERE)
    else:
        await is_held(inn, run, lease_expires_at=clock.utcnow() - HOUR)
    assert await run.result() == 8
    assert run.deeds("came") == 1


@pytest.mark.parametrize("limit", [1], indirect=True)
@pytest.mark.parametrize("answered", ["signalled", "resumed"])
async def test_what_waits_for_a_slot_in_another_host_goes_on_in_one_that_has_one(
    inn: Inn, looks: list[str], monkeypatch: pytest.MonkeyPatch, answered: str
) -> None:
    monkeypatch.setattr(settings, "ELSEWHERE", timedelta(seconds=0.2))
    run = await cold(inn)
    await inn.host.slots.enter("other")
    assert await inn.ledger.leases.take(f"{LEASES}127.0.0.1:1/x", ELSEWHERE, timedelta(minutes=1))
    await is_held(inn, run, hold="warm", holder=ELSEWHERE, wake_address="127.0.0.1:1#x")
    if answered == "signalled":
        await run.signal("round-0", 8)
        looked = inn.host.ledger.hosted.to_take_up
        times: list[None] = []
        monkeypatch.setattr(inn.host.ledger.hosted, "to_take_up", lambda of: times.append(None) or looked(of))
        await wait_until(lambda: len(times) >= 2, shows=run.shown)
    else:
        await inn.client.resume_flow_run(UUID(run.id), run_input={"answer": 8})
        await wait_until(lambda: inn.host.slots.waiting == 1, shows=run.shown)
    assert (await run.row()).holder == ELSEWHERE, "there is no slot here, either"
    inn.host.slots.leave("other")
    assert await run.result() == 8
    assert run.deeds("came") == 1


@pytest.mark.parametrize("limit", [1], indirect=True)
@pytest.mark.parametrize("there", ["gone on", "any number"])
async def test_what_waits_for_no_slot_in_another_host_is_left_there(
    inn: Inn, looks: list[str], monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    """That host has gone on at once and parked again, and Prefect, which is told afterwards, shows the old resume; or
    it has no limit, and goes on with it as soon as it can."""
    monkeypatch.setattr(settings, "ELSEWHERE", timedelta())
    run = await cold(inn)
    lease = f"{LEASES}127.0.0.1:1/x{NO_LIMIT if there == 'any number' else ''}"
    assert await inn.ledger.leases.take(lease, ELSEWHERE, timedelta(minutes=1))
    attempt = 2 if there == "gone on" else 1
    await is_held(inn, run, hold="warm", holder=ELSEWHERE, wake_address="127.0.0.1:1#x", attempt=attempt)
    looks.clear()
    await inn.client.resume_flow_run(UUID(run.id), run_input={"answer": 8})
    await wait_until(lambda: looks.count(run.id) >= 3, shows=run.shown)
    row = await run.row()
    assert (row.holder, row.hold, row.attempt) == (ELSEWHERE, "warm", attempt)
    assert (await run.prefect()).type is StateType.SCHEDULED, await run.shown()
    await inn.ledger.leases.give_up(lease, ELSEWHERE)
    assert await run.result() == 8
    assert run.deeds("came") == 1


@pytest.mark.parametrize("limit", [None, 1], indirect=True)
async def test_a_host_says_in_its_lease_whether_it_has_a_limit(inn: Inn, limit: int | None) -> None:
    run = await inn.start("visitor")
    await run.is_warm()
    row = await inn.ledger.hosted.whose(run.id)
    assert row is not None
    assert (row.alive, row.limited) == (True, limit is not None)


@pytest.mark.parametrize("limit", [1], indirect=True)
async def test_what_waits_for_a_slot_elsewhere_is_left_there_while_prefect_cannot_be_asked(
    inn: Inn, monkeypatch: pytest.MonkeyPatch, stack: AsyncExitStack
) -> None:
    """Its host goes on with it without Prefect."""
    monkeypatch.setattr(settings, "ELSEWHERE", timedelta(seconds=0.2))
    run = await cold(inn)
    assert await inn.ledger.leases.take(f"{LEASES}127.0.0.1:1/x", ELSEWHERE, timedelta(minutes=1))
    # It hears of its answer, so that nobody wakes it through Prefect.
    ear = await stack.enter_async_context(Ear.open(lambda _: None))
    await is_held(inn, run, hold="warm", holder=ELSEWHERE, wake_address=f"{ear.address}#x")
    asked: list[list[str]] = []

    async def away(_client: Any, run_ids: list[str]) -> Any:
        asked.append(run_ids)
        raise httpx.ConnectError("away")

    with monkeypatch.context() as patched:
        patched.setattr(calling_over, "runs_of", away)
        await run.signal("round-0", 8)
        await wait_until(lambda: asked.count([run.id]) >= 2, shows=run.shown)
        row = await run.row()
        assert (row.holder, row.hold, row.attempt) == (ELSEWHERE, "warm", 1)
    assert await run.result() == 8


@pytest.mark.parametrize("limit", [1], indirect=True)
async def test_what_another_has_called_over_waits_for_no_slot_here(inn: Inn) -> None:
    run = await inn.start("visitor")
    await run.is_warm()
    await inn.host.slots.enter("other")
    await run.signal("round-0", 8)
    await wait_until(lambda: inn.host.slots.waiting == 1)
    await is_held(inn, run, hold="suspend", holder=ELSEWHERE, attempt=2)
    await wait_until(lambda: (run.id in inn.host.guests, inn.host.slots.waiting) == (False, 0), shows=run.shown)


async def test_a_run_that_has_just_ended_elsewhere_is_not_begun_again(inn: Inn, looks: list[str]) -> None:
    """Its host is ahead of Prefect, which shows it as it was woken."""
    run = await inn.start("stumbler")
    await run.is_warm()
    await run.signal("round-0", 3)
    await run.is_in(RunState.FAILED)
    await run.is_shown(StateType.FAILED)
    looks.clear()
    await inn.client.set_flow_run_state(UUID(run.id), Scheduled(name="Resuming"), force=True)
    await wait_until(lambda: run.id in looks, shows=run.shown)
    assert (await run.prefect()).type is StateType.SCHEDULED, await run.shown()
    await inn.client.set_flow_run_state(UUID(run.id), Scheduled(name="AwaitingRetry"), force=True)
    await run.is_in(RunState.COMPLETED)
    assert await run.result() == 3
