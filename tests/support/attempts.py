"""Attempts of runs as real processes, to be killed, frozen and waited for."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from tests.support.server import prefect_env

ROOT = Path(__file__).parents[2]

ENDS_WITHIN = 120.0
"""Seconds an attempt may take; most take less than one."""


class Attempt:
    """One process that works on a run, from its start to its end or its kill."""

    def __init__(self, number: int, log: Path, trace: Path | None) -> None:
        self.number = number
        self._log, self._trace = log, trace
        self.started: Future[int] = Future()
        self.code: Future[int] = Future()

    @property
    def pid(self) -> int:
        return self.started.result(10)

    @property
    def running(self) -> bool:
        return not self.code.done()

    async def ended(self, within: float = ENDS_WITHIN) -> int:
        """Its exit code when it has ended; minus the number of the signal that killed it."""
        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self.code)), within)
        except TimeoutError:
            raise AssertionError(f"attempt {self.number} has not ended within {within} s:\n{self.output}") from None

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        await self.ended()

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

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
    """Starts attempts against one Prefect server, through the process that ``engine`` describes."""

    def __init__(self, api_url: str, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._orders: dict[int, Attempt] = {}
        self._count = 0
        env = prefect_env(
            folder / "prefect",
            PREFECT_API_URL=api_url,
            # Plain http: no certificates need be loaded, which takes a tenth of an attempt's time.
            PREFECT_API_TLS_INSECURE_SKIP_VERIFY="true",
            # A batch of logs that is cut off by a kill can leave a Prefect server on SQLite locked for a minute.
            PREFECT_LOGGING_TO_API_ENABLED="false",
        )
        with (folder / "engine.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.engine"],
                cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        # A thread, because attempts of one session are waited for in the event loops of many tests.
        self._reader = threading.Thread(target=self._read, name="attempts", daemon=True)
        self._reader.start()

    def begin(self, env: dict[str, str], *, plain: bool = False, traced: bool = False) -> Attempt:
        with self._lock:
            self._count += 1
            number = self._count
            log = self._folder / f"attempt-{number}.log"
            trace = self._folder / f"attempt-{number}.trace" if traced else None
            # Prefect copies the agents' project into the working folder.
            cwd = self._folder / f"attempt-{number}"
            cwd.mkdir()
            attempt = self._orders[number] = Attempt(number, log, trace)
            order = {
                "order": number, "env": env, "cwd": str(cwd), "log": str(log), "plain": plain,
                "trace": str(trace) if trace else None,
            }  # fmt: skip
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        return attempt

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._reader.join(10)
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said: dict[str, Any] = json.loads(line)
            attempt = self._orders[said["order"]]
            if "pid" in said:
                attempt.started.set_result(said["pid"])
            else:
                attempt.code.set_result(said["code"])
