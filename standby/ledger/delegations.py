"""Statements on who decides in whose place."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, select

from standby.ledger.database import Database
from standby.ledger.tables import Delegation, table_of

delegations = table_of(Delegation)


class Delegations:
    def __init__(self, database: Database) -> None:
        self._db = database

    async def give(self, giver: str, taker: str, until: datetime | None) -> None:
        """From now on ``taker`` may decide in the place of ``giver``; an earlier delegation of theirs ends."""
        async with self._db.transaction() as connection:
            await connection.execute(delete(delegations).where(delegations.c.giver == giver))
            await connection.execute(delegations.insert().values(giver=giver, taker=taker, until=until))

    async def end(self, giver: str) -> bool:
        return bool(await self._db.write(delete(delegations).where(delegations.c.giver == giver)))

    async def all(self) -> list[Row[Any]]:
        return await self._db.read(select(delegations).order_by(delegations.c.giver))
