"""Runs are woken after their signals and answers were taken: a slow Prefect keeps nobody from hearing of that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.client.orchestration import PrefectClient

from standby import Approval, doors
from standby.gateway import reception
from standby.gateway.reception import Reception
from standby.ledger import Ledger
from standby.links import address_of, link_for
from standby.states import Disposition, Hold, Role, WaitState
from tests.gateway.conftest import Gate, opened
from tests.ledger.acts import parked, signal
from tests.support.waiting import wait_until


class Prefect:
    """Answers when it is let; notes whom it was asked to wake, and how many at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers = asyncio.Event()
        self.woken: list[str] = []
        self.at_once = self.most = 0
        monkeypatch.setattr(reception, "wake", self._wake)

    async def _wake(self, client: Any, run_id: str) -> None:
        self.woken.append(run_id)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await self.answers.wait()
            if run_id == "run-0":
                raise httpx.ConnectError("Prefect is away")
        finally:
            self.at_once -= 1


@pytest.fixture
async def ledger(sqlite_url: str) -> AsyncIterator[Ledger]:
    opened = await Ledger.connect(sqlite_url)
    yield opened
    await opened.close()


async def taken(desk: Reception, ledger: Ledger, run: str, hold: Hold = Hold.SUSPEND) -> None:
    await parked(ledger, [signal(correlation=run)], run=run, hold=hold)
    made = await desk.take(topic="paid", key=run, payload="1", source="bank", delivery_id=run)
    assert (made.disposition, made.wake) == (Disposition.DELIVERED, True)


async def test_a_slow_prefect_delays_no_acknowledgement(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are woken, some at a time; one that could not be is the keeper's. A run that pauses needs no Prefect."""
    prefect = Prefect(monkeypatch)
    desk = Reception(ledger, client=object())  # type: ignore[arg-type]
    runs = [f"run-{number}" for number in range(3 * reception.AT_ONCE)]
    for run in runs:
        await taken(desk, ledger, run)
    await taken(desk, ledger, "paused", Hold.PAUSE)
    await wait_until(lambda: len(prefect.woken) == reception.AT_ONCE)
    prefect.answers.set()
    await wait_until(lambda: prefect.woken == runs)
    assert prefect.most == reception.AT_ONCE
    await desk.close()


async def test_a_gateway_that_stops_leaves_what_it_cannot_do_to_the_keeper(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so does one that has too much to do."""
    prefect = Prefect(monkeypatch)
    monkeypatch.setattr(reception, "PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(reception, "MOST", 2)
    desk = Reception(ledger, client=object())  # type: ignore[arg-type]
    for run in ("run-1", "run-2", "run-3"):
        await taken(desk, ledger, run)
    await wait_until(lambda: len(prefect.woken) == 2)
    await desk.close()
    assert (prefect.woken, prefect.at_once) == (["run-1", "run-2"], 0)
    assert [run.state for run in await ledger.runs.all(ended=False)] == ["ready"] * 3


@pytest.fixture
async def hung(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gate]:
    """A gateway whose Prefect server takes connections, and answers nobody."""
    monkeypatch.setattr(doors, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(doors, "TELL_SECONDS", 0.2)
    gone = asyncio.Event()

    async def never(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        writer.close()

    server = await asyncio.start_server(never, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, PrefectClient(f"http://127.0.0.1:{port}/api") as client, opened(ledger, client) as gate:
        yield gate
        gone.set()


async def test_an_answer_that_was_taken_is_acknowledged_while_prefect_hangs(hung: Gate, ledger: Ledger) -> None:
    """By key and by link; the keeper wakes the run."""
    by_key, by_link = [
        (await parked(ledger, [Approval("Pay?").row("approval")], run=str(uuid4()))).waits[0] for _ in range(2)
    ]
    approver = await hung.as_(Role.APPROVER)
    path = await address_of(ledger, await link_for(ledger, by_link, "bob"), "")
    async with asyncio.timeout(10):
        told = await hung.client.post(f"/waits/{by_key.id}/answer", json={"approved": True}, headers=approver)
        page = await hung.client.post(path, data={"approved": "true"})
    assert (told.status_code, told.json()["decided"], told.json()["woken"]) == (200, True, False)
    assert (page.status_code, "Your answer counts" in page.text) == (200, True)
    for wait in (by_key, by_link):
        assert (await ledger.waits.get(wait.id)).state == WaitState.SETTLED


async def test_a_signal_with_a_start_is_taken_while_prefect_hangs(hung: Gate, ledger: Ledger) -> None:
    """Unchecked by Prefect, but not by itself; the keeper starts the run."""
    sender = await hung.as_(Role.SENDER)
    async with asyncio.timeout(10):
        for key, status in (("7", 200), (None, 422)):
            body = {"key": key, "delivery_id": f"d{key}", "start": {"deployment": "seller/live"}}
            told = await hung.client.post("/signals/order", json=body, headers=sender)
            assert told.status_code == status, told.text
    [start] = await ledger.starts.all()
    assert (start.correlation, start.run_id) == ("7", None)


async def test_a_start_of_what_no_address_can_be_made_of_is_refused(hung: Gate, ledger: Ledger) -> None:
    sender = await hung.as_(Role.SENDER)
    for deployment in ("a/b\n", "a\0/b"):
        body = {"key": "7", "start": {"deployment": deployment}}
        told = await hung.client.post("/signals/order", json=body, headers=sender)
        assert (told.status_code, "start.deployment" in told.json()["problems"][0]["field"]) == (422, True), told.text
    assert await ledger.starts.all() == []
