"""SIGKILL of a host with running agents: from when the next one is started to the first agent that runs again, and all.

What a process costs to start is in it: the interpreter, the imports, and the first words with Prefect and the ledger.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from time import time

from benchmarks import ledgers
from benchmarks.figures import Figure, Skipped, of_blocks
from benchmarks.houses import QUICK, house

NAME = "recover"
SIZE = 30 if QUICK else 100


async def measure(folder: Path) -> AsyncIterator[Figure | Skipped]:
    for kind in ledgers.KINDS:
        try:
            async with house(kind, folder) as rooms:
                async with rooms.host():
                    keys = await rooms.start("worker", SIZE)
                    await rooms.marks.of("first", keys)
                killed = time()
                async with rooms.host():
                    again = await rooms.marks.of("again", keys, after=killed)
                for name, at in (("first agent running again", min(again)), (f"all {SIZE}", max(again))):
                    yield of_blocks(NAME, f"new process to {name}", kind, [at - killed], n=SIZE, unit="s")
        except ledgers.NoDatabase as reason:
            yield Skipped(NAME, kind, str(reason))
