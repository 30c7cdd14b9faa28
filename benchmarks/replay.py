"""What a recorded step costs a later attempt: a run of 1,000 recorded steps, beside stock Prefect's cached tasks.

The first attempt records the steps and fails; later attempts of the run replay them all, as after a crash. Every
tenth step is visible, the others are invisible, which spares the server and makes no difference to a replay. Timed from
the moment the journal is asked for until the last step has returned; the median of 9 attempts, after one that warms
up. Journal queries are an attempt's reads of the checkpoints table, other statements all else it sends from its start
to its end (opening the ledger, the claim, the end), counted in SQLAlchemy. Task runs are counted on the server, once
it knows the visible step that the last attempt adds after its replay.

The stock flow is run again in the same way, 500 cached tasks timed in 10 blocks after one that warms up. Its task runs
are counted when the server has worked off their events.

DBOS replays a fork that is given all recorded steps, timed from its first line; LangGraph is called again after a
failure, timed from the call.
"""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any
from uuid import UUID

from prefect import Flow, flow, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow_async
from prefect.states import Scheduled

from benchmarks import comparing, work
from benchmarks.blocks import timed
from benchmarks.figures import Figure, Skipped, of_blocks
from benchmarks.ledgers import KINDS, NoDatabase, ledger
from benchmarks.statements import Statements
from benchmarks.task_runs import last_count
from standby import agent

NAME = "replay"
STEPS = 1_000
VISIBLE_EVERY = 10
REPLAYS = 9
STOCK_BLOCKS = 10
STOCK_SIZE = 50
STOCK_TASKS = STOCK_SIZE * (1 + STOCK_BLOCKS)


class NotYet(Exception):
    """Fails an attempt, so that there is another one."""


_seen: list[float] = []
"""What the flow that has just run has to tell: an agent when its replay ended, the stock flow its blocks."""


@agent
async def thousand_steps(last: bool) -> None:
    for number in range(STEPS):
        await (work.invisible if number % VISIBLE_EVERY else work.visible)(number)
    _seen[:] = [perf_counter()]
    if not last:
        raise NotYet
    await work.visible.with_options(key="last")(STEPS)


@flow
async def stock_tasks(last: bool) -> None:
    _seen[:] = await timed(work.stock, blocks=STOCK_BLOCKS, size=STOCK_SIZE)
    if not last:
        raise NotYet


async def measure(folder: Path) -> AsyncIterator[Figure | Skipped]:
    stock_step, stock_task_runs = await _stock()
    for kind in KINDS:
        try:
            async with ledger(kind, folder):
                steps, journals, others, task_runs = await _standby()
        except NoDatabase as reason:
            yield Skipped(NAME, kind, str(reason))
            continue
        n = STEPS * len(steps)
        replayed = of_blocks(NAME, "replayed step", kind, steps, n=n)
        yield replayed.beside("stock cached task", stock_step)
        yield of_blocks(NAME, "journal queries", kind, journals, n=len(journals), unit="")
        yield of_blocks(NAME, "other statements", kind, others, n=len(others), unit="")
        yield of_blocks(NAME, "task runs a step", kind, [task_runs], n=n, unit="").beside(
            "stock cached task", stock_task_runs
        )
        async for compared in comparing.beside([replayed], folder, count=STEPS):
            yield compared


async def _standby() -> tuple[list[float], list[int], list[int], float]:
    """Of each replay: ms a step, journal queries, other statements; and the task runs that a replayed step makes."""
    run_id = await _first_attempt(thousand_steps)
    recorded = STEPS // VISIBLE_EVERY
    await last_count(run_id, at_least=recorded)
    steps, journals, others = [], [], []
    for replay in range(1 + REPLAYS):
        with Statements() as sent:
            await _next_attempt(thousand_steps, run_id, last=replay == REPLAYS)
        journal = [sent_at for sent_at, statement in sent if "FROM checkpoints" in statement]
        steps.append((_seen[0] - journal[0]) * 1000 / STEPS)
        journals.append(len(journal))
        others.append(len(sent) - len(journal))
    task_runs = await last_count(run_id, at_least=recorded + 1) - recorded - 1
    return steps[1:], journals[1:], others[1:], task_runs / (STEPS * len(steps))


async def _stock() -> tuple[float, float]:
    """Of a cached task: ms, and the task runs it makes."""
    run_id = await _first_attempt(stock_tasks)
    await last_count(run_id, at_least=STOCK_TASKS)
    await _next_attempt(stock_tasks, run_id, last=True)
    step = statistics.median(_seen)
    return step, await last_count(run_id, at_least=2 * STOCK_TASKS) / STOCK_TASKS - 1


async def _first_attempt(measured: Flow[[bool], Any]) -> UUID:
    async with get_client() as client:
        flow_run = await client.create_flow_run(measured, parameters={"last": False})
    await _attempt(measured, flow_run, last=False)
    return flow_run.id


async def _next_attempt(measured: Flow[[bool], Any], run_id: UUID, *, last: bool) -> None:
    """What Retry does in Prefect: the failed run is scheduled, and read anew by what runs it."""
    async with get_client() as client:
        await client.set_flow_run_state(run_id, Scheduled())
        flow_run = await client.read_flow_run(run_id)
    await _attempt(measured, flow_run, last=last)


async def _attempt(measured: Flow[[bool], Any], flow_run: FlowRun, *, last: bool) -> None:
    with suppress(NotYet):
        await run_flow_async(measured, flow_run=flow_run, parameters={"last": last})
