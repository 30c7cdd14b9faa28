"""Statements on secrets that all processes of one ledger share."""

from __future__ import annotations

from secrets import token_hex

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from standby import clock
from standby.ledger.database import Database
from standby.ledger.tables import Secret, table_of

secrets = table_of(Secret)


class Secrets:
    def __init__(self, database: Database) -> None:
        self._db = database
        self._insert = sqlite_insert if database.sqlite else postgres_insert

    async def get(self, name: str) -> bytes:
        """The 32 bytes of this name: made by whoever asks first, the same for everybody from then on."""
        if (there := await self._read(name)) is None:
            made = self._insert(secrets).values(name=name, value=token_hex(32), made_at=clock.utcnow())
            await self._db.write(made.on_conflict_do_nothing())
            there = await self._read(name)
            assert there is not None
        return there

    async def _read(self, name: str) -> bytes | None:
        rows = await self._db.read(select(secrets.c.value).where(secrets.c.name == name))
        return bytes.fromhex(rows[0].value) if rows else None
