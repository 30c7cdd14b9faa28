"""Statements on purses: what agents that think have spent, and may, with all that they start.

All purses below one that nobody started are changed under the lock of its row, which is taken last: what is decided on
one look at all of them is written before anybody else looks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from standby.ledger.database import Database
from standby.ledger.locks import run_of_attempt
from standby.ledger.tables import Purse, table_of

purses = table_of(Purse)

V = TypeVar("V")


class NoPurse(LookupError):
    """The purse that another is to be paid from is not in this ledger."""


@dataclass(frozen=True, slots=True)
class PurseRow:
    """``parent``: the purse of the agent that started it. The rest is JSON of ``standby.agents.budgets``."""

    id: str
    run_id: str
    parent: str | None
    limits: str
    spent: str
    under_way: str
    began_at: datetime


class Purses:
    def __init__(self, database: Database) -> None:
        self._db = database

    async def draw(
        self, attempt: int, mine: PurseRow, decide: Callable[[Sequence[PurseRow]], tuple[V, str]]
    ) -> tuple[V] | None:
        """Write down how far this purse is, with what ``decide`` says is under way; its verdict. None when fenced.

        ``decide`` is given all purses that are paid from the same one, this one last and as it is now. What is written
        are totals, so to write them again changes nothing. Raises ``NoPurse``.
        """
        async with self._db.transaction() as connection:
            if await run_of_attempt(connection, mine.run_id, attempt) is None:
                return None
            root = await _root_of(connection, mine)
            await connection.execute(select(purses.c.id).where(purses.c.id == root).with_for_update())
            found = (await connection.execute(select(purses).where(purses.c.root == root))).all()
            verdict, under_way = decide([*(_row(one) for one in found if one.id != mine.id), mine])
            values = asdict(mine) | {"root": root, "under_way": under_way}
            if any(one.id == mine.id for one in found):
                await connection.execute(update(purses).where(purses.c.id == mine.id).values(values))
            else:
                await connection.execute(purses.insert().values(values))
            return (verdict,)

    async def of_run(self, run_id: str) -> list[PurseRow]:
        """The purses of one run's agents."""
        return [_row(one) for one in await self._db.read(select(purses).where(purses.c.run_id == run_id))]


async def _root_of(connection: AsyncConnection, mine: PurseRow) -> str:
    if mine.parent is None:
        return mine.id
    root: str | None = (
        await connection.execute(select(purses.c.root).where(purses.c.id == mine.parent))
    ).scalar_one_or_none()
    if root is None:
        raise NoPurse(mine.parent)
    return root


def _row(found: Row[Any]) -> PurseRow:
    return PurseRow(found.id, found.run_id, found.parent, found.limits, found.spent, found.under_way, found.began_at)
