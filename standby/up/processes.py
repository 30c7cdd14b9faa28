"""A child process that is started, watched, started again when it dies, and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from standby import holder
from standby.errors import UsageError

STOP_SECONDS = 15.0
"""How long a child has to end after SIGTERM before it is killed."""


class Child:
    """``name``, what to run and where its output goes.

    ``report`` is told in a sentence when it is started again, ``on_start`` is called each time it has started.
    ``drains``: it is told to end by the end of its standard input, which comes too when this process is killed, and
    may take its time. Others are told by a signal, with all they have started, and have ``stop_seconds`` until they are
    killed (None: ``STOP_SECONDS``). ``kept``: whether it is started again when it dies; if not, it is from ``keep`` on.
    """

    def __init__(
        self,
        name: str,
        argv: list[str],
        env: dict[str, str],
        log_file: Path,
        *,
        report: Callable[[str], None],
        on_start: Callable[[], None],
        drains: bool = False,
        stop_seconds: float | None = None,
        kept: bool = True,
    ) -> None:
        self.name, self.argv, self.env, self.log_file = name, argv, env, log_file
        self._report, self._on_start, self._drains = report, on_start, drains
        self._stop_seconds = stop_seconds
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._stopping = False
        self._kept = asyncio.Event()
        if kept:
            self._kept.set()
        self._said_before = 0

    async def start(self) -> None:
        """Start it. Raises ``UsageError`` when the program is not there."""
        self._said_before = self.log_file.stat().st_size if self.log_file.exists() else 0
        await self._spawn()
        self._watcher = asyncio.create_task(self._watch())

    async def _spawn(self) -> None:
        with self.log_file.open("ab") as log:
            try:
                # A session of its own: Ctrl-C reaches only `standby up`, which stops its children in order.
                self._process = await asyncio.create_subprocess_exec(
                    *self.argv, env=self.env, stdout=log, stderr=log, start_new_session=True,
                    stdin=asyncio.subprocess.PIPE if self._drains else asyncio.subprocess.DEVNULL,
                )  # fmt: skip
            except FileNotFoundError as error:
                raise no_program(self.name, self.argv) from error
        self._on_start()

    def keep(self) -> None:
        """From now on it is started again when it dies, and if it has died already."""
        self._kept.set()

    async def _watch(self) -> None:
        delay = 0.5
        while self._process is not None:
            started = time.monotonic()
            code = await self._process.wait()
            if self._stopping:
                return
            await self._kept.wait()
            delay = 0.5 if time.monotonic() - started > 30 else min(delay * 2, 15)
            self._report(f"The {self.name} stopped ({_how(code)}) and is started again. Its log: {self.log_file}")
            while True:
                await asyncio.sleep(delay)
                try:
                    await self._spawn()
                    break
                except (OSError, UsageError) as error:  # no memory, a full disk
                    delay = min(delay * 2, 15)
                    self._report(f"The {self.name} could not be started and is tried again: {error}")

    @property
    def identity(self) -> str | None:
        """``pid/start`` of the running process, by which it is found again and not mistaken for a later one."""
        return f"{self._process.pid}/{holder.started(self._process.pid)}" if self._process is not None else None

    @property
    def ended(self) -> bool:
        return self._process is not None and self._process.returncode is not None

    def tail(self, lines: int = 12) -> str:
        """The end of what it has said since it was started here."""
        with self.log_file.open("rb") as log:
            log.seek(self._said_before)
            text = log.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    async def stop(self) -> None:
        self._stopping = True
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            await self._process.wait()
        elif self._process is not None and self._process.returncode is None:
            signal_group(self._process.pid, signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_SECONDS if self._stop_seconds is None else self._stop_seconds):
                    await self._process.wait()
            except TimeoutError:
                signal_group(self._process.pid, signal.SIGKILL)
                await self._process.wait()
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)

    def end(self) -> None:
        """It has no more time: kill it, with all it has started. ``stop`` then returns at once."""
        self._stopping = True
        if self._process is not None and self._process.returncode is None:
            signal_group(self._process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """What drains has no more time."""
        with contextlib.suppress(ProcessLookupError):
            if self._process is not None:
                self._process.kill()


def command(text: str) -> list[str]:
    """A command line of the configuration; ``python`` and ``prefect`` are this environment's."""
    argv = shlex.split(text)
    if argv and argv[0] == "python":
        argv[0] = sys.executable
    elif argv and argv[0] == "prefect":
        argv[:1] = [sys.executable, "-m", "prefect"]
    return argv


def no_program(name: str, argv: list[str]) -> UsageError:
    return UsageError(f"{name} cannot be started: there is no program {argv[0]!r}.")


def stop_leftover(process: str, seconds: float) -> bool:
    """Stop what an earlier ``standby up`` that was killed left running, and kill it when it has not ended after
    ``seconds``. False when it is gone already."""
    pid, _, started = process.partition("/")
    if not started or holder.started(int(pid)) != started:
        return False
    signal_group(int(pid), signal.SIGTERM)
    with contextlib.suppress(psutil.NoSuchProcess):
        try:
            psutil.Process(int(pid)).wait(seconds)
        except psutil.TimeoutExpired:
            signal_group(int(pid), signal.SIGKILL)
    return True


def signal_group(pid: int, what: signal.Signals) -> None:
    """Send a signal to a process that leads a session of its own, and to all it has started; nothing if it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, what)


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
