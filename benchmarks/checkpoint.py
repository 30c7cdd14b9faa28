"""What a completed step costs: an agent run of 1,000 steps, beside stock Prefect tasks with persisted results.

Wall time in the flow from one call's return to the next. A step's checkpoint is then on disk (fsync); a stock task's
result is in a file of a local folder, whatever the ledger is, without fsync. Each run has 10 blocks, after one that
warms up, of 100 steps or 50 tasks. Invisible steps (``visible=False``) run first and alone: when visible ones have run,
the server has events to work off. Visible steps and stock tasks take turns, block by block, anew for each ledger.
What the disk takes for one fsync is measured before: no step can be faster. DBOS's steps and
LangGraph's tasks go into a database of the same kind, and are measured afterwards.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median
from time import perf_counter

from prefect import flow

from benchmarks import comparing, work
from benchmarks.blocks import beside, timed
from benchmarks.figures import Figure, Skipped, of_blocks
from benchmarks.ledgers import KINDS, NoDatabase, ledger
from benchmarks.task_runs import last_count
from standby import agent

NAME = "checkpoint"
BLOCKS = 10
SIZE = 100
STOCK_SIZE = 50


@agent
async def invisible_steps() -> list[float]:
    return await timed(work.invisible, blocks=BLOCKS, size=SIZE)


@agent
async def visible_steps() -> list[float]:
    return await timed(work.visible, blocks=BLOCKS, size=SIZE)


@flow
async def stock_tasks() -> list[float]:
    return await timed(work.stock, blocks=BLOCKS, size=STOCK_SIZE)


async def measure(folder: Path) -> AsyncIterator[Figure | Skipped]:
    n = BLOCKS * SIZE
    yield of_blocks(NAME, "fsync alone", "", _fsyncs(folder), n=n)
    invisible: dict[str, list[float]] = {}
    for kind in KINDS:
        try:
            async with ledger(kind, folder):
                [invisible[kind]] = await beside(invisible_steps)
        except NoDatabase as reason:
            yield Skipped(NAME, kind, str(reason))
    for stage, (kind, blocks) in enumerate(invisible.items()):
        await last_count(at_least=stage * (1 + BLOCKS) * (SIZE + STOCK_SIZE))
        async with ledger(kind, folder):
            visible, peer = await beside(visible_steps, stock_tasks)
        for figure, taken in (("invisible step", blocks), ("visible step", visible)):
            yield of_blocks(NAME, figure, kind, taken, n=n).beside("stock Prefect task", median(peer))
        invisible_step = of_blocks(NAME, "invisible step", kind, blocks, n=n)
        async for compared in comparing.beside([invisible_step], folder, count=SIZE):
            yield compared


def _fsyncs(folder: Path) -> list[float]:
    """Milliseconds for 100 bytes more in a file and an fsync, by block."""
    taken = []
    with (folder / "fsync").open("ab", buffering=0) as file:
        for _ in range(BLOCKS):
            start = perf_counter()
            for _ in range(SIZE):
                file.write(bytes(100))
                os.fsync(file.fileno())
            taken.append((perf_counter() - start) * 1000 / SIZE)
    return taken
