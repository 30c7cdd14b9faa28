"""What a test must not leave behind: processes and threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

GONE_WITHIN = 30.0
"""Seconds that what a test started has to be gone after it."""


@contextmanager
def no_leaks() -> Iterator[None]:
    """Fail if the block leaves a child process or a thread behind. Child processes are killed."""
    processes, threads = set(_children()), set(threading.enumerate())
    yield
    deadline = time.monotonic() + GONE_WITHIN
    while True:
        left_threads = [thread for thread in threading.enumerate() if thread not in threads and _is_ours(thread)]
        left_processes = [process for process in _children() if process not in processes]
        if not left_threads and not left_processes:
            return
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    shown = [f"{process.pid}: {' '.join(process.cmdline())}" for process in left_processes if process.is_running()]
    for process in left_processes:
        process.kill()
    raise AssertionError(f"left behind: processes {shown}, threads {left_threads}")


def _children() -> list[psutil.Process]:
    return psutil.Process().children()


def _is_ours(thread: threading.Thread) -> bool:
    """Prefect keeps daemon threads for the life of the process; asyncio does with its default executor's, and we with
    those of steps, which wait for the next one."""
    kept = ("asyncio_", "standby-step")
    return thread.name == "standby-pulse" or not (thread.daemon or thread.name.startswith(kept))
