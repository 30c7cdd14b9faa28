"""Reminders and escalations of approvals that nobody decides."""

from __future__ import annotations

from sqlalchemy import or_, select, update

from standby import clock
from standby.ledger.database import Database
from standby.ledger.locks import locked_run
from standby.ledger.notices import notify
from standby.ledger.tables import Wait, table_of
from standby.ledger.votes import next_chase
from standby.policy import Policy, due
from standby.states import NoticeKind, WaitState

waits = table_of(Wait)


class Chases:
    def __init__(self, database: Database) -> None:
        self._db = database

    async def due(self, limit: int = 200) -> list[tuple[str, str]]:
        """``(wait, run)`` of open waits whose next reminder or escalation is due, and whose deadline is not."""
        now = clock.utcnow()
        rows = await self._db.read(
            select(waits.c.id, waits.c.run_id)
            .where(waits.c.state == WaitState.OPEN, waits.c.chase_at <= now)
            .where(or_(waits.c.deadline.is_(None), waits.c.deadline > now))
            .order_by(waits.c.chase_at)
            .limit(limit)
        )
        return [(row.id, row.run_id) for row in rows]

    async def chase(self, wait_id: str, run_id: str) -> bool:
        """Do what is due now for one wait: once, whoever else does it too. False if there is nothing to do."""
        now = clock.utcnow()
        async with self._db.transaction() as connection:
            if await locked_run(connection, run_id, skip_locked=True) is None:
                return False  # whoever is at it may settle it; if not, it is due again
            wait = (await connection.execute(select(waits).where(waits.c.id == wait_id))).one()
            if wait.state != WaitState.OPEN or wait.policy is None or wait.chase_at is None or wait.chase_at > now:
                return False
            what, done = due(Policy.model_validate_json(wait.policy), wait.opened_at, now, wait.chased)
            await connection.execute(
                update(waits)
                .where(waits.c.id == wait_id)
                .values(
                    chased=done,
                    chase_at=next_chase(wait.policy, wait.opened_at, done),
                    party=what.party or wait.party,
                )
            )
            asked = (await connection.execute(select(waits).where(waits.c.id == wait_id))).all()
            if what.party is not None:
                await notify(connection, asked, NoticeKind.ESCALATED)
            elif what.remind:
                await notify(connection, asked, NoticeKind.REMINDER)
            return True
