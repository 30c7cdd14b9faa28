"""The child process that measures: ``python -m benchmarks.measuring NAME FOLDER``, with Prefect's environment set.

A process of its own, because Prefect reads its settings when it is imported, and its threads still send events and
logs when the process ends: the server must outlive it.
"""

from __future__ import annotations

import asyncio
import sys
from importlib import import_module
from pathlib import Path


async def _measure(name: str, folder: Path) -> None:
    async for reported in import_module(f"benchmarks.{name}").measure(folder):
        print(reported.as_json(), flush=True)


if __name__ == "__main__":
    asyncio.run(_measure(sys.argv[1], Path(sys.argv[2])))
