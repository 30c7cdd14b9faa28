"""SIGKILL of a host with running agents: from the start of the next to the first agent that does new work, and to all.

What a process costs to start is in it: the interpreter, the imports, and the first words with Prefect and the ledger.
DBOS takes up by itself what its process had under way; of LangGraph's runs the caller calls each again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from time import time

from benchmarks import comparing, ledgers
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
                    await rooms.marks.of("works", keys)
                killed = time()
                async with rooms.host():
                    again = await rooms.marks.of("works", keys, after=killed)
            found = [
                of_blocks(NAME, f"new process to {name}", kind, [at - killed], n=SIZE, unit="s")
                for name, at in (("first agent running again", min(again)), (f"all {SIZE}", max(again)))
            ]
            for figure in found:
                yield figure
            async for compared in comparing.beside(found, folder, count=SIZE):
                yield compared
        except ledgers.NoDatabase as reason:
            yield Skipped(NAME, kind, str(reason))
