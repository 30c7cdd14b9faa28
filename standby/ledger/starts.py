"""Statements on runs that signals start: one alive at a time for each topic and key.

It is alive until its run has ended, in the ledger or, if it never came so far, in Prefect; and again when its run is
retried. Whoever writes one holds the lock on its topic and key; the index on those that are not over would refuse a
second one in any case.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import Row, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from standby import clock
from standby.ledger.database import Database, by
from standby.ledger.tables import Run, Start, table_of
from standby.states import ENDED, RunState

runs = table_of(Run)
starts = table_of(Start)


@dataclass(frozen=True, slots=True)
class NewStart:
    """What a signal asks for. ``parameters`` are JSON text, with the payload among them if ``takes_payload``.

    ``context_id``: what an A2A client groups the task with. ``problems``: why it cannot be made, ``(field, reason)``
    pairs; none if it can.
    """

    deployment: str
    parameters: str
    takes_payload: bool
    context_id: str | None = None
    problems: tuple[tuple[str, str], ...] = ()


async def alive(connection: AsyncConnection, topic: str, correlation: str) -> Row[Any] | None:
    """The start of the topic and key whose run has not ended, or lives again."""
    found = await connection.execute(
        select(starts, runs.c.state.label("run_state"))
        .outerjoin(runs, runs.c.id == starts.c.run_id)
        .where(
            starts.c.topic == topic,
            starts.c.correlation == correlation,
            or_(starts.c.over_at.is_(None), runs.c.state.not_in(ENDED)),
        )
        .order_by(starts.c.created_at.desc(), starts.c.id)
    )
    living = None
    for start in found.all():
        if start.run_state is None or RunState(start.run_state) not in ENDED:
            living = living or start
        else:
            await connection.execute(update(starts).where(starts.c.id == start.id).values(over_at=clock.utcnow()))
    return living


async def begin(connection: AsyncConnection, signal_id: str, topic: str, correlation: str, start: NewStart) -> Row[Any]:
    """Write down that a run is to be started."""
    start_id = uuid4().hex
    await connection.execute(
        starts.insert().values(
            id=start_id,
            signal_id=signal_id,
            topic=topic,
            correlation=correlation,
            deployment=start.deployment,
            parameters=start.parameters,
            context_id=start.context_id,
            created_at=clock.utcnow(),
        )
    )
    return (await connection.execute(select(starts).where(starts.c.id == start_id))).one()


async def started_by(connection: AsyncConnection, signal_id: str) -> Row[Any] | None:
    """The start of a signal; the last one, if it was sent again."""
    of_signal = select(starts).where(starts.c.signal_id == signal_id).order_by(starts.c.created_at.desc())
    return (await connection.execute(of_signal)).first()


class Starts:
    def __init__(self, database: Database) -> None:
        self._db = database

    async def all(self) -> list[Row[Any]]:
        return await self._db.read(select(starts).order_by(starts.c.created_at))

    async def unstarted(self, before: datetime) -> list[Row[Any]]:
        """Starts that were written down before this time, and that Prefect is not known to have made a run for."""
        return await self._db.read(
            select(starts)
            .where(starts.c.over_at.is_(None), starts.c.run_id.is_(None), by(starts.c.created_at, before))
            .order_by(starts.c.created_at)
        )

    async def started(self, start_id: str, run_id: str) -> None:
        """Prefect has made this run for it."""
        await self._db.write(update(starts).where(starts.c.id == start_id).values(run_id=run_id, note=None))

    async def failed(self, start_id: str, note: str) -> None:
        """Prefect has not made its run; ``note`` says why. It is tried again."""
        await self._db.write(update(starts).where(starts.c.id == start_id, starts.c.run_id.is_(None)).values(note=note))

    async def close_ended(self) -> None:
        """Starts whose run has ended in the ledger are over."""
        ended = select(runs.c.id).where(runs.c.state.in_(ENDED))
        over = select(starts.c.id).where(starts.c.over_at.is_(None), starts.c.run_id.in_(ended))
        for start in await self._db.read(over):
            # One by one: signals that are taken in together take their locks in another order.
            await self.close(start.id)

    async def not_arrived(self) -> list[Row[Any]]:
        """Starts whose run Prefect has made, and that has not come to the ledger (yet)."""
        return await self._db.read(
            select(starts)
            .outerjoin(runs, runs.c.id == starts.c.run_id)
            .where(starts.c.over_at.is_(None), starts.c.run_id.is_not(None), runs.c.id.is_(None))
        )

    async def close(self, start_id: str, ended_as: RunState | None = None) -> None:
        """Its run has ended, in the ledger or without ever coming to it: then ``ended_as`` says how."""
        over = {"over_at": clock.utcnow(), "ended_as": ended_as}
        await self._db.write(update(starts).where(starts.c.id == start_id).values(**over))
