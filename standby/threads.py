"""Threads for steps, and for sources of conditions, that are not async.

They are not the event loop's own few, in which Python also looks up host names: what takes long would keep an agent
beside it from connecting to anything.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from threading import Thread
from typing import Any, TypeVar

R = TypeVar("R")

MOST = 64
"""How many of them act at the same time in one process; others wait for their turn."""


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MOST, thread_name_prefix="standby-step")


def in_thread(fn: Callable[..., R], *args: Any, **kwargs: Any) -> Future[R]:
    """Call it in a thread, in a copy of the caller's context."""
    return _threads().submit(partial(contextvars.copy_context().run, fn, *args, **kwargs))


def in_own_thread(fn: Callable[..., R], *args: Any, **kwargs: Any) -> Future[R]:
    """Call it in a thread of its own, which keeps no other call from its turn and no process from ending.

    For what changes nothing: if the process ends, it is cut off.
    """
    future: Future[R] = Future()

    def call() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = fn(*args, **kwargs)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    Thread(target=contextvars.copy_context().run, args=(call,), name="standby-source", daemon=True).start()
    return future
