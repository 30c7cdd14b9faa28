"""What PostgreSQL tells at once: which run has become READY. The transaction that makes it so says it (NOTIFY).

Only a hint: who hears looks at the ledger, and looks anyway now and then. SQLite has no such thing, and nobody is told.
A pooler that gives out connections by the transaction passes none of this on; what hears nothing looks later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from random import uniform
from typing import Any

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import Update, func
from sqlalchemy.ext.asyncio import AsyncConnection

from standby.branches import apart
from standby.ledger.database import STATEMENT_SECONDS, Database
from standby.ledger.tables import Run, table_of

log = logging.getLogger("standby.ledger")

CHANNEL = "standby_ready"
"""The channel; a message on it is a run's id. Channels are a database's own, and so are ledgers."""

BACKOFF_SECONDS = (0.05, 5.0)
"""How long the first try to connect again waits, and the longest one; doubled in between, and spread by half."""

BEAT_SECONDS = 20.0
"""How often the connection is asked whether it lives, should the network have been cut without a word."""

Heard = Callable[[str | None], None]
"""Called with the id of a run that is READY, or with None: the connection is there (again), look at the ledger."""

_DIALECTS_OWN = ("prepared_statement_cache_size", "prepared_statement_name_func", "async_fallback", "async_creator_fn")


def told(ready: Update, on: AsyncConnection | Database) -> Any:
    """The UPDATE that makes runs READY, as one that also tells it when the transaction commits."""
    if on.dialect.name != "postgresql":
        return ready
    # In the same statement: another one would be another trip.
    return ready.returning(func.pg_notify(CHANNEL, table_of(Run).c.id))


class Notifications:
    """One connection that listens, while anybody in this event loop wants to hear."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._listeners: list[Heard] = []
        self._task: asyncio.Task[None] | None = None
        self._connected = False

    @asynccontextmanager
    async def to(self, heard: Heard) -> AsyncIterator[None]:
        """Call ``heard`` for what is told, until the block ends. It must not block; on SQLite it is never called.

        What was told while there was no connection is lost: ``heard(None)`` says so each time it is there again.
        """
        if self._db.sqlite:
            yield
            return
        self._listeners.append(heard)
        if self._task is None:
            self._task = asyncio.create_task(self._listen(), name="standby-notifications", context=apart())
        elif self._connected:
            heard(None)
        try:
            yield
        finally:
            self._listeners.remove(heard)
            if not self._listeners and self._task is not None:
                task, self._task = self._task, None
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _listen(self) -> None:
        pause = BACKOFF_SECONDS[0]
        while True:
            try:
                connection = await asyncpg.connect(**self._options())
                try:
                    lost = asyncio.Event()
                    connection.add_termination_listener(lambda _, lost=lost: lost.set())
                    await connection.add_listener(CHANNEL, self._told)
                    pause, self._connected = BACKOFF_SECONDS[0], True
                    self._tell(None)
                    await self._while_it_lives(connection, lost)
                finally:
                    self._connected = False
                    connection.terminate()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
                log.warning("Notifications of %s are not heard for now: %s", self._db.shown, error)
            await asyncio.sleep(uniform(pause / 2, pause))
            pause = min(pause * 2, BACKOFF_SECONDS[1])

    async def _while_it_lives(self, connection: Any, lost: asyncio.Event) -> None:
        while not lost.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT_SECONDS):
                    await lost.wait()
                    return
            await connection.fetchval("SELECT 1", timeout=STATEMENT_SECONDS)

    def _options(self) -> dict[str, Any]:
        _, options = self._db.url.get_dialect()().create_connect_args(self._db.url)
        return {name: value for name, value in options.items() if name not in _DIALECTS_OWN} | {
            "timeout": STATEMENT_SECONDS,
            "server_settings": {"application_name": "standby notifications"},
        }

    def _told(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        self._tell(payload)

    def _tell(self, run_id: str | None) -> None:
        for heard in list(self._listeners):
            heard(run_id)
