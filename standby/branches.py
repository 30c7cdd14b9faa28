"""The asyncio tasks that an agent's code begins beside its own: they end with the attempt, and none ends the process.

They are known by the context that they inherit. What is to outlive the attempt is begun in a context without it
(``apart``), as that of what several agents share.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from itertools import count
from time import monotonic
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from standby.errors import AgentExited

_current: ContextVar[Branches | None] = ContextVar("standby_branches", default=None)


class Begun(NamedTuple):
    """By which task another was begun, and when (``moment``)."""

    by: asyncio.Task[Any] | None
    at: int


_moments = count()
_begun: WeakKeyDictionary[asyncio.Task[Any], Begun] = WeakKeyDictionary()


def moment() -> int:
    """A number that is higher than those of all moments before."""
    return next(_moments)


def living_ancestor(task: asyncio.Task[Any]) -> asyncio.Task[Any] | None:
    """The task that has begun this one, or its like where that is done, too: to whom its end comes. None also where
    nobody has looked yet how one of them ended."""
    ancestor: asyncio.Task[Any] | None = task
    while ancestor is not None and ancestor.done():
        if ancestor._log_traceback:
            return None
        begun = _begun.get(ancestor)
        ancestor = None if begun is None else begun.by
    return ancestor


def is_of(ancestor: asyncio.Task[Any], since: int) -> bool:
    """Whether who acts here is that task, or comes of one that it has begun since that moment."""
    at: int | None = None
    task = asyncio.current_task()
    while task is not ancestor:
        begun = None if task is None else _begun.get(task)
        if begun is None:
            return False
        task, at = begun
    return at is None or at > since


class Branches:
    """Of one attempt. ``exits`` says of an error whether it would end the process, and must not."""

    def __init__(self, exits: Callable[[BaseException], bool]) -> None:
        self.exits = exits
        self.tasks: set[asyncio.Task[Any]] = set()

    @contextmanager
    def begun_here(self) -> Iterator[None]:
        """Tasks that are begun in the block are this attempt's, and those that they begin."""
        loop = asyncio.get_running_loop()
        if not isinstance(before := loop.get_task_factory(), _Factory):
            loop.set_task_factory(_Factory(before))
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    async def end(self, seconds: float) -> list[asyncio.Task[Any]]:
        """Cancel those that are left, as the end of a process would, and wait for them. Returns those that then go on
        for all that."""
        until = monotonic() + seconds
        for task in self.tasks:
            task.cancel("its agent's attempt is over")
        # What they begin at their end is not cancelled: it is there to tidy up.
        while self.tasks and (left := until - monotonic()) > 0:
            await asyncio.wait(list(self.tasks), timeout=left)
            await asyncio.sleep(0)  # for the callbacks
        return list(self.tasks)


@contextmanager
def apart_here() -> Iterator[None]:
    """Tasks that are begun in the block are no part of the attempt, such as one that gives a connection back."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


def apart() -> Context:
    """The context here, for a task that is no part of the attempt."""
    context = contextvars.copy_context()
    context.run(_current.set, None)
    return context


class _Factory:
    def __init__(self, before: Callable[..., Any] | None) -> None:
        self._before = before or (lambda loop, coro, **options: asyncio.Task(coro, loop=loop, **options))

    def __call__(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        context = options.get("context")
        branches = _current.get() if context is None else context.get(_current)
        if branches is None:
            return self._before(loop, coro, **options)
        task = self._before(loop, _Guarded(coro, branches.exits), **options)
        _begun[task] = Begun(asyncio.current_task(loop), next(_moments))
        branches.tasks.add(task)
        task.add_done_callback(branches.tasks.discard)
        return task


class _Guarded(Coroutine[Any, Any, Any]):
    """A coroutine whose ``SystemExit`` does not pass through the event loop, which it would end."""

    def __init__(self, coro: Any, exits: Callable[[BaseException], bool]) -> None:
        self._coro, self._exits = coro, exits

    def send(self, value: Any) -> Any:
        return self._step(self._coro.send, value)

    def throw(self, *error: Any) -> Any:
        return self._step(self._coro.throw, *error)

    def close(self) -> None:
        self._coro.close()

    def _step(self, step: Callable[..., Any], *args: Any) -> Any:
        try:
            return step(*args)
        except BaseException as error:
            if self._exits(error):
                raise AgentExited(error) from error
            raise

    def __await__(self) -> Any:
        return self._coro.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coro, name)  # what a traceback and a task's name are made of
