"""DBOS: async workflows in one process that also sends to them, as a web handler beside them does; its own defaults.

A workflow waits when ``recv`` has recorded its timeout, which is the last that it does before it sleeps: a message from
before would be found without any waking.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter

from dbos import DBOS, DBOSConfig, SetWorkflowID
from pydantic import BaseModel

from benchmarks.peers import peer

_woken = peer.Woken()
_seen: list[float] = []
_ran: list[int] = []
"""The numbers that steps have read, replays not among them."""


class Reading(BaseModel):
    """The same as ``benchmarks.work.Reading``, whose module imports Prefect."""

    number: int
    place: str
    level: float


@DBOS.step()
async def small(number: int) -> int:
    return number + 1


@DBOS.step()
async def work(number: int, key: str) -> int:
    peer.mark_once("works", key)
    await asyncio.sleep(2)
    return number + 1


@DBOS.step()
async def read(number: int) -> Reading:
    _ran.append(number)
    return Reading(number=number, place="north gate", level=number / 7)


@DBOS.workflow()
async def waiter(key: str) -> int:
    number: int = await small(0)
    answer = await DBOS.recv_async("go", timeout_seconds=3600)
    _woken.now(key, answer)
    return number


@DBOS.workflow()
async def worker(key: str) -> None:
    number = 0
    while True:
        number = await work(number, key)


@DBOS.workflow()
async def stepper(count: int) -> float:
    return await peer.steps(read, count)


@DBOS.workflow()
async def replayed(count: int) -> None:
    start = perf_counter()
    for number in range(count):
        await read(number)
    _seen.append((perf_counter() - start) * 1000 / count)


def _launch(url: str) -> None:
    config: DBOSConfig = {"name": "peer", "system_database_url": url, "log_level": "ERROR"}
    DBOS(config=config)
    DBOS.launch()


async def _park(keys: Sequence[str]) -> None:
    for key in keys:
        with SetWorkflowID(key):
            await DBOS.start_workflow_async(waiter, key)
    for key in keys:
        await _waits(key)


async def _waits(key: str) -> None:
    while True:
        if any(step["function_name"] == "DBOS.sleep" for step in await DBOS.list_workflow_steps_async(key)):
            return
        await asyncio.sleep(0.05)


async def _answer(key: str) -> None:
    await DBOS.send_async(key, {"number": 1}, "go")


async def _wake(url: str, count: int) -> Sequence[float]:
    _launch(url)
    return await peer.wake(_park, _answer, _woken, count)


async def _parked(url: str, count: int) -> Sequence[float]:
    _launch(url)
    return await peer.parked(_park, count)


async def _storm(url: str, count: int) -> Sequence[float]:
    _launch(url)
    return await peer.storm(_park, _answer, _woken, count)


async def _recover(url: str, count: int) -> Sequence[float]:
    """Works until it is killed. What another process left off, ``launch`` takes up by itself."""
    _launch(url)
    if not await DBOS.list_workflows_async(limit=1):
        for number in range(count):
            with SetWorkflowID(str(number)):
                await DBOS.start_workflow_async(worker, str(number))
    await asyncio.Event().wait()
    return ()


async def _checkpoint(url: str, count: int) -> Sequence[float]:
    _launch(url)
    run = await DBOS.start_workflow_async(stepper, count)
    taken = await run.get_result()
    peer.check_recorded(len(await DBOS.list_workflow_steps_async(run.get_workflow_id())), count)
    return [taken]


async def _replay(url: str, count: int) -> Sequence[float]:
    """A fork after the last step is given all recorded steps, and replays them; the first one, which warms up, not."""
    _launch(url)
    first = await DBOS.start_workflow_async(replayed, count)
    await first.get_result()
    for _ in range(1 + peer.BLOCKS):
        fork = await DBOS.fork_workflow_async(first.get_workflow_id(), count + 1)
        await fork.get_result()
    peer.check_replayed(_ran, count)
    return [peer.median(_seen[2:])]


if __name__ == "__main__":
    # What is measured ends with the process: DBOS waits for no workflow then, and keeps none of its threads.
    peer.main({
        "wake": _wake, "parked": _parked, "storm": _storm, "recover": _recover,
        "checkpoint": _checkpoint, "replay": _replay,
    })  # fmt: skip
