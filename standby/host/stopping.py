"""How a host is told to stop, and how long what runs in it may then go on."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from standby.errors import UsageError

GRACE_SECONDS = 10.0
"""How long a host that is told to stop lets agents go on to their next checkpoint: ``STANDBY_HOST_GRACE``."""


LAST_SECONDS = 2.0
"""How long the process of a host that was told to stop may take to end when the host has: what keeps it then is a step
in a thread, or an agent that goes on though it was cancelled."""


class StopSignals:
    """SIGTERM and SIGINT let the host drain, a second one ends it. When it has drained, its process ends."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._before: dict[int, Any] = {}
        self._told_to = False

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
        self._told_to = True
        self._stop.set()

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        loop = asyncio.get_running_loop()
        for number, before in self._before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, before)
        if self._told_to:
            # Python would wait for threads at its end, and for cancelled tasks: both may never come.
            last = threading.Timer(LAST_SECONDS, _end_here, [0 if kind is None else 1])
            last.daemon = True
            last.start()


def _end_here(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)


def grace(environment: Mapping[str, str] = os.environ) -> float:
    """Seconds. Raises ``UsageError`` for what is no number of them."""
    told = environment.get("STANDBY_HOST_GRACE")
    try:
        seconds = float(told) if told else GRACE_SECONDS
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise UsageError(f"STANDBY_HOST_GRACE is a number of seconds, not {told!r}. Set it to 0 or more.")
    return seconds
