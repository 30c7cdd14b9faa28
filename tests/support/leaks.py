"""What a test must not leave behind: processes and threads."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import glob

import psutil

GONE_WITHIN = 30.0
"""Seconds that what a test started has to be gone after it."""


@contextmanager
def no_leaks() -> Iterator[None]:
    """Fail if the block leaves a child process or a thread behind. Child processes are killed."""
    processes, threads = _children(), set(threading.enumerate())
    yield
    deadline = time.monotonic() + GONE_WITHIN
    while True:
        left_threads = [thread for thread in threading.enumerate() if thread not in threads and _is_ours(thread)]
        left_processes = _children() - processes
        if not left_threads and not left_processes:
            return
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    shown = []
    for pid in left_processes:
        with suppress(psutil.NoSuchProcess):
            shown.append(f"{pid}: {' '.join(psutil.Process(pid).cmdline())}")
            os.kill(pid, signal.SIGKILL)
    raise AssertionError(f"left behind: processes {shown}, threads {left_threads}")


def _children() -> set[int]:
    lists = glob("/proc/self/task/*/children")
    if not lists:
        return {process.pid for process in psutil.Process().children()}
    # A hundredth of the time, twice for each of thousands of tests: psutil looks at all processes there are.
    found = set()
    for children in lists:
        with suppress(FileNotFoundError, ProcessLookupError), open(children) as file:  # the thread has ended
            found |= {int(pid) for pid in file.read().split()}
    return found


def _is_ours(thread: threading.Thread) -> bool:
    """Prefect keeps daemon threads for the life of the process; asyncio does with its default executor's, and we with
    those of steps, which wait for the next one."""
    kept = ("asyncio_", "standby-step")
    return thread.name == "standby-pulse" or not (thread.daemon or thread.name.startswith(kept))
