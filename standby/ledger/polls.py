"""Statements on conditions that are polled."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, func, not_, select, update

from standby import clock
from standby.ledger.database import Database
from standby.ledger.tables import Run, Wait, table_of
from standby.states import ENDED, WaitState

runs = table_of(Run)
waits = table_of(Wait)


def first_poll(poll: str | None, opened_at: datetime) -> datetime | None:
    """When the source of a wait that opens is asked for the first time."""
    return opened_at + timedelta(seconds=json.loads(poll)["every"]) if poll is not None else None


def _asks(source: str) -> ColumnElement[bool]:
    """Whether it is this source that a condition asks: it comes first in how it is asked, which is JSON."""
    begins = json.dumps({"function": source})[:-1] + ","
    return func.substr(waits.c.poll, 1, len(begins)) == begins


class Polls:
    def __init__(self, database: Database) -> None:
        self._db = database

    async def due(
        self, run_id: str | None = None, *, asked: Collection[str] = (), busy: Collection[str] = (), limit: int = 200
    ) -> list[Row[Any]]:
        """Open waits whose source is to be asked now, the most overdue first; of one run, or of all.

        Not those (by id) it is being asked for already, nor those whose source (``module:name``) is busy.
        """
        statement = (
            select(waits)
            .join(runs, runs.c.id == waits.c.run_id)
            .where(waits.c.state == WaitState.OPEN, waits.c.poll_at <= clock.utcnow(), runs.c.state.not_in(ENDED))
            .where(waits.c.id.not_in(asked), *(not_(_asks(source)) for source in busy))
            .order_by(waits.c.poll_at)
            .limit(limit)
        )
        return await self._db.read(statement if run_id is None else statement.where(waits.c.run_id == run_id))

    async def hurry(self) -> None:
        """Ask all sources anew: the clock was set back, and when they were to be asked lies too far ahead."""
        now = clock.utcnow()
        ahead = (waits.c.state == WaitState.OPEN, waits.c.poll_at > now)
        async with self._db.transaction() as connection:
            # As whoever settles one of a group does: two that lock its waits in another order block each other.
            whose = runs.c.id.in_(select(waits.c.run_id).where(*ahead))
            await connection.execute(select(runs.c.id).where(whose).order_by(runs.c.id).with_for_update())
            await connection.execute(update(waits).where(*ahead).values(poll_at=now))

    async def not_yet(self, wait: Row[Any], note: str | None = None) -> None:
        """The source had no answer; ``note`` says why, if it could not be asked. The next poll comes later."""
        spec = json.loads(wait.poll)
        pause = min(spec["every"] * 2 ** min(wait.polls + 1, 32), spec["at_most"])
        failed = spec.pop("failed", 0) + 1
        if note is not None:
            spec["failed"] = failed
        await self._db.write(
            update(waits)
            .where(waits.c.id == wait.id, waits.c.opening == wait.opening, waits.c.polls == wait.polls)
            .where(waits.c.poll == wait.poll)  # else an attempt with other code asks in another way now: at once
            .values(
                polls=wait.polls + 1,
                poll_at=clock.utcnow() + timedelta(seconds=pause),
                poll_note=note,
                poll=json.dumps(spec),
            )
        )
