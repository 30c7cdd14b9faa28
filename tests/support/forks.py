"""Processes that are forked from one that has imported what they need (``engine``): to be killed and waited for."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from standby.host.forkserver import PRELOADED

ROOT = Path(__file__).parents[2]

ATTEMPTS = PRELOADED
"""What attempts of runs import."""

SERVICES = (
    *PRELOADED, "prefect.cli.server", "prefect.server.api.server", "standby.cli", "standby.cli_gateway",
    "standby.cli_host", "standby.gateway.server", "standby.host.forkserver", "standby.host.worker", "standby.host.host",
    "standby.keeper", "standby.up.stack", "deployments.bootstrap", "deployments.demo", "deployments.sandbox_bank.app",
)  # fmt: skip
"""What Prefect servers, banks, commands of the terminal, `standby up` and all its children import."""


class Fork:
    """One process, with what ``subprocess.Popen`` has for it."""

    def __init__(self) -> None:
        self.started: Future[int] = Future()
        self.code: Future[int] = Future()

    @property
    def pid(self) -> int:
        return self.started.result(60)

    @property
    def running(self) -> bool:
        return not self.code.done()

    def poll(self) -> int | None:
        return self.code.result() if self.code.done() else None

    def wait(self, timeout: float) -> int:
        """Its exit code when it has ended, minus the number of the signal that killed it. Raises ``TimeoutError``."""
        return self.code.result(timeout)

    def send_signal(self, by: signal.Signals) -> None:
        if self.running:
            os.kill(self.pid, by)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def connected(folder: Path, env: Mapping[str, str], *modules: str) -> socket.socket:
    """A connection to the engine of this folder that has imported these modules, started if there is none."""
    name = hashlib.sha256("\n".join([str(folder), *modules]).encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir(), f"standby-{name}.sock")  # short, as the path of a socket has to be
    with (folder / "engine.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)  # of one that was killed
            with (folder / "engine.log").open("ab") as log:
                subprocess.run(
                    [sys.executable, "-m", "tests.support.engine", str(path), *modules],
                    cwd=ROOT, env=dict(env), stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True,
                )  # fmt: skip
            connection.connect(str(path))
    return connection


class Forks:
    def __init__(self, connection: socket.socket, env: Mapping[str, str] | None = None) -> None:
        """``env``: the environment that all of them share."""
        self._lock = threading.Lock()
        self._orders: list[Fork] = []
        self._env = dict(env or {})
        self._connection = connection
        # A thread, because those of one session are waited for in the event loops of many tests.
        self._reader = threading.Thread(target=self._read, name="forks", daemon=True)
        self._reader.start()

    def start(
        self,
        fork: Fork,
        command: Sequence[str],
        *,
        env: Mapping[str, str | None],
        cwd: Path,
        log: Path,
        errors: Path | None = None,
        plain: bool = False,
        service: bool = False,
        trace: Path | None = None,
    ) -> None:
        """Start ``fork``: ``python -m COMMAND``, with ``env`` added to the environment (None: taken from it).

        What it says goes to ``log``, what it says on its error stream to ``errors`` if that is given.
        """
        merged = {name: value for name, value in {**self._env, **env}.items() if value is not None}
        with self._lock:
            self._orders.append(fork)
            order = {
                "order": len(self._orders) - 1, "command": command, "env": merged, "cwd": str(cwd), "log": str(log),
                "errors": str(errors or log), "plain": plain, "service": service,
                "trace": str(trace) if trace else None,
            }  # fmt: skip
            self._connection.sendall(json.dumps(order).encode() + b"\n")

    def close(self) -> None:
        """Kill those that are left."""
        self._connection.shutdown(socket.SHUT_RDWR)
        self._reader.join(10)
        self._connection.close()

    def _read(self) -> None:
        with self._connection.makefile("rb") as answers:
            for line in answers:
                said: dict[str, Any] = json.loads(line)
                fork = self._orders[said["order"]]
                if "pid" in said:
                    fork.started.set_result(said["pid"])
                else:
                    fork.code.set_result(said["code"])
        gone = RuntimeError("the process that forks has ended; engine.log may say why")
        for fork in self._orders:
            for answer in (fork.started, fork.code):
                if not answer.done():
                    answer.set_exception(gone)
