"""Statements on how runs are held while they wait: what there is to learn from, and what it has cost."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Row, Update, bindparam, case, func, select, update

from standby import clock, settings
from standby.ledger.batches import Batches
from standby.ledger.database import Database, among, listed
from standby.ledger.locks import locked_run
from standby.ledger.tables import Checkpoint, Run, Wait, table_of
from standby.outlook import Past
from standby.states import CheckpointState, Hold, WaitState

runs = table_of(Run)
waits = table_of(Wait)
checkpoints = table_of(Checkpoint)


def held(run_id: str, group_key: str, hold: Hold) -> Update:
    """The run parks on this group, and is held like this."""
    return (
        update(waits).where(waits.c.run_id == run_id, waits.c.group_key == group_key).values(held=hold, let_go_at=None)
    )


class Bill(NamedTuple):
    run: str
    group: str
    gib: float
    let_go: datetime | None


class _Statements:
    def __init__(self, database: Database) -> None:
        self.free = select(runs.c.id).where(among(runs.c.id, "runs", database)).with_for_update(skip_locked=True)
        billed = case((waits.c.member == 0, bindparam("gib", type_=waits.c.gib_seconds.type)), else_=0.0)
        let_go = bindparam("let_go", type_=waits.c.let_go_at.type)
        self.bill = database.prepared(
            update(waits)
            .where(waits.c.run_id == bindparam("run"), waits.c.group_key == bindparam("group"))
            .values(gib_seconds=waits.c.gib_seconds + billed, let_go_at=func.coalesce(let_go, waits.c.let_go_at))
        )


class Holds:
    def __init__(self, database: Database) -> None:
        self._db = database
        self._sql = database.made(_Statements)
        # Hundreds may wake in the same second, and an answer waits for each connection.
        self._bills: Batches[Bill, None] = Batches(self._write)

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
        await self._bills.do(Bill(run_id, group_key, gib_seconds, clock.utcnow() if let_go else None))

    async def _write(self, bills: Sequence[Bill]) -> list[None]:
        """The locks are those of whoever settles the waits, in the same order: run, then wait. Those of others are not
        waited for while these are held."""
        async with self._db.transaction() as connection:
            runs_of = listed({one.run for one in bills}, self._db)
            free = set((await connection.execute(self._sql.free, {"runs": runs_of})).scalars())
            await self._sql.bill.many(connection, [one._asdict() for one in bills if one.run in free])
        for one in bills:
            if one.run not in free:
                async with self._db.transaction() as connection:
                    await locked_run(connection, one.run)
                    await self._sql.bill.many(connection, [one._asdict()])
        return [None] * len(bills)

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
