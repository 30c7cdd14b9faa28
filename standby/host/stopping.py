"""How a host is told to stop, and how long what runs in it may then go on."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

from standby.errors import UsageError

GRACE_SECONDS = 10.0
"""How long a host that is told to stop lets agents go on to their next checkpoint: ``STANDBY_HOST_GRACE``."""


class StopSignals:
    """SIGTERM and SIGINT let the host drain, a second one ends it."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.getsignal(number)
            try:
                loop.add_signal_handler(number, self._told, number)
            except (NotImplementedError, RuntimeError, ValueError):
                continue  # not in the main thread: who runs the loop stops the worker
            self._before[number] = before

    def _told(self, number: int) -> None:
        if self._stop.is_set():
            os.kill(os.getpid(), signal.SIGKILL)
        self._stop.set()

    def __exit__(self, *_: Any) -> None:
        loop = asyncio.get_running_loop()
        for number, before in self._before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, before)


def grace() -> float:
    told = os.environ.get("STANDBY_HOST_GRACE")
    try:
        return max(0.0, float(told)) if told else GRACE_SECONDS
    except ValueError:
        raise UsageError(f"STANDBY_HOST_GRACE is a number of seconds, not {told!r}.") from None
