"""Connections of the ledger: SQLite or PostgreSQL, one way to read, one statement at a time, or one transaction.

Transactions are short and take their locks in one order: topic, run, wait, signal. SQLite has one writer at a time,
so a transaction there takes the write lock when it begins and needs no row locks.
"""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import aiosqlite
import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import ARRAY, ColumnElement, Select, Text, any_, bindparam, event, func, or_, select
from sqlalchemy.engine import URL, CursorResult, Dialect, Result, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql import ClauseElement, Executable

from standby import clock
from standby.branches import apart_here
from standby.errors import LedgerUnavailable
from standby.ledger.one_trip import OneTripCursor
from standby.ledger.prepared import Prepared

BUSY_TIMEOUT_MS = 30_000
"""How long a SQLite statement waits for another process's write, in milliseconds."""

RESTED_SECONDS = 0.005
"""A PostgreSQL connection that was not used for this long is asked whether it lives before it is used again, which
takes 0.1 ms: much for a step that follows another at once, nothing after one that took its time."""

RESTED_LONG_SECONDS = 30.0
"""The same for one that is to read, which is read from once more where it turns out to be dead: a firewall may by then
have dropped it without a word, and who reads would wait for ``STATEMENT_SECONDS``."""

STATEMENT_SECONDS = 30.0
"""How long PostgreSQL may take to answer, locks it waits for included: a network that was cut says nothing."""

IDLE_SECONDS = 60.0
"""How long a transaction may do nothing before PostgreSQL undoes it: who is frozen must not keep its locks."""

CLOSE_SECONDS = 1.0
"""How long PostgreSQL may take to answer a connection's goodbye."""

_asks_first: ContextVar[bool] = ContextVar("standby_asks_first", default=True)
"""Whether a connection that has rested is asked whether it lives."""

M = TypeVar("M")

_MADE: dict[tuple[Callable[..., Any], bool], Any] = {}
"""What was made for a kind of database (whether it is SQLite), by what made it."""


class Database:
    """An open ledger database. Bound to the event loop it was opened in."""

    def __init__(self, url: str) -> None:
        self.url = _async_url(url)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self.shown = _without_password(url)
        self._writer, self._reader = self._sqlite_engines() if self.sqlite else self._postgres_engines()
        # One connection writes on SQLite: in one process, writers queue here and not in SQLite's busy sleep.
        self._writing = asyncio.Lock()

    def _sqlite_engines(self) -> tuple[AsyncEngine, AsyncEngine]:
        if self.url.database and self.url.database != ":memory:":
            try:
                Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise LedgerUnavailable(self.shown, error) from error
        common: dict[str, Any] = {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True}
        writer = create_async_engine(self.url, pool_size=1, max_overflow=0, **common)
        reader = create_async_engine(self.url, pool_size=2, max_overflow=4, pool_use_lifo=True, **common)
        for engine in (writer, reader):
            event.listen(engine.sync_engine, "connect", _configure_sqlite)
            event.listen(engine.sync_engine, "invalidate", _roll_back_sqlite)
        return writer, reader

    def _postgres_engines(self) -> tuple[AsyncEngine, AsyncEngine]:
        # Single statements need no transaction of their own, nor does the question whether a connection lives.
        # The one used last is used again: it need not be asked whether it lives, and the server has all at hand.
        engine = create_async_engine(
            self.url, pool_size=5, max_overflow=10, pool_use_lifo=True, isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            connect_args={"timeout": STATEMENT_SECONDS, "command_timeout": STATEMENT_SECONDS},
        )  # fmt: skip
        event.listen(engine.sync_engine, "connect", _configure_postgres)
        event.listen(engine.sync_engine, "checkin", _note_rest)
        event.listen(engine.sync_engine, "checkout", _refuse_the_dead)
        event.listen(engine.sync_engine, "close", _close_postgres)
        return engine.execution_options(isolation_level="READ COMMITTED"), engine

    @property
    def dialect(self) -> Dialect:
        return self._writer.dialect

    async def close(self) -> None:
        await self._writer.dispose()
        await self._reader.dispose()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """One write transaction: committed when the block ends, undone when it raises."""
        if not self.sqlite:
            async with self._named_errors(), self._writer.begin() as connection:
                yield connection
            return
        async with self._named_errors(), self._writing, self._writer.connect() as connection:
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
                await connection.exec_driver_sql("COMMIT")
            except BaseException:
                try:
                    await connection.exec_driver_sql("ROLLBACK")
                except SQLAlchemyError:
                    # SQLite has undone it already (disk full), or the statement was cancelled (_roll_back_sqlite).
                    await connection.invalidate()
                raise

    async def write(self, statement: Executable | Prepared, parameters: dict[str, Any] | None = None) -> int:
        """One statement as its own transaction. Returns the number of rows it changed."""
        engine = self._writer if self.sqlite else self._reader
        async with self._named_errors():
            if self.sqlite:
                async with self._writing, engine.connect() as connection:
                    return await _changed(connection, statement, parameters)
            async with engine.connect() as connection:
                return await _changed(connection, statement, parameters)

    def made(self, make: Callable[[Database], M]) -> M:
        """What ``make`` makes for this kind of database: statements, which take milliseconds, once in this process."""
        if (make, self.sqlite) not in _MADE:
            _MADE[make, self.sqlite] = make(self)
        made: M = _MADE[make, self.sqlite]
        return made

    def prepared(self, statement: ClauseElement) -> Prepared:
        """The statement compiled once, for ``write``."""
        return Prepared(statement, self.dialect)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection for reads; each statement sees what is committed when it starts."""
        async with self._named_errors(), self._reader.connect() as connection:
            yield connection

    async def read(self, statement: Select[Any], parameters: dict[str, Any] | None = None) -> list[Any]:
        """All rows of one query. Over a connection that turns out to be dead it is made once more: to ask first whether
        it lives takes longer."""
        if not self.sqlite:
            token = _asks_first.set(False)
            try:
                return await self._read(statement, parameters)
            except LedgerUnavailable as error:
                if not _is_lost(error.__cause__):
                    raise
            finally:
                _asks_first.reset(token)
        return await self._read(statement, parameters)

    async def _read(self, statement: Select[Any], parameters: dict[str, Any] | None) -> list[Any]:
        async with self.reading() as connection:
            return list((await connection.execute(statement, parameters)).all())

    @asynccontextmanager
    async def _named_errors(self) -> AsyncIterator[None]:
        """Turn "the database is away" into an error that says so; leave statements' own errors alone.

        The tasks in which SQLAlchemy closes connections end whatever ends: one that is not given back is missed by all.
        """
        try:
            with apart_here():
                yield
        except LedgerUnavailable:
            raise
        except (
            OSError,
            PoolTimeout,
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
        ) as error:
            # The driver's own come from connecting, and when the server hangs up in the middle of something.
            raise LedgerUnavailable(self.shown, error) from error
        except DBAPIError as error:
            if _is_away(error):
                raise LedgerUnavailable(self.shown, error.orig) from error
            raise


def among(column: ColumnElement[str], name: str, database: Database) -> ColumnElement[bool]:
    """Whether the column is one of the values of the parameter ``name``, which ``listed`` makes: one statement, however
    many there are, that is compiled and prepared once."""
    if database.sqlite:
        each = func.json_each(bindparam(name, type_=Text())).table_valued("value")
        return column.in_(select(each.c.value))
    return column == any_(bindparam(name, type_=ARRAY(Text)))


def unindexed(state: ColumnElement[Any]) -> ColumnElement[Any]:
    """A state, where the rows are few by another condition: SQLite, which keeps no statistics, would go by the index on
    it through all rows that are in that state."""
    return func.coalesce(state, "")


def by(column: ColumnElement[datetime | None], before: datetime) -> ColumnElement[bool]:
    """Whether the column's time is not after ``before``, or lies so far ahead that the clock was set back since."""
    return or_(column <= before, column > clock.utcnow() + clock.AHEAD)


def listed(values: Iterable[str], database: Database) -> Any:
    return json.dumps(list(values)) if database.sqlite else list(values)


_AWAY = ("08", "25006", "25P03", "28", "3D", "40", "42501", "53", "55", "57", "58")
"""SQLSTATEs of PostgreSQL that are the server's state and not a statement's mistake: connection, read only, idle for
too long, login, no such database, deadlock, permission, no room, closed to us, shutdown, disk."""

_LOST = (ConnectionError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresConnectionError)

_IN_THE_WAY = ("40P01", "55P03")
"""Deadlock, and a lock that was not there in time."""


def in_the_way(error: LedgerUnavailable) -> bool:
    """Whether it was another transaction's lock, and not the database."""
    return getattr(getattr(error.__cause__, "orig", None), "sqlstate", None) in _IN_THE_WAY


def _is_lost(error: BaseException | None) -> bool:
    """Whether it was the connection, and another one may serve."""
    return error.connection_invalidated if isinstance(error, DBAPIError) else isinstance(error, _LOST)


def _is_away(error: DBAPIError) -> bool:
    if error.connection_invalidated or isinstance(error, OperationalError):
        return True
    state = getattr(error.orig, "sqlstate", None)
    # A file that is damaged, or no SQLite database at all, is a DatabaseError and none of its subclasses.
    return state.startswith(_AWAY) if state else type(error.orig) is sqlite3.DatabaseError


def _without_password(url: str) -> str:
    """The address for messages; of one that cannot be parsed, too."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return re.sub(r":(?!//).*@", ":***@", url)
    if "password" in parsed.query:
        parsed = parsed.update_query_dict({"password": "***"})
    return parsed.render_as_string(hide_password=True)


def _async_url(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise LedgerUnavailable(_without_password(url), error) from error
    driver = {
        "sqlite": "sqlite+aiosqlite",
        "postgresql": "postgresql+asyncpg",
        "postgres": "postgresql+asyncpg",
    }
    backend = parsed.drivername.partition("+")[0]
    if backend not in driver:
        raise LedgerUnavailable(_without_password(url), f"{backend!r} is neither sqlite nor postgresql")
    return parsed.set(drivername=driver[backend])


def _configure_sqlite(connection: Any, _record: Any) -> None:
    driver: aiosqlite.Connection = connection.driver_connection
    driver.cursor = lambda: OneTripCursor(driver)  # type: ignore[method-assign, assignment, return-value]
    try:
        connection.run_async(_set_pragmas)
    except BaseException:
        # To its end: SQLAlchemy closes it again or leaves it open, as it happens, and either must do no harm.
        connection.run_async(lambda driver: driver.close())
        raise


def _configure_postgres(connection: Any, _record: Any) -> None:
    # Not as a setting of the connection: poolers refuse those that they do not know.
    timeout = f"SET idle_in_transaction_session_timeout = {IDLE_SECONDS * 1000:.0f}"
    connection.run_async(lambda driver: driver.execute(timeout))


def _close_postgres(connection: Any, _record: Any) -> None:
    """asyncpg waits for ever for a server that does not answer its goodbye."""
    with suppress(Exception):
        connection.run_async(lambda driver: driver.close(timeout=CLOSE_SECONDS))


def _roll_back_sqlite(connection: Any, _record: Any, _error: BaseException | None) -> None:
    """A connection whose statement was cancelled is closed, but keeps its locks until its cursors are collected."""
    connection.run_async(lambda driver: asyncio.shield(driver.rollback()))


async def _set_pragmas(connection: aiosqlite.Connection) -> None:
    await connection.execute_fetchall(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    # FULL: a commit that was acknowledged survives a power cut, not only a killed process.
    await connection.execute_fetchall("PRAGMA synchronous = FULL")
    async with asyncio.timeout(BUSY_TIMEOUT_MS / 1000):
        while True:
            try:
                await connection.execute_fetchall("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                # The first processes of a new ledger switch it at once, and this SQLite does not wait for each other.
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    raise
                await asyncio.sleep(0.01)


def _note_rest(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info["rests_since"] = monotonic()


def _refuse_the_dead(connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
    """A database that was restarted must not cost a step its checkpoint: the pool replaces what is found dead here."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError("The server has closed the connection.")
    rested = monotonic() - record.info.get("rests_since", monotonic())
    if rested > (RESTED_SECONDS if _asks_first.get() else RESTED_LONG_SECONDS):
        try:
            connection.ping()
        except Exception as error:  # the driver's own, here: SQLAlchemy's do not reach so far down
            raise DisconnectionError("The connection does not answer.") from error


async def _changed(
    connection: AsyncConnection, statement: Executable | Prepared, parameters: dict[str, Any] | None
) -> int:
    result: Result[Any]
    if isinstance(statement, Prepared):
        result = await connection.exec_driver_sql(statement.sql, statement.values(parameters or {}))
    else:
        result = await connection.execute(statement, parameters)
    return result.rowcount if isinstance(result, CursorResult) else 0
