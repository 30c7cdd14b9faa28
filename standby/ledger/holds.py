"""Statements on how runs are held while they wait: what there is to learn from, and what it has cost."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Row, Update, case, select, update

from standby import clock, settings
from standby.ledger.database import Database
from standby.ledger.locks import locked_run
from standby.ledger.tables import Checkpoint, Wait, table_of
from standby.outlook import Past
from standby.states import CheckpointState, Hold, WaitState

waits = table_of(Wait)
checkpoints = table_of(Checkpoint)


def held(run_id: str, group_key: str, hold: Hold) -> Update:
    """The run parks on this group, and is held like this."""
    return (
        update(waits).where(waits.c.run_id == run_id, waits.c.group_key == group_key).values(held=hold, let_go_at=None)
    )


class Holds:
    def __init__(self, database: Database) -> None:
        self._db = database

    async def history(self, agent: str, kind: str, *, limit: int = settings.LEARN_FROM) -> list[Past]:
        """How long the latest waits of this agent and kind took, newest first, at most ``limit``.

        Those that are open, or were closed without an answer, are not over.
        """
        now = clock.utcnow()
        rows = await self._db.read(
            select(waits.c.opened_at, waits.c.settled_at, waits.c.state)
            .where(waits.c.agent == agent, waits.c.kind == kind)
            .order_by(waits.c.opened_at.desc())
            .limit(limit)
        )
        return [
            Past(
                max(0.0, ((row.settled_at or now) - row.opened_at).total_seconds()),
                row.state == WaitState.SETTLED,
            )
            for row in rows
        ]

    async def bill(self, run_id: str, group_key: str, gib_seconds: float, *, let_go: bool = False) -> None:
        """The run has held this much memory for this group of waits, beside what was billed before.

        ``let_go``: it holds none any more though it waits on. The bill stands with the group's first wait.
        """
        bill = case((waits.c.member == 0, gib_seconds), else_=0.0)
        values: dict[str, Any] = {"gib_seconds": waits.c.gib_seconds + bill}
        if let_go:
            values["let_go_at"] = clock.utcnow()
        group = (waits.c.run_id == run_id, waits.c.group_key == group_key)
        async with self._db.transaction() as connection:
            # As whoever settles one of them does: two that lock the waits of a group in another order block each other.
            await locked_run(connection, run_id)
            await connection.execute(update(waits).where(*group).values(**values))

    async def waited(self, since: datetime, *, limit: int = 100_000) -> list[Row[Any]]:
        """Waits that opened since then, oldest first; of more than ``limit`` the newest.

        Each: ``run_id, group_key, agent, kind, state, opened_at, settled_at, held, let_go_at, gib_seconds``, and
        ``went_on_at``: when the run had taken the answer in.
        """
        newest = (
            select(
                waits.c.run_id,
                waits.c.group_key,
                waits.c.agent,
                waits.c.kind,
                waits.c.state,
                waits.c.opened_at,
                waits.c.settled_at,
                waits.c.held,
                waits.c.let_go_at,
                waits.c.gib_seconds,
                checkpoints.c.written_at.label("went_on_at"),
            )
            .outerjoin(
                checkpoints,
                (checkpoints.c.run_id == waits.c.run_id)
                & (checkpoints.c.key == waits.c.group_key)
                & (checkpoints.c.state == CheckpointState.RECORDED),
            )
            .where(waits.c.opened_at >= since)
            .order_by(waits.c.opened_at.desc())
            .limit(limit)
        )
        return (await self._db.read(newest))[::-1]
