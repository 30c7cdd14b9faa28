"""Waiting for a condition, never for seconds."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")

WITHIN = 45.0
"""Seconds: a bound for what never comes. On a loaded machine a process takes ten to start."""

SELDOMER = 0.1
"""The longer it takes the seldomer it is asked: after a tenth of the time it took until now, but ``every`` at least and
five times that at most. Asking costs the others what they are waited for to do."""


async def wait_until(
    condition: Callable[[], T | Awaitable[T]],
    within: float = WITHIN,
    *,
    every: float = 0.02,
    shows: Callable[[], Any | Awaitable[Any]] | None = None,
) -> T:
    """The first truthy answer of ``condition``, asked every ``every`` seconds, later seldomer, for ``within`` seconds.

    When it never comes the failure prints the last answer and what ``shows`` returns.
    """
    began = time.monotonic()
    while not (answer := await _called(condition)):
        took = time.monotonic() - began
        if took > within:
            seen = "" if shows is None else f"\n{await _called(shows)}"
            raise AssertionError(f"not so within {within} s: the last answer was {answer!r}{seen}")
        await asyncio.sleep(min(max(every, took * SELDOMER), 5 * every))
    return answer


async def _called(function: Callable[[], Any]) -> Any:
    answer = function()
    return await answer if inspect.isawaitable(answer) else answer


async def together(*parts: Awaitable[T], at_once: int = 5) -> list[T]:
    """Do these at the same time, some at once, all to their end; their results in order, or the first failure."""
    room = asyncio.Semaphore(at_once)

    async def in_turn(part: Awaitable[T]) -> T:
        async with room:
            return await part

    results = await asyncio.gather(*map(in_turn, parts), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]
