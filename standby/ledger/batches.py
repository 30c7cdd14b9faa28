"""Work that is asked for one by one and done for many at once: what comes while a batch is done makes up the next one.

Nobody waits for company: alone, a piece of work is a batch of one, and begins at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from standby.branches import apart

T = TypeVar("T")
R = TypeVar("R")

MOST = 100
"""Pieces of work in one batch."""


class Batches(Generic[T, R]):
    """``work`` does a batch and returns what became of each piece, in order; what it raises all who asked are told.

    ``name`` names a piece: no two of one name are in a batch, and those of one name are done in their order. Without
    it, any may go together.
    """

    def __init__(
        self,
        work: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        name: Callable[[T], object] | None = None,
    ) -> None:
        self._work, self._name = work, name
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def do(self, piece: T) -> R:
        """What became of it. It is done to its end also if who asked waits no longer."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((piece, future))
        if self._worker is None:
            self._worker = asyncio.create_task(self._run(), name="standby-batches", context=apart())
        return await future

    async def _run(self) -> None:
        batch: list[tuple[T, asyncio.Future[R]]] = []
        try:
            while self._waiting:
                batch = self._next()
                try:
                    results = await self._work([piece for piece, _ in batch])
                except Exception as error:
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                    continue
                for (_, future), result in zip(batch, results, strict=True):
                    if not future.done():  # who asked may have gone
                        future.set_result(result)
        finally:
            self._worker = None
            for _, future in [*batch, *self._waiting]:  # none is left, unless the event loop ends here
                future.cancel()

    def _next(self) -> list[tuple[T, asyncio.Future[R]]]:
        batch: list[tuple[T, asyncio.Future[R]]] = []
        left: list[tuple[T, asyncio.Future[R]]] = []
        names: set[object] = set()
        for item in self._waiting:
            name = object() if self._name is None else self._name(item[0])
            if len(batch) < MOST and name not in names:
                batch.append(item)
            else:
                left.append(item)
            names.add(name)
        self._waiting = left
        return batch
