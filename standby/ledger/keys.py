"""Statements on the gateway's keys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import Row, select, update

from standby import clock
from standby.ledger.batches import Batches
from standby.ledger.database import Database, among, listed
from standby.ledger.tables import ApiKey, table_of
from standby.states import Role

keys = table_of(ApiKey)


class Keys:
    def __init__(self, database: Database) -> None:
        self._db = database
        self._any = select(keys).where(among(keys.c.digest, "digests", database))
        self._looks: Batches[str, Row[Any] | None] = Batches(self._look)

    async def add(
        self,
        *,
        name: str,
        role: Role,
        digest: str,
        parties: list[str] | None = None,
        expires_at: datetime | None = None,
    ) -> str:
        """Let who has the key with this digest in. Returns the key's id."""
        key_id = uuid4().hex
        await self._db.write(
            keys.insert().values(
                id=key_id,
                name=name,
                role=role,
                parties=None if parties is None else json.dumps(parties),
                digest=digest,
                created_at=clock.utcnow(),
                expires_at=expires_at,
            )
        )
        return key_id

    async def find(self, digest: str) -> Row[Any] | None:
        """The key with this digest, also if it was revoked or has expired.

        Requests that come at the same time share one look, which begins after all of them have come.
        """
        return await self._looks.do(digest)

    async def _look(self, digests: Sequence[str]) -> list[Row[Any] | None]:
        found = {row.digest: row for row in await self._db.read(self._any, {"digests": listed(set(digests), self._db)})}
        return [found.get(digest) for digest in digests]

    async def get(self, key_id: str) -> Row[Any] | None:
        """The key with this id, as ``find``."""
        rows = await self._db.read(select(keys).where(keys.c.id == key_id))
        return rows[0] if rows else None

    async def revoke(self, prefix: str) -> int:
        """Revoke the keys whose id begins with this. Returns how many."""
        return await self._db.write(
            update(keys)
            .where(keys.c.id.startswith(prefix, autoescape=True), keys.c.revoked_at.is_(None))
            .values(revoked_at=clock.utcnow())
        )

    async def all(self) -> list[Row[Any]]:
        return await self._db.read(select(keys).order_by(keys.c.created_at))
