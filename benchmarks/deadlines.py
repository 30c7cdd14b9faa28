"""How late deadlines fire when many are due at the same instant: one keeper at work, and a Prefect server it wakes by.

The waits are those of parked runs, due two seconds after the keeper has begun its rounds. "Late" is when the wait was
settled by the ledger's own word, after its deadline; "all have fired" is when another connection sees none open any
more, so the last commit is in it. The keeper looks once a second, which is most of what few deadlines are late by. It
goes on to wake the runs through Prefect, in their order, at the rate Prefect bears; that is not part of it. Stock
Prefect has nothing to compare: a pause that times out fails the run, which a service looks for every five seconds.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from prefect import get_client
from sqlalchemy import func, select

from benchmarks import ledgers
from benchmarks.figures import Figure, Skipped, of_blocks
from benchmarks.open_waits import BATCH
from standby import clock, settings
from standby.keeper import Keeper
from standby.ledger import Ledger
from standby.ledger.tables import Run, Wait, table_of
from standby.states import Hold, Need, RunState, WaitKind, WaitState

NAME = "deadlines"
DUE = ((100, 1), (10_000, 1), (10_000, 2))
"""How many waits are due, and of how many a run waits for all at once."""
BLOCKS = 5
AHEAD = timedelta(seconds=2)

runs = table_of(Run)
waits = table_of(Wait)


async def measure(folder: Path) -> AsyncIterator[Figure | Skipped]:
    for kind in ledgers.KINDS:
        try:
            for due, of_each in DUE:
                blocks = [await _block(kind, folder, due, of_each) for _ in range(BLOCKS)]
                at_once = f"{due:,} at once" if of_each == 1 else f"{due:,} at once, {of_each} of each run"
                for name in blocks[0]:
                    values = [block[name] for block in blocks]
                    yield of_blocks(NAME, f"{name}, {at_once}", kind, values, n=BLOCKS * due)
        except ledgers.NoDatabase as reason:
            yield Skipped(NAME, kind, str(reason))


async def _block(kind: str, folder: Path, due: int, of_each: int) -> dict[str, float]:
    async with ledgers.ledger(kind, folder):
        ledger = await Ledger.connect(settings.told_ledger_url() or "")
        try:
            await _park(ledger, due, of_each)
            keeper = asyncio.create_task(Keeper(ledger, get_client).run())
            try:
                return await _lateness(ledger, due)
            finally:
                keeper.cancel()
                with suppress(asyncio.CancelledError):
                    await keeper
        finally:
            await ledger.close()


async def _park(ledger: Ledger, due: int, of_each: int) -> None:
    """So many waits of parked runs, due at the same instant; each run waits for all of its own."""
    deadline = clock.utcnow() + AHEAD
    then = deadline - timedelta(hours=1)
    names = [str(uuid4()) for _ in range(due // of_each)]
    need = Need.ONE if of_each == 1 else Need.ALL
    run = {"flow": "decider", "state": RunState.PARKED, "attempt": 1, "hold": Hold.SUSPEND, "started_at": then,
           "parked_at": then, "confirmed": False}  # fmt: skip
    wait = {"group_key": "approval", "need": need, "kind": WaitKind.APPROVAL,
            "reason": "Pay?", "has_default": True, "default_answer": json.dumps({"approved": False}),
            "state": WaitState.OPEN, "opened_at": then, "announced_at": then, "deadline": deadline}  # fmt: skip
    async with ledger.database.transaction() as connection:
        for first in range(0, len(names), BATCH):
            some = names[first : first + BATCH]
            await connection.execute(runs.insert(), [run | {"id": name, "name": name} for name in some])
            members = [
                wait | {"id": f"{name}/{member}", "run_id": name, "key": f"approval {member}", "member": member}
                for name in some
                for member in range(of_each)
            ]
            await connection.execute(waits.insert(), members)


async def _lateness(ledger: Ledger, due: int) -> dict[str, float]:
    still_open = select(func.count()).where(waits.c.state == WaitState.OPEN)
    while (await ledger.database.read(still_open))[0][0]:  # noqa: ASYNC110  # another connection looks
        await asyncio.sleep(0.01)
    seen = clock.utcnow()
    rows = await ledger.database.read(select(waits.c.settled_at, waits.c.deadline))
    late = sorted((row.settled_at - row.deadline).total_seconds() * 1000 for row in rows)
    return {
        "late p50": late[due // 2],
        "late p99": late[int(due * 0.99)],
        "all have fired": (seen - rows[0].deadline).total_seconds() * 1000,
    }
