"""Waiting for tasks to move: all who watch look at the ledger together, a few times a second."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic

from standby.ledger import Ledger
from standby.ledger.batches import Batches

EVERY_SECONDS = 0.5
"""How often the ledger is looked at, while anybody watches."""


class Watching:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._looks: Batches[str, str | None] = Batches(self._look)

    async def mark(self, task_id: str) -> str | None:
        """Where the task is: ``ledger.tasks.mark``. None if it is gone."""
        return await self._looks.do(task_id)

    async def moved(self, task_id: str, mark: str | None) -> str | None:
        """Where the task is once it is not any more where ``mark`` says."""
        while True:
            # At the same instants, so that one look does for all.
            await asyncio.sleep(EVERY_SECONDS - monotonic() % EVERY_SECONDS)
            if (now := await self.mark(task_id)) != mark:
                return now

    async def _look(self, task_ids: Sequence[str]) -> list[str | None]:
        found = await self._ledger.tasks.marks(task_ids)
        return [found.get(task_id) for task_id in task_ids]
