"""Many parked agents answered at once, by signals to the gateway over sixteen connections: until the last one runs.

Stock Prefect has nothing to compare here: 200 suspended runs resumed at once do not finish in 90 seconds on SQLite.
DBOS and LangGraph answer sixteen at a time inside of their own process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks import comparing, ledgers
from benchmarks.figures import Figure, Skipped, of_blocks
from benchmarks.houses import QUICK, House, house

NAME = "storm"
SIZE = 40 if QUICK else 1_000
CONNECTIONS = 16


async def measure(folder: Path) -> AsyncIterator[Figure | Skipped]:
    for kind in ledgers.KINDS:
        try:
            async with house(kind, folder) as rooms, rooms.host():
                keys = await rooms.start("waiter", SIZE, hold="warm", then="suspend")
                warm = await _storm(rooms, keys, "go", "next")
                yield (found := _figure("warm", kind, warm))
                yield _figure("cold", kind, await _storm(rooms, keys, "go on", "last"))
            async for compared in comparing.beside([found], folder, count=SIZE):
                yield compared
        except ledgers.NoDatabase as reason:
            yield Skipped(NAME, kind, str(reason))


def _figure(name: str, kind: str, taken: float) -> Figure:
    return of_blocks(NAME, f"{SIZE:,} {name} ones, first signal to last line", kind, [taken], n=SIZE, unit="s")


async def _storm(rooms: House, keys: list[str], topic: str, line: str) -> float:
    await rooms.are_parked(keys)
    await rooms.are_quiet()
    sent = await rooms.signal(keys, CONNECTIONS, topic=topic)
    last = max(await rooms.marks.of(line, keys))
    return last - min(sent["sent_at"])
