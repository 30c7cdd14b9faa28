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
from time import monotonic
from typing import Any

from standby.errors import AgentExited

_current: ContextVar[Branches | None] = ContextVar("standby_branches", default=None)


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
