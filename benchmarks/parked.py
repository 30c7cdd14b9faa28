"""The memory that a parked agent holds: in a host warm and cold, and under stock Prefect paused in a process.

Memory that the host shares with no other process (USS), after so many more runs have parked, and as many cold ones
before them: by then the heap has grown to what those need that are under way at the same time. Stock Prefect's is that
of a process worker's child which has suspended nothing yet, for a paused run keeps it.
DBOS keeps a waiting workflow in memory, LangGraph nothing of it: there are rows in its database.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psutil

from benchmarks import comparing, ledgers
from benchmarks.figures import Figure, Skipped, of_blocks
from benchmarks.houses import QUICK, House, house
from standby.host.tidying import LOOK_SECONDS

NAME = "parked"
SIZE = 40 if QUICK else 1_000


async def measure(folder: Path) -> AsyncIterator[Figure | Skipped]:
    for kind in ledgers.KINDS:
        try:
            async with house(kind, folder) as rooms, rooms.host() as process:
                for _ in ("before", "measured"):
                    before = process.memory_full_info().uss
                    keys = await rooms.start("waiter", SIZE, hold="suspend", then="warm")
                    await _are_parked(rooms, keys)
                yield _figure("cold", kind, process, before)
                woken = await rooms.signal(keys)
                await _are_parked(rooms, keys, since=min(woken["sent_at"]))
                yield (warm := _figure("warm", kind, process, before))
            async for compared in comparing.beside([warm], folder, count=SIZE):
                yield compared
        except ledgers.NoDatabase as reason:
            yield Skipped(NAME, kind, str(reason))


def _figure(name: str, kind: str, process: psutil.Process, before: int) -> Figure:
    added = (process.memory_full_info().uss - before) / 1024 / SIZE
    return of_blocks(NAME, f"memory of a {name} parked agent", kind, [added], n=SIZE, unit="KiB")


async def _are_parked(rooms: House, keys: list[str], since: float = 0.0) -> None:
    if since:
        await rooms.marks.of("next", keys)
    await rooms.are_parked(keys)
    await rooms.are_quiet(of=keys, since=since)
    await asyncio.sleep(3 * LOOK_SECONDS)  # the host forgets what it has told, and gives memory back
