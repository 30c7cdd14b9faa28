"""From the answer to the call that creates a run to its first line, in a host and under a stock process worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from time import time

from benchmarks import ledgers
from benchmarks.figures import Figure, Skipped, of_blocks
from benchmarks.houses import QUICK, House, house, median_of

NAME = "start"
BLOCKS = 3
SIZE = 10 if QUICK else 30
STOCK = 2 if QUICK else 5


async def measure(folder: Path) -> AsyncIterator[Figure | Skipped]:
    stock: float | None = None
    for kind in ledgers.KINDS:
        try:
            async with house(kind, folder) as rooms:
                if stock is None:
                    async with rooms.stock_worker():
                        await rooms.marks.of("first", await rooms.start("stock", 1))
                        stock = await _started(rooms, "stock", STOCK)
                async with rooms.host():
                    await rooms.marks.of("first", await rooms.start("waiter", 1))
                    blocks = [await _started(rooms, "waiter", SIZE) for _ in range(BLOCKS)]
                figure = of_blocks(NAME, "run created to first line", kind, blocks, n=BLOCKS * SIZE)
                yield figure.beside("stock", stock)
        except ledgers.NoDatabase as reason:
            yield Skipped(NAME, kind, str(reason))


async def _started(rooms: House, agent: str, count: int) -> float:
    taken = []
    for _ in range(count):
        keys = await rooms.start(agent, 1)
        created = time()
        [at] = await rooms.marks.of("first", keys)
        taken.append((at - created) * 1000)
        await asyncio.sleep(0.2)
    return median_of(taken)
