"""Databases for the ledger, each test its own: a SQLite file, or a database of a PostgreSQL server.

The server is the one ``STANDBY_TEST_POSTGRES`` names (a URL whose role may create databases), else a local one that
lets us in, else a temporary one started from installed binaries. ``NoPostgres`` says why there is none.
"""

from __future__ import annotations

import asyncio
import getpass
import glob
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import asyncpg
from sqlalchemy import text

from standby.ledger import Ledger
from standby.ledger.tables import metadata
from tests.support.ports import reserved_port
from tests.support.waiting import wait_until

TOLD = "STANDBY_TEST_POSTGRES"

LARGE = 16_000_000
"""Bytes from which on a database is made anew for the next test, with no rows that are dead and no statistics of many;
an empty one has nine million."""


class NoPostgres(Exception):
    """There is no PostgreSQL to test with; the message says why."""


@contextmanager
def postgres_server() -> Iterator[str]:
    """The URL of a database on a PostgreSQL server where we may create others. Raises ``NoPostgres``."""
    if told := os.environ.get(TOLD):
        if (problem := asyncio.run(_problem_with(told))) is not None:
            raise NoPostgres(f"{TOLD} is set, and {problem}")
        yield told
        return
    for url in _local_urls():
        if asyncio.run(_problem_with(url)) is None:
            yield url
            return
    with _temporary_server() as url:
        yield url


@asynccontextmanager
async def fresh_database(server: str, like: str | None = None) -> AsyncIterator[str]:
    """The URL of a new database, dropped afterwards with whoever is still connected to it.

    It is empty, or as the one at the URL ``like``, to which nobody may be connected meanwhile.
    """
    url = await _made(server, like)
    try:
        yield url
    finally:
        await _dropped(server, url)


async def _made(server: str, like: str | None) -> str:
    name = f"standby_test_{uuid4().hex[:12]}"
    await on_server(
        server,
        f"CREATE DATABASE {name}{f' TEMPLATE {urlsplit(like).path[1:]}' if like else ''}",
        # Tests kill processes, not machines: a commit need not wait for the disk.
        f"ALTER DATABASE {name} SET synchronous_commit = off",
    )
    return _with_database(server, name)


async def _dropped(server: str, url: str) -> None:
    await on_server(server, f"DROP DATABASE {urlsplit(url).path[1:]} WITH (FORCE)")


class Ledgers:
    """PostgreSQL databases with the ledger's tables and nothing in them, for one test after the other: to empty one
    takes a tenth of the time of making one. One in which more was done than that is dropped."""

    def __init__(self, server: str, like: str) -> None:
        self._server, self._like = server, like
        self._used: list[str] = []
        self._shape: object = None

    async def take(self) -> str:
        """The URL of one that nobody is connected to, or will be: whoever used it is gone by now."""
        if self._shape is None:
            self._shape = await _shape_of(self._like)
        while self._used:
            url = self._used.pop()
            if await self._emptied(url):
                return url
            await _dropped(self._server, url)
        return await _made(self._server, self._like)

    def give_back(self, url: str) -> None:
        self._used.append(url)

    async def close(self) -> None:
        for url in self._used:
            await _dropped(self._server, url)

    async def _emptied(self, url: str) -> bool:
        try:
            connection = await asyncpg.connect(url, timeout=10)
        except (OSError, asyncpg.PostgresError):
            return False
        try:
            await connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            if await _shape_of(url, connection) != self._shape:
                return False
            tables = [table.name for table in reversed(metadata.sorted_tables)]
            await connection.execute("; ".join(f"DELETE FROM {table}" for table in tables))
        finally:
            await connection.close()
        return True


async def _shape_of(url: str, connection: asyncpg.Connection | None = None) -> object:
    """Tables, columns and indexes of a database, its settings, and whether it has grown large."""
    own = connection or await asyncpg.connect(url, timeout=10)
    try:
        columns = await own.fetch(
            "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns "
            "WHERE table_schema = 'public' ORDER BY 1, 2"
        )
        indexes = await own.fetch("SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1")
        others = await own.fetch(
            "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal UNION ALL SELECT proname FROM pg_proc "
            "WHERE pronamespace = 'public'::regnamespace ORDER BY 1"
        )
        version = await own.fetch("SELECT version FROM ledger_version ORDER BY 1")
        large = await own.fetchval("SELECT pg_database_size(current_database())") > LARGE
    finally:
        if connection is None:
            await own.close()
    return [*map(tuple, columns), *map(tuple, indexes), *map(tuple, others), *map(tuple, version), large]


async def on_server(server: str, *statements: str) -> None:
    """Run statements on the server, each on its own."""
    connection = await asyncpg.connect(server, timeout=10)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def kill_listeners(ledger: Ledger) -> int:
    """Kill the connections that listen for notifications of this ledger (PostgreSQL). Returns how many."""
    async with ledger.database.transaction() as connection:
        killed = await connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name = 'standby notifications'"
            )
        )
        return len(killed.all())


def _with_database(url: str, name: str) -> str:
    return urlsplit(url)._replace(path=f"/{name}").geturl()


async def _problem_with(url: str) -> str | None:
    """Why the server at ``url`` will not do; None when it will."""
    try:
        connection = await asyncpg.connect(url, timeout=3)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return f"it does not let us in: {error}"
    try:
        allowed = await connection.fetchval("SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user")
    finally:
        await connection.close()
    return None if allowed else "its role may not create databases"


def _local_urls() -> Iterator[str]:
    user = quote(getpass.getuser())
    for name in ("postgres", "test", user):
        yield f"postgresql://{user}@127.0.0.1:5432/{name}"
        for folder in ("/var/run/postgresql", "/tmp"):
            if Path(folder, ".s.PGSQL.5432").exists():
                yield f"postgresql://{user}@/{name}?host={quote(folder, safe='')}"


def _binary(name: str) -> str:
    """Path of the newest installed PostgreSQL program."""
    folders = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: float(path.split("/")[4]), reverse=True)
    for folder in folders:
        if (path := Path(folder, name)).exists():
            return str(path)
    if found := shutil.which(name):
        return found
    raise NoPostgres(f"no PostgreSQL answers on port 5432, {TOLD} is not set, and {name} is not installed")


@contextmanager
def _temporary_server() -> Iterator[str]:
    """A server in a temporary folder. PostgreSQL refuses to run as root, so root runs it as another user."""
    initdb, postgres = _binary("initdb"), _binary("postgres")
    folder = Path(tempfile.mkdtemp(prefix="standby-postgres-"))
    as_user: dict[str, Any] = {"cwd": folder}
    if os.geteuid() == 0:
        account = _unprivileged()
        as_user |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        os.chown(folder, account.pw_uid, account.pw_gid)
    port, reservation = reserved_port()
    data, log = folder / "data", folder / "log"
    url = f"postgresql://standby@127.0.0.1:{port}/postgres"
    try:
        with closing(reservation):
            made = subprocess.run(
                [initdb, "-D", str(data), "-U", "standby", "-A", "trust", "-N", "--no-instructions"],
                capture_output=True,
                text=True,
                **as_user,
            )
            if made.returncode:
                raise NoPostgres(f"no PostgreSQL answers on port 5432, and initdb fails: {made.stderr.strip()}")
            settings = ("listen_addresses=127.0.0.1", f"port={port}", "unix_socket_directories=", "fsync=off")
            command = [postgres, "-D", str(data), *(part for setting in settings for part in ("-c", setting))]
            with log.open("wb") as output:
                process = subprocess.Popen(command, stdout=output, stderr=output, **as_user)
            try:
                asyncio.run(_answers(url, log))
                yield url
            finally:
                process.terminate()
                process.wait(30)
    finally:
        shutil.rmtree(folder)


async def _answers(url: str, log: Path) -> None:
    async def well() -> bool:
        return await _problem_with(url) is None

    await wait_until(well, 20, shows=log.read_text)


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise NoPostgres("PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody'")
