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
                found = []
                for hold, name in (("warm", "warm"), ("suspend", "cold")):
                    taken = await _storm(rooms, hold)
                    figure = f"{SIZE:,} {name} ones, first signal to last line"
                    found.append(of_blocks(NAME, figure, kind, [taken], n=SIZE, unit="s"))
                    yield found[-1]
            async for compared in comparing.beside(found[:1], folder, count=SIZE):
                yield compared
        except ledgers.NoDatabase as reason:
            yield Skipped(NAME, kind, str(reason))


async def _storm(rooms: House, hold: str) -> float:
    keys = await rooms.start("waiter", SIZE, hold=hold)
    await rooms.are_parked(keys)
    await rooms.are_quiet()
    sent = await rooms.signal(keys, CONNECTIONS)
    last = max(await rooms.marks.of("next", keys))
    return last - min(sent["sent_at"])
