"""Statements on grants: what people approved of a model's calls, each used once."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, select, update

from standby import clock
from standby.ledger.database import Database
from standby.ledger.locks import run_of_attempt
from standby.ledger.tables import Checkpoint, Grant, table_of
from standby.states import CheckpointState

grants = table_of(Grant)
checkpoints = table_of(Checkpoint)


@dataclass(frozen=True, slots=True)
class GrantRow:
    """An approved call. ``arguments``, ``tool_schema`` and ``given`` are digests."""

    key: str
    wait_id: str
    tool: str
    arguments: str
    tool_schema: str
    given: str
    approver: str | None = None
    door: str | None = None
    fresh: str | None = None
    settled_at: datetime | None = None


class Grants:
    def __init__(self, database: Database) -> None:
        self._db = database

    async def give(self, run_id: str, attempt: int, rows: list[GrantRow]) -> bool:
        """Write down what was approved. One that the run has already from the same wait stays as it is; where the call
        was asked about in another wait since, that one's counts. False when fenced."""
        async with self._db.transaction() as connection:
            if await run_of_attempt(connection, run_id, attempt) is None:
                return False
            for row in rows:
                mine = (grants.c.run_id == run_id, grants.c.key == row.key)
                there = (await connection.execute(select(grants.c.wait_id).where(*mine))).first()
                given = {"given_at": clock.utcnow(), **asdict(row)}
                if there is None:
                    await connection.execute(grants.insert().values(run_id=run_id, **given))
                elif there.wait_id != row.wait_id:
                    await connection.execute(update(grants).where(*mine).values(used_at=None, attempt=None, **given))
            return True

    async def use(
        self,
        run_id: str,
        attempt: int,
        key: str,
        *,
        tool: str,
        arguments: str,
        tool_schema: str,
        given: str,
        fresh: str | None = None,
        max_age: timedelta | None = None,
    ) -> str | None:
        """Use the grant for the call ``key``, which is about to act: None, or why it may not.

        ``fresh``: what the call is about as of now. ``max_age``: an older approval will not do. A call whose process
        died before it was recorded may use its own grant again: it is the same call. Fenced by the attempt.
        """
        async with self._db.transaction() as connection:
            if await run_of_attempt(connection, run_id, attempt) is None:
                return "another attempt has the run"
            mine = (grants.c.run_id == run_id, grants.c.key == key)
            grant = (await connection.execute(select(grants).where(*mine))).first()
            if grant is None:
                return "nobody has approved this call"
            if grant.tool != tool:
                return f"it is {grant.tool!r} that was approved"
            if grant.arguments != arguments:
                return "other arguments were approved"
            if grant.tool_schema != tool_schema:
                return "the tool takes other arguments than when it was approved"
            if grant.given != given:
                return "it is another call of the model that was approved"
            if grant.fresh != fresh:
                return "what it is about has changed since it was approved"
            now = clock.utcnow()
            if max_age is not None and (grant.settled_at is None or now - grant.settled_at > max_age):
                return f"its approval is older than {max_age}"
            done = select(checkpoints.c.key).where(
                checkpoints.c.run_id == run_id,
                checkpoints.c.key == key,
                checkpoints.c.state == CheckpointState.RECORDED,
            )
            if (await connection.execute(done)).first() is not None:
                return "its approval was used before"
            await connection.execute(update(grants).where(*mine).values(used_at=now, attempt=attempt))
            return None

    async def of_run(self, run_id: str) -> list[Row[Any]]:
        """What was approved in the run, oldest first."""
        return await self._db.read(select(grants).where(grants.c.run_id == run_id).order_by(grants.c.given_at))
