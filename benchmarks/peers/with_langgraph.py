"""LangGraph: its functional API, whose tasks are what is nearest to steps, with an async checkpointer.

``durability="sync"``: checkpoints are in the database before what comes next. Results of tasks are not even so: it
writes them beside what comes next, so that a step here is a weaker one than the others'. A pool of connections on
PostgreSQL, one connection on SQLite, which is what its checkpointers are made for. Nothing of a waiting run stays in
memory, and nothing runs by itself: the caller calls again, with the answer, or after a crash.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.func import entrypoint, task
from langgraph.pregel import Pregel
from langgraph.types import Command, interrupt
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from benchmarks.peers import peer

_woken = peer.Woken()
_seen: list[float] = []
_ran: list[int] = []
"""The numbers that tasks have read, replays not among them."""


class NotYet(Exception):
    """Fails a run, so that it can be called again."""


@task
async def small(number: int) -> int:
    return number + 1


@task
async def work(number: int, key: str) -> int:
    peer.mark_once("works", key)
    await asyncio.sleep(2)
    return number + 1


@task
async def read(number: int) -> dict[str, Any]:
    """A dict, because its serialiser warns of models that it has not been told of."""
    _ran.append(number)
    return {"number": number, "place": "north gate", "level": number / 7}


async def waiter(key: str) -> int:
    number: int = await small(0)
    _woken.now(key, interrupt("go?"))
    return number


async def worker(key: str) -> None:
    number = 0
    while True:
        number = await work(number, key)


async def stepper(count: int) -> float:
    return await peer.steps(read, count)


async def replayed(count: int) -> None:
    for number in range(count):
        await read(number)
    _seen.append(perf_counter())
    raise NotYet


@asynccontextmanager
async def _saver(url: str) -> AsyncIterator[BaseCheckpointSaver[str]]:
    if url.startswith("sqlite:///"):
        async with AsyncSqliteSaver.from_conn_string(url.removeprefix("sqlite:///")) as saver:
            await saver.setup()
            yield saver
        return
    options = {"autocommit": True, "row_factory": dict_row}
    async with AsyncConnectionPool(url, max_size=peer.AT_ONCE, kwargs=options) as pool:
        pooled = AsyncPostgresSaver(pool)
        await pooled.setup()
        yield pooled


def _thread(key: str) -> Any:
    return {"configurable": {"thread_id": key}}


class _Waiters:
    def __init__(self, graph: Pregel[Any, Any, Any, Any]) -> None:
        self._graph = graph

    async def park(self, keys: Sequence[str]) -> None:
        for key in keys:
            await self._graph.ainvoke(key, _thread(key), durability="sync")
            if not (await self._graph.aget_state(_thread(key))).interrupts:
                raise RuntimeError(f"{key} does not wait.")

    async def answer(self, key: str) -> None:
        await self._graph.ainvoke(Command(resume={"number": 1}), _thread(key), durability="sync")


async def _wake(url: str, count: int) -> Sequence[float]:
    async with _saver(url) as saver:
        waiters = _Waiters(entrypoint(checkpointer=saver)(waiter))
        return await peer.wake(waiters.park, waiters.answer, _woken, count)


async def _parked(url: str, count: int) -> Sequence[float]:
    async with _saver(url) as saver:
        return await peer.parked(_Waiters(entrypoint(checkpointer=saver)(waiter)).park, count)


async def _storm(url: str, count: int) -> Sequence[float]:
    async with _saver(url) as saver:
        waiters = _Waiters(entrypoint(checkpointer=saver)(waiter))
        return await peer.storm(waiters.park, waiters.answer, _woken, count)


async def _recover(url: str, count: int) -> Sequence[float]:
    """Works until it is killed. The caller keeps a list of its runs, and calls those again that have begun."""
    async with _saver(url) as saver:
        graph = entrypoint(checkpointer=saver)(worker)

        async def run(key: str) -> None:
            begun = (await graph.aget_state(_thread(key))).next
            await graph.ainvoke(None if begun else key, _thread(key), durability="sync")

        await asyncio.gather(*(run(str(number)) for number in range(count)))
    return ()


async def _checkpoint(url: str, count: int) -> Sequence[float]:
    async with _saver(url) as saver:
        graph = entrypoint(checkpointer=saver)(stepper)
        taken: Any = await graph.ainvoke(count, _thread("steps"), durability="sync")
    return [float(taken)]


async def _replay(url: str, count: int) -> Sequence[float]:
    """Timed from the call to the last step's return. The first replay warms up."""
    taken = []
    async with _saver(url) as saver:
        graph = entrypoint(checkpointer=saver)(replayed)
        given: int | None = count
        for _ in range(2 + peer.BLOCKS):
            start = perf_counter()
            try:
                await graph.ainvoke(given, _thread("replayed"), durability="sync")
            except NotYet:
                taken.append((_seen[-1] - start) * 1000 / count)
            given = None
    peer.check_replayed(_ran, count)
    return [peer.median(taken[2:])]


if __name__ == "__main__":
    peer.main({
        "wake": _wake, "parked": _parked, "storm": _storm, "recover": _recover,
        "checkpoint": _checkpoint, "replay": _replay,
    })  # fmt: skip
