"""A run's row, locked to the end of a transaction, and what is decided under that lock."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import Row, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from standby import clock
from standby.ledger.tables import Run, Wait, table_of
from standby.states import ENDED, RunState, WaitState

runs = table_of(Run)
waits = table_of(Wait)

_ONE = select(runs).where(runs.c.id == bindparam("run"))
_LOCKED, _FREE = _ONE.with_for_update(), _ONE.with_for_update(skip_locked=True)
_STATES = select(waits.c.state).where(waits.c.run_id == bindparam("run"), waits.c.group_key == bindparam("group"))


async def locked_run(connection: AsyncConnection, run_id: str, *, skip_locked: bool = False) -> Row[Any] | None:
    """The run's row, locked to the end of the transaction (SQLite: the transaction already has the write lock).

    ``skip_locked``: None, too, where somebody else has locked it, who may be frozen.
    """
    return (await connection.execute(_FREE if skip_locked else _LOCKED, {"run": run_id})).first()


async def run_of_attempt(connection: AsyncConnection, run_id: str, attempt: int) -> Row[Any] | None:
    """The run's row, locked, if the attempt still has the run: no other has taken it, and it has not ended."""
    run = await locked_run(connection, run_id)
    if run is None or run.attempt != attempt or RunState(run.state) in ENDED:
        return None
    return run


async def group_ready(connection: AsyncConnection, run_id: str, group_key: str) -> bool:
    """Whether enough waits of the group have settled. One settled wait closes the rest where one is enough."""
    states = (await connection.execute(_STATES, {"run": run_id, "group": group_key})).scalars()
    return WaitState.OPEN not in set(states)


async def take(connection: AsyncConnection, run: Row[Any], holder: str, lease: timedelta) -> int:
    """Give the run, whose row is locked, to a new attempt of this holder; the attempt's number."""
    attempt: int = run.attempt + 1
    await connection.execute(update(runs).where(runs.c.id == run.id).values(taken_by(holder, lease, attempt)))
    return attempt


TAKEN = ("state", "attempt", "holder", "lease_expires_at", "hold", "wake_address")
"""The columns of ``taken_by``."""


def taken_by(holder: str, lease: timedelta, attempt: int) -> dict[str, Any]:
    """What the row of a run says that this attempt works on."""
    return {
        "state": RunState.RUNNING,
        "attempt": attempt,
        "holder": holder,
        "lease_expires_at": clock.utcnow() + lease,
        "hold": None,
        "wake_address": None,
    }
