"""Giving a wait its one answer, inside a transaction that has locked the run."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple
from uuid import uuid4

from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from standby import clock
from standby.ledger.database import unindexed
from standby.ledger.locks import group_ready
from standby.ledger.notifications import told
from standby.ledger.tables import Decision, Run, Wait, table_of
from standby.ledger.text import digest_of
from standby.states import ENDED, Door, Need, Outcome, RunState, Verdict, WaitState

runs = table_of(Run)
waits = table_of(Wait)
decisions = table_of(Decision)


class Settled(NamedTuple):
    """What became of an attempt to settle a wait.

    ``won`` tells whether this answer is the wait's answer; ``wait`` is its row afterwards, ``wake`` whether the run
    is now READY and has to be woken; ``wake_address`` is where the process listens that has it, or takes it up.
    """

    won: bool
    wait: Row[Any]
    wake: bool
    wake_address: str | None
    winner: Row[Any] | None = None
    counted: bool = False  # it counts, and the wait's policy asks for more
    refused: str | None = None  # why its actor may not decide


async def settle_in(
    connection: AsyncConnection,
    run: Row[Any],
    wait: Row[Any],
    *,
    outcome: Outcome,
    answer: str | None,
    door: Door,
    actor: str | None,
    note: str | None = None,
    place: str | None = None,
    given_at: datetime | None = None,
    decision: str | None = None,
) -> Settled:
    """Settle inside a transaction that has locked the run. ``given_at``: when the answer was given, if before now.
    ``decision``: what won, where it is written down already."""
    if wait.state != WaitState.OPEN or RunState(run.state) in ENDED:
        if door is not Door.DEADLINE:
            await decide(connection, wait, Verdict.LOST, answer, door, actor, note)
        return Settled(False, wait, False, None, await winner_of(connection, wait))
    now = clock.utcnow()
    # Prefect's clock may be another one.
    settled_at = now if given_at is None else max(wait.opened_at, min(now, clock.plain(given_at)))
    await connection.execute(
        update(waits)
        .where(waits.c.id == wait.id, waits.c.state == WaitState.OPEN)
        .values(state=WaitState.SETTLED, outcome=outcome, answer=answer, settled_at=settled_at, refused=None)
    )
    if decision is None:
        await decide(connection, wait, Verdict.WON, answer, door, actor, note, place, settled_at)
    else:
        await connection.execute(update(decisions).where(decisions.c.id == decision).values(verdict=Verdict.WON))
    if wait.need == Need.ANY:
        await connection.execute(
            update(waits)
            .where(
                waits.c.run_id == wait.run_id,
                waits.c.group_key == wait.group_key,
                unindexed(waits.c.state) == WaitState.OPEN,
            )
            .values(state=WaitState.CLOSED, settled_at=now)
        )
    wake = False
    if run.state == RunState.PARKED and await group_ready(connection, wait.run_id, wait.group_key):
        ready = update(runs).where(runs.c.id == wait.run_id).values(state=RunState.READY, ready_at=now)
        await connection.execute(told(ready, connection))
        wake = True
    settled = (await connection.execute(select(waits).where(waits.c.id == wait.id))).one()
    return Settled(True, settled, wake, run.wake_address)


async def decide(
    connection: AsyncConnection,
    wait: Row[Any],
    verdict: Verdict,
    answer: str | None,
    door: Door,
    actor: str | None,
    note: str | None,
    place: str | None = None,
    at: datetime | None = None,
) -> None:
    await connection.execute(
        decisions.insert().values(
            id=uuid4().hex,
            wait_id=wait.id,
            run_id=wait.run_id,
            door=door,
            actor=actor,
            place=place if place != actor else None,
            opening=wait.opening,
            verdict=verdict,
            answer=answer,
            note=note,
            decided_at=at or clock.utcnow(),
            evidence_digest=digest_of(wait.evidence) if wait.evidence is not None else None,
        )
    )


async def winner_of(connection: AsyncConnection, wait: Row[Any]) -> Row[Any] | None:
    """The decision that won the wait, or where one of several is enough the one that closed it."""
    candidates: Any = [wait.id]
    if wait.need == Need.ANY:
        candidates = select(waits.c.id).where(waits.c.run_id == wait.run_id, waits.c.group_key == wait.group_key)
    return (
        await connection.execute(
            select(decisions).where(decisions.c.wait_id.in_(candidates), decisions.c.verdict == Verdict.WON)
        )
    ).first()
