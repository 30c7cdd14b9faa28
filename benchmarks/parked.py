"""The memory that a parked agent holds: in a host warm and cold, and under stock Prefect paused in a process.

Memory that the host shares with no other process (USS), after so many more runs have parked. Stock Prefect's is that of
a process worker's child which has suspended nothing yet, for a paused run keeps it.
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

NAME = "parked"
BEFORE = 10 if QUICK else 50
SIZE = 40 if QUICK else 1_000


async def measure(folder: Path) -> AsyncIterator[Figure | Skipped]:
    for kind in ledgers.KINDS:
        try:
            async with house(kind, folder) as rooms, rooms.host() as process:
                found = []
                for hold, name in (("warm", "warm"), ("suspend", "cold")):
                    added = await _added(rooms, process, hold)
                    found.append(of_blocks(NAME, f"memory of a {name} parked agent", kind, [added], n=SIZE, unit="KiB"))
                    yield found[-1]
            async for compared in comparing.beside(found[:1], folder, count=SIZE):
                yield compared
        except ledgers.NoDatabase as reason:
            yield Skipped(NAME, kind, str(reason))


async def _added(rooms: House, process: psutil.Process, hold: str) -> float:
    await _parked(rooms, BEFORE, hold)
    before = process.memory_full_info().uss
    await _parked(rooms, SIZE, hold)
    return (process.memory_full_info().uss - before) / 1024 / SIZE


async def _parked(rooms: House, count: int, hold: str) -> None:
    await rooms.are_parked(await rooms.start("waiter", count, hold=hold))
    await rooms.are_quiet()
    await asyncio.sleep(1)
