"""The agent's own task serves its thinking, which runs in a task beside it.

A model's tool calls run in tasks of their own, but a run waits as a whole, from its own task. So thinking hands what
has to wait, or to act once, to the own task, one after the other; where that parks the run, thinking ends with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, ContextVar, Token, copy_context
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class _Job(NamedTuple):
    work: Callable[[], Awaitable[Any]]
    done: asyncio.Future[Any]
    context: Context


class Serving:
    """Made in the own task. ``while_thinking`` runs there; ``here`` is called from anywhere in the thinking."""

    def __init__(self) -> None:
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()

    async def here(self, work: Callable[[], Awaitable[T]]) -> T:
        """Have the own task do this, with the context variables of the caller; what it returns or raises."""
        job = _Job(work, asyncio.get_running_loop().create_future(), copy_context())
        self._jobs.put_nowait(job)
        result: T = await job.done
        return result

    async def while_thinking(self, thinking: Coroutine[Any, Any, T]) -> T:
        """Think, and do meanwhile what it asks for. What ends the attempt ends the thinking, too."""
        task = asyncio.create_task(thinking, name="thinking")
        job: asyncio.Task[_Job] | None = None
        try:
            while True:
                job = job or asyncio.create_task(self._jobs.get())
                await asyncio.wait({task, job}, return_when=asyncio.FIRST_COMPLETED)
                if job.done():
                    await _do(job.result())
                    job = None
                elif task.done():
                    return task.result()
        finally:
            left = [one for one in (task, job) if one is not None]
            for one in left:
                one.cancel()
            await asyncio.gather(*left, return_exceptions=True)


async def _do(job: _Job) -> None:
    if job.done.done():  # whoever asked has been cancelled since
        return
    tokens = _enter(job.context)
    try:
        result = await job.work()
    except Exception as error:
        if not job.done.done():
            job.done.set_exception(error)
    else:
        if not job.done.done():
            job.done.set_result(result)
    finally:
        for variable, token in reversed(tokens):
            variable.reset(token)


def _enter(context: Context) -> list[tuple[ContextVar[Any], Token[Any]]]:
    here = copy_context()
    nothing = object()
    return [
        (variable, variable.set(value))
        for variable, value in context.items()
        if here.get(variable, nothing) is not value
    ]
