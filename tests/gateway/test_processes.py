"""Gateways as real processes, several on one ledger, killed at the worst moments, and a sender that tries again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from standby.gateway.keys import make_key
from standby.ledger import Ledger
from standby.states import Role, WaitState
from tests.ledger.acts import parked
from tests.ledger.acts import signal as a_wait
from tests.support.ports import reserved_port
from tests.support.waiting import wait_until

Start = Callable[..., Awaitable["Process"]]


class Process:
    def __init__(self, ledger_url: str, folder: Path, crash_at: str | None, api_url: str | None = None) -> None:
        self.port, self._port = reserved_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"gateway-{self.port}.log"
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_API", "STANDBY_"))}
        env |= {"STANDBY_LEDGER_URL": ledger_url, "STANDBY_HOME": str(folder / "home")}
        if crash_at is not None:
            env["STANDBY_CRASH_AT"] = crash_at
        if api_url is not None:
            env["PREFECT_API_URL"] = api_url
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "standby", "gateway", "--port", str(self.port)], env=env, stdout=log, stderr=log
            )

    async def ready(self) -> Process:
        async with httpx.AsyncClient(trust_env=False) as client:

            async def answers() -> bool:
                assert self.process.poll() is None, self.log.read_text()
                try:
                    return (await client.get(f"{self.url}/health")).is_success
                except httpx.TransportError:
                    return False

            await wait_until(answers, 60, every=0.1, shows=self.log.read_text)
        return self

    def close(self) -> None:
        self.process.kill()
        self.process.wait(30)
        self._port.close()


@pytest.fixture
async def start(ledger_url: str, tmp_path: Path) -> AsyncIterator[Start]:
    started: list[Process] = []

    async def one(crash_at: str | None = None) -> Process:
        started.append(Process(ledger_url, tmp_path, crash_at))
        return await started[-1].ready()

    yield one
    for process in started:
        process.close()


@pytest.fixture
async def sender(ledger: Ledger) -> AsyncIterator[httpx.AsyncClient]:
    key, _ = await make_key(ledger, "bank", Role.SENDER)
    async with httpx.AsyncClient(
        headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=60, limits=httpx.Limits(max_connections=20)
    ) as client:
        yield client


async def send_until_taken(client: httpx.AsyncClient, gateways: list[Process], body: dict[str, object]) -> str:
    """What any sender of webhooks does: try again, anywhere, until somebody says 2xx. The disposition it was told."""
    for number in range(100):
        try:
            sent = await client.post(f"{gateways[number % len(gateways)].url}/signals/paid", json=body)
        except httpx.TransportError:
            continue
        if sent.is_success:
            return str(sent.json()["disposition"])
    raise AssertionError("nobody took it")


async def test_one_delivery_over_two_gateways_at_once_counts_once(
    ledger: Ledger, start: Start, sender: httpx.AsyncClient
) -> None:
    """Row 26."""
    gateways = await asyncio.gather(start(), start())
    [wait] = (await parked(ledger, [a_wait()])).waits
    body = {"key": "7", "delivery_id": "d", "payload": 1}
    told = await asyncio.gather(*(send_until_taken(sender, [gateways[n % 2]], body) for n in range(100)))
    assert Counter(told) == {"delivered": 1, "duplicate": 99}
    assert [row.disposition for row in await ledger.signals.all()] == ["delivered"]
    assert (await ledger.waits.get(wait.id)).state == WaitState.SETTLED


@pytest.mark.parametrize(
    ("point", "told", "kept"),
    [
        pytest.param("signal.delivering", "delivered", 0, id="before the commit"),  # row 21
        pytest.param("signal.delivered", "duplicate", 1, id="after the commit"),  # rows 22 and 30
    ],
)
async def test_a_gateway_that_dies_says_nothing_and_the_sender_tries_again(
    ledger: Ledger, start: Start, sender: httpx.AsyncClient, point: str, told: str, kept: int
) -> None:
    dying, well = await asyncio.gather(start(point), start())
    [wait] = (await parked(ledger, [a_wait()])).waits
    body = {"key": "7", "delivery_id": "d", "payload": 1}
    with pytest.raises(httpx.TransportError):
        await sender.post(f"{dying.url}/signals/paid", json=body)
    assert dying.process.wait(30) == -signal.SIGKILL
    assert len(await ledger.signals.all()) == kept
    assert await send_until_taken(sender, [dying, well], body) == told
    assert [row.disposition for row in await ledger.signals.all()] == ["delivered"]
    assert (await ledger.waits.get(wait.id)).answer == "1"
    # Whoever was to be woken and was not is found by the keeper.
    assert [run.id for run in await ledger.runs.all(ended=False)] == ["run"]


async def test_it_stops_when_it_is_told_to(start: Start) -> None:
    gateway = await start()
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(30) == 0, gateway.log.read_text()
    assert "Traceback" not in gateway.log.read_text()
