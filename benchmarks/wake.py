"""From an answer to the next line of an agent that waits: warm and cold in a host, and suspended under stock Prefect.

A signal's time runs from when it is sent to the gateway, over a connection that is open; Prefect's resume from when
it was answered. Cold, twenty steps are replayed; "API calls" are all requests of the host to Prefect from the signal
to the run's end, but for logs. Stock Prefect is its process worker with its own settings, which looks for work every
ten seconds.

DBOS is woken by a message, LangGraph by a call with the answer, each from inside of its own process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks import comparing, ledgers
from benchmarks.figures import Figure, Skipped, of_blocks
from benchmarks.houses import QUICK, House, counting, house, median_of

NAME = "wake"
BLOCKS = 2 if QUICK else 3
SIZE = 5 if QUICK else 30
STOCK = 1 if QUICK else 5
PEER = 10 if QUICK else 20
COMPARED = ledgers.KINDS[-1:] if QUICK else ledgers.KINDS
"""Databases on which there are peers beside: in quick mode PostgreSQL alone, for most of their time is their start."""


async def measure(folder: Path) -> AsyncIterator[Figure | Skipped]:
    stock: float | None = None
    for kind in ledgers.KINDS:
        try:
            async with house(kind, folder) as rooms, counting() as counter:
                if stock is None:
                    stock = await _stock(rooms)
                async with rooms.host(api_url=f"http://127.0.0.1:{counter.port}/api"):
                    warm = [await _signalled(rooms, hold="warm") for _ in range(BLOCKS)]
                    woken = _figure("signal to next line, warm", kind, warm, stock)
                    yield woken
                    resumed = [await _resumed(rooms) for _ in range(BLOCKS)]
                    yield _figure("Prefect's resume to next line, warm", kind, resumed, stock)
                    cold, calls = [], []
                    for _ in range(BLOCKS):
                        await rooms.are_quiet()
                        counter.seen.clear()
                        cold.append(await _signalled(rooms, hold="suspend", steps=20, before=counter.seen.clear))
                        await rooms.are_quiet()
                        asked = [line for line in counter.seen if "/logs" not in line and "/events" not in line]
                        calls.append(_about_runs(asked) / SIZE)
                    yield _figure("signal to next line, cold, 20 steps", kind, cold, stock)
                    yield of_blocks(NAME, "API calls of a cold wake, to its end", kind, calls, n=BLOCKS * SIZE, unit="")
            if kind in COMPARED:
                async for compared in comparing.beside([woken], folder, count=PEER):
                    yield compared
        except ledgers.NoDatabase as reason:
            yield Skipped(NAME, kind, str(reason))


def _figure(name: str, kind: str, blocks: list[float], stock: float) -> Figure:
    return of_blocks(NAME, name, kind, blocks, n=BLOCKS * SIZE).beside("stock, suspended", stock)


def _about_runs(asked: list[str]) -> int:
    """Without what a host asks for now and then: scheduled runs, its pool, and what its keeper looks at."""
    regular = ("/work_pools/", "/flow_runs/filter", "/deployments/filter", "/csrf-token", "/admin/version", "/blocks")
    return len([line for line in asked if not any(part in line for part in regular)])


async def _signalled(rooms: House, hold: str, steps: int = 1, before: object = None) -> float:
    """The median of a block, in milliseconds: one after the other."""
    keys = await rooms.start("waiter", SIZE, hold=hold, steps=steps)
    await rooms.are_parked(keys)
    await rooms.are_quiet()
    if callable(before):
        before()
    taken = []
    for number, key in enumerate(keys):
        sent = await rooms.signal_one(keys, number)
        [at] = await rooms.marks.of("next", [key])
        taken.append((at - sent) * 1000)
        await asyncio.sleep(0.05)
    return median_of(taken)


async def _resumed(rooms: House) -> float:
    keys = await rooms.start("waiter", SIZE)
    await rooms.are_parked(keys)
    await rooms.are_quiet()
    taken = []
    for key, run_id in zip(keys, rooms.ids(keys), strict=True):
        answered = await rooms.resume(run_id, {"answer": {"number": 1}})
        [at] = await rooms.marks.of("next", [key])
        taken.append(max(0.0, at - answered) * 1000)
    return median_of(taken)


async def _stock(rooms: House) -> float:
    """The median of stock Prefect, in milliseconds."""
    taken = []
    keys = await rooms.start("stock", 1)  # its worker looks for work when it starts, and not again for ten seconds
    async with rooms.stock_worker():
        for number in range(STOCK):
            if number:
                keys = await rooms.start("stock", 1)
            await rooms.marks.of("first", keys)
            await rooms.is_suspended(rooms.id_of(keys[0]))
            await asyncio.sleep(1)  # its process ends
            answered = await rooms.resume(rooms.ids(keys)[0])
            [at] = await rooms.marks.of("next", keys)
            taken.append((at - answered) * 1000)
    return median_of(taken)
