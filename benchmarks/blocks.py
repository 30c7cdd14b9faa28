"""Timing in blocks, so that one hiccup of the machine spoils one block and not the figure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from time import perf_counter
from typing import Any

_company: ContextVar[_Company] = ContextVar("benchmark_company")


class _Company:
    """Flows that are measured beside each other. They start together and then take turns, block by block: each has
    the event loop to itself in its turn, and all meet the same weather."""

    def __init__(self, size: int) -> None:
        self.arrived = asyncio.Barrier(size)
        self.turn = asyncio.Lock()  # first come, first served


async def beside(*flows: Callable[[], Coroutine[Any, Any, list[float]]]) -> list[list[float]]:
    """Run flows that call ``timed`` beside each other; what each returns."""
    token = _company.set(_Company(len(flows)))
    try:
        return await asyncio.gather(*(flow() for flow in flows))
    finally:
        _company.reset(token)


async def timed(work: Callable[[int], Awaitable[object]], *, blocks: int, size: int, warm_up: int = 1) -> list[float]:
    """Milliseconds a call in each of ``blocks`` blocks of ``size`` calls one after another, after ``warm_up`` blocks
    that do not count. ``work`` gets the number of the call, from 0."""
    company = _company.get(None) or _Company(1)
    await company.arrived.wait()
    taken = []
    for block in range(warm_up + blocks):
        async with company.turn:
            start = perf_counter()
            for number in range(block * size, (block + 1) * size):
                await work(number)
            taken.append((perf_counter() - start) * 1000 / size)
        await asyncio.sleep(0)  # let the next in line have its turn
    return taken[warm_up:]
