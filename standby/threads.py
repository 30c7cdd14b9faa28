"""Threads for steps, and for sources of conditions, that are not async.

They are not the event loop's own few, in which Python also looks up host names: what takes long would keep an agent
beside it from connecting to anything.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache, cached_property, partial
from threading import Thread
from typing import Any, TypeVar

R = TypeVar("R")

MOST = 64
"""How many of them act at the same time in one process; others wait for their turn."""


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MOST, thread_name_prefix="standby-step")


def for_a_future(fn: Callable[[], R], what: str) -> Callable[[], R]:
    """The function as a coroutine is one: no future holds ``StopIteration``, who awaits it would wait for ever.

    ``what``: the function's name in the ``RuntimeError`` that it raises instead.
    """

    def call() -> R:
        try:
            return fn()
        except StopIteration as error:
            raise RuntimeError(f"{what} raised StopIteration: give next() a default, or catch it.") from error

    return call


def in_thread(fn: Callable[[], R]) -> Future[R]:
    """Call it in a thread, in a copy of the caller's context."""
    return _threads().submit(contextvars.copy_context().run, fn)


class Threads:
    """Those that act for one run. Each acts on to its end, also when who called is cancelled meanwhile."""

    def __init__(self) -> None:
        self._acting: dict[Future[Any], bool] = {}
        self._loop = asyncio.get_running_loop()

    @cached_property
    def _one_ends(self) -> asyncio.Event:
        return asyncio.Event()  # few need it, and each run has these

    async def call(self, fn: Callable[[], R], *, given_up: bool = False) -> R:
        """Call it in a thread. ``given_up``: who called waits for it no longer than it likes."""
        called = in_thread(fn)
        self._acting[called] = given_up

        def ends(_: Any) -> None:
            with suppress(RuntimeError):  # the loop is over
                self._loop.call_soon_threadsafe(self._ends, called)

        called.add_done_callback(ends)
        return await asyncio.wrap_future(called)

    def _ends(self, called: Future[Any]) -> None:
        del self._acting[called]
        self._one_ends.set()

    async def none(self, *, but_given_up: bool = False) -> None:
        """Return when none acts any more, or none but those that were given up."""
        while not all(but_given_up and given_up for given_up in self._acting.values()):
            self._one_ends.clear()
            await self._one_ends.wait()


def in_own_thread(fn: Callable[..., R], *args: Any, **kwargs: Any) -> Future[R]:
    """Call it in a thread of its own, which keeps no other call from its turn and no process from ending.

    For what changes nothing: if the process ends, it is cut off.
    """
    future: Future[R] = Future()
    act = for_a_future(partial(fn, *args, **kwargs), getattr(fn, "__qualname__", repr(fn)))

    def call() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = act()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    Thread(target=contextvars.copy_context().run, args=(call,), name="standby-source", daemon=True).start()
    return future
