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


@step(visible=False)
async def begin(number: int, key: str) -> int:
    mark("first", key)
    return number + 1


@agent
async def waiter(key: str, steps: int = 1, hold: str = "warm") -> int:
    """Does so many steps, waits, and goes on."""
    mark("first", key)
    number = 0
    for _ in range(steps):
        number = await small(number)
    answer = await wait_for(Signal("go", key=key, of=dict[str, float | str]), hold=hold)
    mark("next", key)
    return number + len(answer)


@agent
async def worker(key: str) -> None:
    """Works until it is killed, and says when an attempt comes to new work."""
    number, said = 0, False
    while True:
        number = await begin(number, key) if number == 0 else await small(number)
        if not said and number > 1:
            mark("again", key)
            said = True
        await asyncio.sleep(0.5)


@flow
async def stock(key: str) -> None:
    """What stock Prefect has."""
    mark("first", key)
    await suspend_flow_run(key="here", timeout=3600)  # type: ignore[misc]  # in async code it is a coroutine
    mark("next", key)
