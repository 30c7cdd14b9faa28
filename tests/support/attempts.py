"""Attempts of runs as real processes, to be killed, frozen and waited for."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from tests.support.forks import ATTEMPTS, Fork, Forks, connected
from tests.support.server import prefect_env

ENDS_WITHIN = 120.0
"""Seconds an attempt may take; most take less than one."""


class Attempt(Fork):
    """One process that works on a run, from its start to its end or its kill."""

    def __init__(self, number: int, log: Path, trace: Path | None) -> None:
        super().__init__()
        self.number = number
        self._log, self._trace = log, trace

    async def ended(self, within: float = ENDS_WITHIN) -> int:
        """Its exit code when it has ended; minus the number of the signal that killed it."""
        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self.code)), within)
        except TimeoutError:
            raise AssertionError(f"attempt {self.number} has not ended within {within} s:\n{self.output}") from None

    async def killed(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.kill()
        await self.ended()

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    @property
    def output(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    @property
    def points(self) -> list[str]:
        """The crash points it came by, in order; only of an attempt that was traced."""
        assert self._trace is not None, "this attempt was not traced"
        return self._trace.read_text().split() if self._trace.exists() else []


class Attempts:
    """Starts attempts against one Prefect server."""

    def __init__(self, api_url: str, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        env = prefect_env(
            folder / "prefect",
            PREFECT_API_URL=api_url,
            # Plain http: no certificates need be loaded, which takes a tenth of an attempt's time.
            PREFECT_API_TLS_INSECURE_SKIP_VERIFY="true",
            # A batch of logs that is cut off by a kill can leave a Prefect server on SQLite locked for a minute.
            PREFECT_LOGGING_TO_API_ENABLED="false",
        )
        # Of its own: Prefect reads its settings, such as the server's address, when it is imported.
        self._forks = Forks(connected(folder, env, *ATTEMPTS), env)

    def begin(self, env: dict[str, str], *, plain: bool = False, traced: bool = False) -> Attempt:
        self._count += 1
        number = self._count
        trace = self._folder / f"attempt-{number}.trace" if traced else None
        # Prefect copies the agents' project into the working folder.
        cwd = self._folder / f"attempt-{number}"
        cwd.mkdir()
        log = self._folder / f"attempt-{number}.log"
        attempt = Attempt(number, log, trace)
        self._forks.start(attempt, ["prefect.engine"], env=env, cwd=cwd, log=log, plain=plain, trace=trace)
        return attempt

    def close(self) -> None:
        self._forks.close()
