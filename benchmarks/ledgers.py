"""Fresh ledgers to measure on: a SQLite file, and a database of its own on a PostgreSQL server, dropped afterwards.

PostgreSQL is the one at ``STANDBY_TEST_POSTGRES``, else one that answers on this machine.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import create_async_engine

LOCAL = ("postgresql://postgres@127.0.0.1:5432/postgres", "postgresql://postgres:postgres@127.0.0.1:5432/postgres")
"""Where a PostgreSQL server of this machine may answer."""

ANSWER_SECONDS = 3.0
"""How long it may take to answer."""

KINDS = ("sqlite", "postgresql")


class NoDatabase(Exception):
    """There is no such database here; the message says why."""


@asynccontextmanager
async def ledger(kind: str, folder: Path) -> AsyncIterator[None]:
    """Agents of this process keep their ledger in a fresh database of the kind. Raises ``NoDatabase``."""
    async with database(kind, folder) as url:
        with _told(url):
            yield


@asynccontextmanager
async def database(kind: str, folder: Path) -> AsyncIterator[str]:
    """The address of a fresh database of the kind. Raises ``NoDatabase``."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / f'ledger-{uuid4().hex[:8]}.db'}"
        return
    server = await _postgres_server()
    name = f"standby_benchmark_{uuid4().hex[:12]}"
    await _run(server, f"CREATE DATABASE {name}")
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        await _run(server, f"DROP DATABASE {name} WITH (FORCE)")


async def _postgres_server() -> URL:
    told = os.environ.get("STANDBY_TEST_POSTGRES")
    reasons = []
    for address in [told] if told else LOCAL:
        server = make_url(address)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await _run(server, "SELECT 1")
            return server
        except Exception as error:  # whatever the driver says, it is not here
            reasons.append(f"{server.render_as_string()}: {str(error) or type(error).__name__}")
    raise NoDatabase(f"no PostgreSQL answers ({'; '.join(reasons)}); set STANDBY_TEST_POSTGRES")


async def _run(server: URL, statement: str) -> None:
    engine = create_async_engine(server.set(drivername="postgresql+asyncpg"), isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as connection:
            await connection.execute(text(statement))
    finally:
        await engine.dispose()


@contextmanager
def _told(url: str) -> Iterator[None]:
    before = os.environ.get("STANDBY_LEDGER_URL")
    os.environ["STANDBY_LEDGER_URL"] = url
    try:
        yield
    finally:
        if before is None:
            del os.environ["STANDBY_LEDGER_URL"]
        else:
            os.environ["STANDBY_LEDGER_URL"] = before
