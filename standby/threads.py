"""Threads for steps that are not async.

They are not the event loop's own few, in which Python also looks up host names: steps that take long would keep an
agent beside them from connecting to anything.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
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
