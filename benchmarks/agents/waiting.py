"""The agents of the benchmarks of hosts. Each says where it is to the benchmark, at the address ``BENCHMARK_MARKS``."""

import asyncio
import json
import os
import socket
import time

from prefect import flow
from prefect.flow_runs import suspend_flow_run

from standby import Signal, agent, step, wait_for


def mark(what: str, key: str) -> None:
    host, _, port = os.environ["BENCHMARK_MARKS"].rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(json.dumps([what, key, time.time()]).encode(), (host, int(port)))


@step(visible=False)
async def small(number: int) -> int:
    return number + 1


_works: set[str] = set()
"""What works in this process."""


@step(visible=False)
async def work(number: int, key: str) -> int:
    """Takes a while, and says when it is the first that this process does of its run; a replay is none."""
    if key not in _works:
        _works.add(key)
        mark("works", key)
    await asyncio.sleep(2)
    return number + 1


@agent
async def waiter(key: str, steps: int = 1, hold: str = "warm", then: str | None = None) -> int:
    """Does so many steps, waits, and goes on; and waits once more, if it is to be held in another way ``then``."""
    mark("first", key)
    number = 0
    for _ in range(steps):
        number = await small(number)
    answer = await wait_for(Signal("go", key=key, of=dict[str, float | str]), hold=hold)
    mark("next", key)
    if then is not None:
        answer |= await wait_for(Signal("go on", key=key, of=dict[str, float | str]), hold=then)
        mark("last", key)
    return number + len(answer)


@agent
async def worker(key: str) -> None:
    """Works until it is killed."""
    number = 0
    while True:
        number = await work(number, key)


@flow
async def stock(key: str) -> None:
    """What stock Prefect has."""
    mark("first", key)
    await suspend_flow_run(key="here", timeout=3600)  # type: ignore[misc]  # in async code it is a coroutine
    mark("next", key)
