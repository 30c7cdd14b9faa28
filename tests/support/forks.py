"""Processes that are forked from one that has imported what they need (``engine``): to be killed and waited for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Fork:
    """One process, with what ``subprocess.Popen`` has for it."""

    def __init__(self) -> None:
        self.started: Future[int] = Future()
        self.code: Future[int] = Future()

    @property
    def pid(self) -> int:
        return self.started.result(10)

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


class Forks:
    """``imports``: the modules that the process that forks has imported; none: those of an attempt."""

    def __init__(self, folder: Path, env: Mapping[str, str], *imports: str) -> None:
        self._lock = threading.Lock()
        self._orders: list[Fork] = []
        with (folder / "engine.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.engine", *imports],
                cwd=ROOT, env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
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
        trace: Path | None = None,
    ) -> None:
        """Start ``fork``: ``python -m COMMAND``, with ``env`` added to the environment (None: taken from it).

        What it says goes to ``log``, what it says on its error stream to ``errors`` if that is given.
        """
        with self._lock:
            self._orders.append(fork)
            order = {
                "order": len(self._orders) - 1, "command": command, "env": dict(env), "cwd": str(cwd), "log": str(log),
                "errors": str(errors or log), "plain": plain, "trace": str(trace) if trace else None,
            }  # fmt: skip
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()

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
            fork = self._orders[said["order"]]
            if "pid" in said:
                fork.started.set_result(said["pid"])
            else:
                fork.code.set_result(said["code"])
