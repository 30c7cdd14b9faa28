"""Numbered steps from an empty database to the tables of today; each runs once, in order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sqlalchemy import inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.schema import CreateColumn

from standby.errors import LedgerUnavailable
from standby.ledger.database import Database
from standby.ledger.tables import metadata

# Any fixed number: processes that start together take turns on it (PostgreSQL advisory lock).
_MIGRATION_LOCK = 7_262_396


async def _first_tables(connection: AsyncConnection) -> None:
    await connection.run_sync(metadata.create_all)


async def _keys(connection: AsyncConnection) -> None:
    """The gateway's keys; a new ledger has the table already."""
    await connection.run_sync(metadata.tables["api_keys"].create, checkfirst=True)


async def _waits_of_more_kinds(connection: AsyncConnection) -> None:
    """Policies, delegations, notices, polls and children; a new ledger has them already."""
    for name in ("delegations", "notices"):
        await connection.run_sync(metadata.tables[name].create, checkfirst=True)
    kinds = ("policy", "chased", "chase_at", "child", "child_run_id", "poll", "polls", "poll_at", "poll_note")
    await _add_columns(connection, "waits", *kinds)
    await _add_columns(connection, "decisions", "place", "opening")
    for index in metadata.tables["waits"].indexes:
        await connection.run_sync(index.create, checkfirst=True)


async def _links(connection: AsyncConnection) -> None:
    """What signs approval links, and notices to one person; a new ledger has them already."""
    await connection.run_sync(metadata.tables["secrets"].create, checkfirst=True)
    await _add_columns(connection, "notices", "personal")


async def _starts_and_events(connection: AsyncConnection) -> None:
    """Runs that signals start, and waits for events; a new ledger has them already."""
    await connection.run_sync(metadata.tables["starts"].create, checkfirst=True)
    for index in metadata.tables["waits"].indexes:
        await connection.run_sync(index.create, checkfirst=True)


async def _starts_that_live_again(connection: AsyncConnection) -> None:
    """How they are found; and what ``_links`` makes, for ledgers that have counted other steps before it."""
    await _links(connection)
    for index in metadata.tables["starts"].indexes:
        await connection.run_sync(index.create, checkfirst=True)


async def _channels_of_notices(connection: AsyncConnection) -> None:
    """Which channels have taken a notice; a new ledger has it already."""
    await _add_columns(connection, "notices", "sent_to")


async def _holds(connection: AsyncConnection) -> None:
    """How runs are held while they wait, and what a wait's agent is; a new ledger has them already."""
    await _add_columns(connection, "waits", "agent", "hold", "held", "let_go_at", "gib_seconds")
    await connection.execute(
        text("UPDATE waits SET agent = (SELECT flow FROM runs WHERE runs.id = waits.run_id) WHERE agent IS NULL")
    )
    for index in metadata.tables["waits"].indexes:
        await connection.run_sync(index.create, checkfirst=True)


async def _tasks(connection: AsyncConnection) -> None:
    """What A2A tasks need; a new ledger has it already."""
    await _add_columns(connection, "starts", "context_id", "ended_as")
    await connection.run_sync(metadata.tables["pushes"].create, checkfirst=True)
    for index in metadata.tables["starts"].indexes:
        await connection.run_sync(index.create, checkfirst=True)


async def _grants(connection: AsyncConnection) -> None:
    """Approved calls of tools, and what a wait was about; a new ledger has them already."""
    await connection.run_sync(metadata.tables["grants"].create, checkfirst=True)
    await _add_columns(connection, "waits", "fresh")


async def _purses(connection: AsyncConnection) -> None:
    """What agents spend together; a new ledger has them already."""
    await connection.run_sync(metadata.tables["purses"].create, checkfirst=True)


async def _asked_since(connection: AsyncConnection) -> None:
    """Since when a wait asks what it asks now; a new ledger has it already."""
    await _add_columns(connection, "waits", "asked_since")
    await connection.execute(text("UPDATE waits SET asked_since = opening"))


async def _retries(connection: AsyncConnection) -> None:
    """What tells a retry from what was before an end; a new ledger has it already."""
    await _add_columns(connection, "runs", "ended_after", "ended_by")
    await _add_columns(connection, "waits", "child_attempt")


async def _how_runs_ended(connection: AsyncConnection) -> None:
    """The step that failed, and who cancelled; a new ledger has them already."""
    await _add_columns(connection, "runs", "failed_step", "cancelled_by", "cancelled_door")


async def _decisions_of_a_run(connection: AsyncConnection) -> None:
    """How they are found, and the signals that are kept no longer; a new ledger has the indexes already."""
    for name in ("decisions", "signals"):
        for index in metadata.tables[name].indexes:
            await connection.run_sync(index.create, checkfirst=True)


async def _add_columns(connection: AsyncConnection, table: str, *names: str) -> None:
    """Columns that today's table has and an older one may not."""
    there = await connection.run_sync(lambda sync: {column["name"] for column in inspect(sync).get_columns(table)})
    for name in names:
        if name not in there:
            column = CreateColumn(metadata.tables[table].c[name]).compile(dialect=connection.dialect)
            await connection.execute(text(f"ALTER TABLE {table} ADD COLUMN {column}"))


MIGRATIONS: list[Callable[[AsyncConnection], Awaitable[None]]] = [
    _first_tables,
    _keys,
    _waits_of_more_kinds,
    _links,
    _starts_and_events,
    _starts_that_live_again,
    _channels_of_notices,
    _holds,
    _tasks,
    _grants,
    _purses,
    _asked_since,
    _retries,
    _how_runs_ended,
    _decisions_of_a_run,
]


async def migrate(database: Database) -> None:
    """Bring the database to today's tables. Safe to call from any number of processes at once."""
    if await _version(database) == len(MIGRATIONS):
        return
    async with database.transaction() as connection:
        if not database.sqlite:
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
        await connection.execute(text("CREATE TABLE IF NOT EXISTS ledger_version (version INTEGER NOT NULL)"))
        current = (await connection.execute(text("SELECT max(version) FROM ledger_version"))).scalar() or 0
        if current > len(MIGRATIONS):
            raise LedgerUnavailable(
                database.shown,
                f"it has version {current}, this Standby knows up to {len(MIGRATIONS)}; upgrade it",
            )
        for number, migration in enumerate(MIGRATIONS[current:], start=current + 1):
            await migration(connection)
            await connection.execute(text("INSERT INTO ledger_version VALUES (:n)"), {"n": number})


async def _version(database: Database) -> int | None:
    """The version of the database; None when it has no tables yet. Takes no lock."""
    async with database.reading() as connection:
        if not await connection.run_sync(lambda sync: inspect(sync).has_table("ledger_version")):
            return None
        version: int | None = (await connection.execute(text("SELECT max(version) FROM ledger_version"))).scalar()
        return version
