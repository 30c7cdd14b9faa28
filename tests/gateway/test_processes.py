"""Gateways as real processes, several on one ledger, killed at the worst moments, and a sender that tries again."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from standby.gateway.keys import make_key
from standby.ledger import Ledger
from standby.links import address_of, link_for
from standby.states import Role, WaitState
from tests.ledger.acts import approval, parked
from tests.ledger.acts import signal as a_wait
from tests.support.forks import Fork, Forks
from tests.support.ports import reserved_port
from tests.support.waiting import wait_until

Start = Callable[..., Awaitable["Process"]]


class Process:
    def __init__(self, forks: Forks, ledger_url: str, folder: Path, crash_at: str | None, **more: str) -> None:
        """``more``: of its environment."""
        self.port, self._port = reserved_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"gateway-{self.port}.log"
        env = {"STANDBY_LEDGER_URL": ledger_url, "STANDBY_HOME": str(folder / "home"), "STANDBY_CRASH_AT": crash_at}
        self.process = Fork()
        command = ["standby", "gateway", "--port", str(self.port)]
        # Prefect reads its settings when it is imported: who has others is no fork.
        forks.start(self.process, command, env=env | more, cwd=folder, log=self.log, plain=bool(more))

    async def ready(self) -> Process:
        async with httpx.AsyncClient(trust_env=False) as client:

            async def answers() -> bool:
                assert self.process.poll() is None, self.log.read_text()
                try:
                    return (await client.get(f"{self.url}/health")).is_success
                except httpx.TransportError:
                    return False

            await wait_until(answers, 120, every=0.1, shows=self.log.read_text)
        return self

    def close(self) -> None:
        self.process.kill()
        self.process.wait(30)
        self._port.close()


@pytest.fixture
async def start(forks: Forks, ledger_url: str, tmp_path: Path) -> AsyncIterator[Start]:
    started: list[Process] = []

    async def one(crash_at: str | None = None) -> Process:
        started.append(Process(forks, ledger_url, tmp_path, crash_at))
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


class LossyNetwork:
    """Stands before a gateway. What is sent arrives; the first answer is lost, and its connection is cut."""

    def __init__(self, gateway: Process) -> None:
        self.gateway, self.lost = gateway, 0

    async def __aenter__(self) -> LossyNetwork:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection("127.0.0.1", self.gateway.port)
        there = asyncio.create_task(_carry(reader, requests))
        first = await answers.read(65_536)
        if self.lost == 0 and first:
            self.lost += 1
        else:
            writer.write(first)
            await _carry(answers, writer)
        for end in (writer, requests):
            end.close()
        await asyncio.gather(there, writer.wait_closed(), requests.wait_closed(), return_exceptions=True)


async def _carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(65_536):
        target.write(data)
        await target.drain()


async def test_a_sender_whose_answer_was_lost_tries_again_and_hears_of_one_effect(ledger: Ledger, start: Start) -> None:
    """Row 30, with the retries of a library that many use: a signal, and a person's program that approves."""
    gateway = await start()
    form = {"answer_type": "standby.waits:Decision", "answer_schema": "{}"}
    waits = [(await parked(ledger, [row], run=row.key)).waits[0] for row in (a_wait(), approval(**form))]
    sent = [
        ("/signals/paid", Role.SENDER, {"key": "7", "delivery_id": "d", "payload": 1}),
        (f"/waits/{waits[1].id}/answer", Role.APPROVER, {"approved": True}),
    ]
    for (path, role, body), wait in zip(sent, waits, strict=True):
        key, _ = await make_key(ledger, "shop", role)

        def send(url: str, key: str = key, body: dict[str, object] = body) -> requests.Response:
            with requests.Session() as session:
                session.trust_env = False
                session.mount("http://", HTTPAdapter(max_retries=Retry(5, allowed_methods=None)))
                return session.post(url, json=body, headers={"Authorization": f"Bearer {key}"}, timeout=60)

        async with LossyNetwork(gateway) as network:
            told = await asyncio.to_thread(send, f"{network.url}{path}")
        assert (told.status_code, network.lost) == (200, 1), told.text
        assert told.json().get("disposition", "duplicate") == "duplicate"
        won = [one for one in await ledger.waits.decisions_of(wait.run_id) if one.verdict == "won"]
        assert len(won) == 1
    assert [row.disposition for row in await ledger.signals.all()] == ["delivered"]


async def test_it_stops_when_it_is_told_to_and_its_log_has_no_link_and_no_key(
    ledger: Ledger, start: Start, sender: httpx.AsyncClient
) -> None:
    """Row 61: a path may hold a link's token, so no request is logged, nor what is wrong with one."""
    gateway = await start()
    [wait] = (await parked(ledger, [approval(answer_schema="{}")])).waits
    link = await address_of(ledger, await link_for(ledger, wait, "ada"), gateway.url)
    token = link.rpartition("/")[2]
    for url in (link, f"{link}x", f"{gateway.url}/answer/{token}/x", f"{gateway.url}/waits/{token}"):
        for method in ("GET", "POST", "HEAD", "PUT"):
            assert (await sender.request(method, url, content=b"\xff")).status_code < 500
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(f"GET /answer/{token} HTTP/9.9\r\nno header\r\n\r\n".encode())
    assert b" 400 " in await reader.readline()
    writer.close()
    await writer.wait_closed()
    gateway.process.send_signal(signal.SIGTERM)
    stopped = gateway.process.wait(30)
    log = gateway.log.read_text()
    assert stopped == 0, log
    assert "Gateway on" in log
    assert "Traceback" not in log
    for secret in (token[:40], token[-20:], "sb_", (await ledger.secrets.get("links")).hex()):
        assert secret not in log
