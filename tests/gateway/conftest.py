"""A gateway to knock at: the real application on a real ledger, spoken to over HTTP without a socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from prefect.client.orchestration import PrefectClient

from standby.connect import Place
from standby.gateway.app import create_app
from standby.gateway.headers import HeadersInTime
from standby.gateway.keys import make_key
from standby.gateway.webhook_source import WebhookSource
from standby.gateway.webhooks import Inbox
from standby.ledger import Ledger
from standby.states import Role
from tests.support.server import PrefectServer
from tests.support.waiting import wait_until


class Sources:
    """The blocks a Prefect server would have, by name."""

    def __init__(self) -> None:
        self.blocks: dict[str, WebhookSource] = {}

    async def find(self, name: str) -> WebhookSource | None:
        return self.blocks.get(name)


class Gate:
    """A running gateway, ``app``. ``client`` has no key; ``as_`` gives one that has."""

    def __init__(self, ledger: Ledger, app: FastAPI, client: httpx.AsyncClient, sources: Sources) -> None:
        self.ledger, self.app, self.client, self.sources = ledger, app, client, sources
        self.clients: list[httpx.AsyncClient] = []  # others, which are closed with it

    async def as_(self, role: Role, name: str = "ada", parties: list[str] | None = None) -> dict[str, str]:
        """The header of somebody with this role."""
        key, _ = await make_key(self.ledger, name, role, parties=parties)
        return {"Authorization": f"Bearer {key}"}

    async def signals(self) -> list[tuple[str, str]]:
        """Topic and disposition of every signal, in order."""
        return [(signal.topic, signal.disposition) for signal in await self.ledger.signals.all()]


@asynccontextmanager
async def nothing_to_receive() -> AsyncIterator[Inbox | None]:
    """The inbox of a gateway that knows no Prefect server."""
    yield None


@asynccontextmanager
async def opened(ledger: Ledger, prefect: PrefectClient | None = None, **more: Any) -> AsyncIterator[Gate]:
    """``prefect`` is a client of the Prefect server that the gateway knows, if it knows one."""
    sources = Sources()

    @asynccontextmanager
    async def inbox() -> AsyncIterator[Inbox]:
        yield Inbox(sources, prefect)  # type: ignore[arg-type]

    api_url = None if prefect is None else str(prefect.api_url)
    app = create_app(ledger, Place(ledger.database.url.render_as_string(), api_url), inbox)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", **more) as client:
            gate = Gate(ledger, app, client, sources)
            yield gate
            for other in gate.clients:
                await other.aclose()


@asynccontextmanager
async def served(gate: Gate) -> AsyncIterator[uvicorn.Server]:
    """The gateway behind a port, as `standby gateway` has it, for what HTTP clients would not do."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(gate.app, lifespan="off", log_level="warning", http=HeadersInTime))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await wait_until(lambda: server.started, 10)
            yield server
        finally:
            server.should_exit = True
            await serving


@pytest.fixture
async def gate(ledger: Ledger) -> AsyncIterator[Gate]:
    """A gateway on a ledger of each kind of database."""
    async with opened(ledger) as gate:
        yield gate


@pytest.fixture
async def door(sqlite_url: str) -> AsyncIterator[Gate]:
    """A gateway for what does not depend on the database."""
    ledger = await Ledger.connect(sqlite_url)
    try:
        async with opened(ledger) as gate:
            yield gate
    finally:
        await ledger.close()


@pytest.fixture
async def house(prefect_server: PrefectServer, sqlite_url: str) -> AsyncIterator[Gate]:
    """A gateway that knows a Prefect server."""
    ledger = await Ledger.connect(sqlite_url)
    try:
        async with PrefectClient(prefect_server.url) as client, opened(ledger, client) as gate:
            yield gate
    finally:
        await ledger.close()
