"""Runs that other runs have started and wait for.

A run that ends settles the waits for it in the same transaction. Locks are taken from the child to its parent, never
the other way.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from standby.ledger.database import Database, by, unindexed
from standby.ledger.locks import locked_run
from standby.ledger.settling import Settled, settle_in
from standby.ledger.tables import Run, Wait, table_of
from standby.states import ENDED, Door, Outcome, RunState, WaitKind, WaitState

runs = table_of(Run)
waits = table_of(Wait)

NEEDS_NOTHING = 0
"""As ``child_attempt`` of a wait without a run: its agent has ended, or there never was one."""

_LEFT = (
    or_(
        waits.c.state == WaitState.CLOSED,
        and_(waits.c.state == WaitState.SETTLED, waits.c.outcome.in_((Outcome.TIMED_OUT, Outcome.DEFAULTED))),
    ),
    or_(waits.c.child_run_id.is_not(None), waits.c.child_attempt.is_distinct_from(NEEDS_NOTHING)),
)


async def tell_parents(
    connection: AsyncConnection,
    run_id: str,
    state: RunState,
    result: str | None,
    error: str | None,
    attempt: int | None = None,
) -> list[Settled]:
    """Settle the waits for a run that ends, in the transaction that ends it.

    ``attempt``: in which it ended, so that those who wait for its retry are not told of the end before that.
    """
    found = (
        await connection.execute(
            select(waits.c.id, waits.c.run_id).where(
                waits.c.child_run_id == run_id, unindexed(waits.c.state) == WaitState.OPEN
            )
        )
    ).all()
    settled = []
    for row in sorted(found, key=lambda one: str(one.run_id)):
        parent = await locked_run(connection, row.run_id)
        wait = (await connection.execute(select(waits).where(waits.c.id == row.id))).one()
        if parent is None or wait.state != WaitState.OPEN or wait.child_run_id != run_id:
            continue
        if attempt is not None and wait.child_attempt is not None and attempt <= wait.child_attempt:
            continue
        settled.append(
            await settle_in(
                connection,
                parent,
                wait,
                outcome=Outcome.ANSWERED,
                answer=_said(run_id, state, result, error),
                door=Door.AGENT,
                actor=run_id,
            )
        )
    return settled


def _said(run_id: str, state: RunState, result: str | None, error: str | None) -> str:
    """The answer of a wait for a run, as ``waits.Finished`` reads it."""
    return json.dumps({"run_id": run_id, "state": state, "result": json.loads(result or "null"), "error": error})


async def try_again(connection: AsyncConnection, wait_ids: list[str]) -> None:
    """Waits that open again start another agent where theirs was cancelled, and wait for the retry of one that failed:
    it goes on from its checkpoints."""
    if not wait_ids:
        return
    these = waits.c.id.in_(wait_ids)
    cancelled = select(runs.c.id).where(runs.c.state == RunState.CANCELLED)
    await connection.execute(
        update(waits).where(these, waits.c.child_run_id.in_(cancelled)).values(child_run_id=None, child_attempt=None)
    )
    failed_in = select(runs.c.attempt).where(runs.c.id == waits.c.child_run_id, runs.c.state == RunState.FAILED)
    await connection.execute(update(waits).where(these).values(child_attempt=failed_in.scalar_subquery()))


class Children:
    def __init__(self, database: Database) -> None:
        self._db = database

    async def unstarted(self, before: datetime) -> list[Row[Any]]:
        """Open waits for an agent that was to be started before this time, and was not."""
        return await self._db.read(
            select(waits)
            .join(runs, runs.c.id == waits.c.run_id)
            .where(
                waits.c.kind == WaitKind.AGENT, waits.c.state == WaitState.OPEN, waits.c.child_run_id.is_(None),
                by(waits.c.opened_at, before), runs.c.state.not_in(ENDED),
            )
        )  # fmt: skip

    async def started(self, wait: Row[Any], run_id: str) -> Settled | None:
        """The wait's agent has this run. What became of the wait if the run has ended already."""
        async with self._db.transaction() as connection:
            child = await locked_run(connection, run_id)
            await locked_run(connection, wait.run_id)  # as every change of its waits does, before their rows
            await connection.execute(
                update(waits)
                .where(waits.c.id == wait.id, waits.c.opening == wait.opening, waits.c.child_run_id.is_(None))
                .values(child_run_id=run_id)
            )
            if child is None or RunState(child.state) not in ENDED:
                return None
            told = await tell_parents(
                connection, run_id, RunState(child.state), child.result, child.error, child.attempt
            )
            return told[0] if told else None

    async def let_go_of(self, wait: Row[Any]) -> None:
        """The agent of an open wait has ended, or is about to, because the wait was closed: it is to start another."""
        await self._db.write(
            update(waits)
            .where(waits.c.id == wait.id, waits.c.opening == wait.opening, waits.c.child_run_id == wait.child_run_id)
            .where(unindexed(waits.c.state) == WaitState.OPEN)
            .values(child_run_id=None)
        )

    async def ended_elsewhere(
        self, run_id: str, state: RunState, result: str | None, error: str | None
    ) -> list[Settled]:
        """A run that the ledger does not know has ended: settle the waits for it."""
        async with self._db.transaction() as connection:
            return await tell_parents(connection, run_id, state, result, error)

    async def awaited(self) -> list[Row[Any]]:
        """Open waits for runs that were started."""
        return await self._db.read(
            select(waits).where(
                waits.c.kind == WaitKind.AGENT, waits.c.state == WaitState.OPEN, waits.c.child_run_id.is_not(None)
            )
        )

    async def parents_to_wake(self, run_id: str) -> list[Row[Any]]:
        """Runs that are ready because this one has ended."""
        return await self._db.read(
            select(runs)
            .join(waits, waits.c.run_id == runs.c.id)
            .where(waits.c.child_run_id == run_id, unindexed(waits.c.state) == WaitState.SETTLED)
            .where(unindexed(runs.c.state) == RunState.READY)
        )

    async def abandoned(self) -> list[Row[Any]]:
        """Waits that nobody waits at any more (closed, or their time is over) and whose agent is to be cancelled then,
        unless it needs nothing more. Those without a run may have one that Prefect alone knows of."""
        rows = await self._db.read(select(waits).where(waits.c.kind == WaitKind.AGENT, *_LEFT))
        return [row for row in rows if json.loads(row.child)["if_closed"] == "cancel"]

    async def let_go(self, wait_id: str) -> None:
        """The agent of an abandoned wait needs nothing more."""
        await self._db.write(
            update(waits).where(waits.c.id == wait_id, *_LEFT).values(child_run_id=None, child_attempt=NEEDS_NOTHING)
        )
