"""Statements on leases: duties that one process at a time has."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, or_
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from standby import clock
from standby.ledger.database import Database
from standby.ledger.tables import Lease, table_of

leases = table_of(Lease)


class Leases:
    def __init__(self, database: Database) -> None:
        self._db = database
        self._insert = sqlite_insert if database.sqlite else postgres_insert

    async def take(self, name: str, holder: str, length: timedelta) -> bool:
        """Take the duty, or keep it. False while another holder's lease on it lasts.

        A lease that ends further ahead than any can was taken before the clock was set back: it is over.
        """
        now = clock.utcnow()
        statement = self._insert(leases).values(name=name, holder=holder, expires_at=now + length)
        return bool(
            await self._db.write(
                statement.on_conflict_do_update(
                    index_elements=["name"],
                    set_={"holder": statement.excluded.holder, "expires_at": statement.excluded.expires_at},
                    where=or_(
                        leases.c.holder == holder,
                        leases.c.expires_at <= now,
                        leases.c.expires_at > now + length + clock.AHEAD,
                    ),
                )
            )
        )

    async def give_up(self, name: str, holder: str) -> None:
        await self._db.write(delete(leases).where(leases.c.name == name, leases.c.holder == holder))
