"""What the processes of peers have in common: a task, a database and a count are told, and one line of JSON comes back.

``python -m benchmarks.peers.with_NAME TASK URL COUNT``. Nothing here imports Standby or Prefect.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter, time

import psutil

BEFORE = 50
"""Waits that are there before memory is looked at."""

WOKEN_WITHIN_SECONDS = 60.0
AT_ONCE = 16
"""Messages under way at a time in a storm: as many as the connections that Standby's come over."""

OUT_OF_STEP_SECONDS = 0.37
"""Between two answers, so that they come at any time of an engine that polls each second, and not after each poll."""

BLOCKS = 5

Task = Callable[[str, int], Awaitable[Sequence[float]]]


def main(tasks: Mapping[str, Task]) -> None:
    task, url, count = sys.argv[1:4]
    found = asyncio.run(_run(tasks[task], url, int(count)))
    print(json.dumps(list(found)), flush=True)


async def _run(task: Task, url: str, count: int) -> Sequence[float]:
    return await task(url, count)


_marked: set[tuple[str, str]] = set()


def mark_once(what: str, key: str) -> None:
    """Tell the parent, with the time on it, unless this process has."""
    if (what, key) not in _marked:
        _marked.add((what, key))
        print(json.dumps([what, key, time()]), flush=True)


class Woken:
    """When each wait's next line ran, told by that line itself."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._something = asyncio.Event()

    def now(self, key: str, answer: object) -> None:
        if answer != {"number": 1}:
            raise ValueError(f"{key} woke with {answer!r}")
        self._at[key] = perf_counter()
        self._something.set()

    async def all_of(self, keys: Sequence[str]) -> list[float]:
        try:
            async with asyncio.timeout(WOKEN_WITHIN_SECONDS):
                while not all(key in self._at for key in keys):
                    self._something.clear()
                    await self._something.wait()
        except TimeoutError:
            woke = sum(key in self._at for key in keys)
            sys.exit(f"{woke:,} of {len(keys):,} woke in {WOKEN_WITHIN_SECONDS:.0f} s")
        return [self._at[key] for key in keys]


Park = Callable[[Sequence[str]], Awaitable[None]]
"""Start waiters with these keys; returns when all wait."""

Answer = Callable[[str], Awaitable[None]]
"""Wake the one with this key."""


async def wake(park: Park, answer: Answer, woken: Woken, count: int) -> list[float]:
    """The median of the milliseconds from an answer to the next line, one after the other."""
    keys = _keys("wake", count)
    await park(keys)
    taken = []
    for key in keys:
        start = perf_counter()
        sent = asyncio.ensure_future(answer(key))
        [at] = await woken.all_of([key])
        taken.append((at - start) * 1000)
        await sent
        await asyncio.sleep(OUT_OF_STEP_SECONDS)
    return [median(taken)]


async def parked(park: Park, count: int) -> list[float]:
    """KiB that each of so many more waits adds to this process."""
    await park(_keys("before", BEFORE))
    await asyncio.sleep(1)
    before = psutil.Process().memory_full_info().uss
    await park(_keys("more", count))
    await asyncio.sleep(1)
    return [(psutil.Process().memory_full_info().uss - before) / 1024 / count]


async def storm(park: Park, answer: Answer, woken: Woken, count: int) -> list[float]:
    """Seconds from the first answer to the last line."""
    keys = _keys("storm", count)
    await park(keys)
    room = asyncio.Semaphore(AT_ONCE)

    async def answered(key: str) -> None:
        async with room:
            await answer(key)

    start = perf_counter()
    sending = asyncio.gather(*map(answered, keys))
    ended = await woken.all_of(keys)
    await sending
    return [max(ended) - start]


async def steps(work: Callable[[int], Awaitable[object]], count: int) -> float:
    """The median over blocks of the milliseconds a step takes, after a block that does not count."""
    taken = []
    for block in range(1 + BLOCKS):
        start = perf_counter()
        for number in range(count):
            if await work(number) is None:
                raise ValueError("A step returned nothing.")
        if block:
            taken.append((perf_counter() - start) * 1000 / count)
    return median(taken)


def check_recorded(steps: int, count: int) -> None:
    if steps < (1 + BLOCKS) * count:
        sys.exit(f"{steps:,} steps are recorded of {(1 + BLOCKS) * count:,}")


def check_replayed(ran: Sequence[int], count: int) -> None:
    if len(ran) != count:
        sys.exit(f"{count:,} steps ran {len(ran):,} times: not all were replayed")


def median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _keys(prefix: str, count: int) -> list[str]:
    return [f"{prefix}-{number}" for number in range(count)]
