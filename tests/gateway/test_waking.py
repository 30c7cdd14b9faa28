"""Runs are woken after their signals were acknowledged: Prefect keeps no sender waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from standby.gateway import reception
from standby.gateway.reception import Reception
from standby.ledger import Ledger
from standby.states import Disposition, Hold
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
