"""A real Prefect server as a process of its own, on a port and a SQLite database that outlive it."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from uuid import UUID

import httpx

from tests.support.forks import Fork, Forks
from tests.support.ports import reserved_port
from tests.support.waiting import wait_until

STARTS_WITHIN = 120.0
"""Seconds until a started server answers /api/health; it takes ten on an idle machine."""

SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # Calls of their own for each client: our servers ask for none, and are of the version that these are.
    "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false",
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
    # What it does every few seconds of its own accord, and no test waits for; deadlines are the ledger's.
    **{
        f"PREFECT_SERVER_SERVICES_{service}_LOOP_SECONDS": "3600"
        for service in (
            "PAUSE_EXPIRATIONS",
            "CANCELLATION_CLEANUP",
            "CLEANUP_RECONCILER",
            "FOREMAN",
            "LATE_RUNS",
            "REPOSSESSOR",
            "SCHEDULER_RECENT_DEPLOYMENTS",
        )
    },
    # Events can be asked for when it has written them down.
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "0.2",
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT_CLI_PROMPT": "false",
}

ON_A_COPY = {
    "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false",
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
}
"""For a server whose database another one has made: it need not look whether all is in it, for a second each time."""


def prefect_env(home: Path, **more: str) -> dict[str, str]:
    """This process's environment without its Prefect and Standby settings, and with ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "STANDBY_"))}
    return kept | SETTINGS | {"PREFECT_HOME": str(home)} | more


class PrefectServer:
    """``url`` is the API's address, the same through any number of processes.

    With ``forks`` it is forked, else an interpreter of its own. ``settings`` are Prefect's, by the names of their
    variables, that it starts with beside ``SETTINGS``.
    """

    def __init__(self, folder: Path, forks: Forks | None = None) -> None:
        self.folder, self._forks = folder, forks
        self.home = folder / "prefect"
        self.home.mkdir(parents=True, exist_ok=True)
        self.port, self._reservation = reserved_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.database = self.home / "prefect.db"
        self.log = folder / "server.log"
        self.settings: dict[str, str] = {}
        self.deployed: dict[Path, dict[str, UUID]] = {}  # by project and entrypoint, for those who need no other
        self._process: subprocess.Popen[bytes] | Fork | None = None

    def keep_as_new(self, to: Path) -> None:
        """Copy the database as it is now, for other servers to ``begin_with``."""
        copy_database(self.database, unfinished := to.with_suffix(".copying"))
        unfinished.rename(to)

    def begin_with(self, database: Path) -> None:
        """Start from a copy of this database, which saves half of the time a first start takes."""
        copy_database(database, self.database)
        self.settings |= ON_A_COPY

    def launch(self) -> None:
        assert self._process is None, "the server is running"
        # As `standby up` starts it: a stock one on SQLite stands still for a minute now and then.
        command = ["standby.up.prefect_server", "--host", "127.0.0.1", "--port", str(self.port)]
        env = prefect_env(self.home, **self.settings)
        # In a session of its own, so its number is that of the group: with what it has started.
        if self._forks is not None:
            self._process = Fork()
            foreign: dict[str, str | None] = dict.fromkeys(os.environ)
            self._forks.start(self._process, command, env=foreign | env, cwd=self.folder, log=self.log, service=True)
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command], cwd=self.folder, env=env, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    async def ready(self) -> None:
        """Return when it answers."""
        async with httpx.AsyncClient(trust_env=False) as client:

            async def answers() -> bool:
                assert self._process is not None
                assert self._process.poll() is None, f"the server ended at its start: {self.log.read_text()[-4000:]}"
                try:
                    return (await client.get(f"{self.url}/health")).is_success
                except httpx.TransportError:
                    return False

            await wait_until(answers, STARTS_WITHIN, every=0.1, shows=self.log.read_text)

    def start_now(self) -> None:
        """As ``start``, where no event loop runs."""
        self.launch()
        asyncio.run(self.ready())

    async def start(self) -> None:
        self.launch()
        await self.ready()

    def kill(self) -> None:
        """SIGKILL for it and all it has started."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, by: signal.Signals) -> None:
        assert self._process is not None, "the server is not running"
        process, self._process = self._process, None
        os.killpg(process.pid, by)
        process.wait(30)

    def close(self) -> None:
        if self._process is not None:
            self.kill()
        self._reservation.close()


def copy_database(database: Path, to: Path) -> None:
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(to)) as copy:
        source.backup(copy)
