"""What is waited for, page by page: what people are asked first, and then what messages, times and agents settle."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from sqlalchemy import Row, case, literal, select, tuple_

from standby.ledger.database import Database
from standby.ledger.tables import Wait, table_of
from standby.states import WaitKind, WaitState

waits = table_of(Wait)

_ORDER = (case((waits.c.kind == WaitKind.APPROVAL, 0), else_=1), waits.c.opened_at, waits.c.member, waits.c.id)


def _bound(column: Any, value: Any) -> Any:
    return literal(value, column.type)


class Page(NamedTuple):
    """Some open waits. ``after``: what the next page comes after; None when this is the last."""

    waits: list[Row[Any]]
    after: str | None


class Listing:
    def __init__(self, database: Database) -> None:
        self._db = database

    async def page(
        self, limit: int, *, kinds: Collection[str] = (), party: str | None = None, after: str | None = None
    ) -> Page | None:
        """At most ``limit`` open waits of these kinds (none: of all) and for this party (None: for any), what people
        are asked first, of that the oldest first. ``after``: the id of the last one of the page before, which may be
        settled by now. None if there is no such wait."""
        query = select(waits).where(waits.c.state == WaitState.OPEN).order_by(*_ORDER).limit(limit + 1)
        if kinds:
            query = query.where(waits.c.kind.in_(kinds))
        if party is not None:
            query = query.where(waits.c.party == party)
        if after is not None:
            found = await self._db.read(select(*_ORDER).where(waits.c.id == after))
            if not found:
                return None
            query = query.where(tuple_(*_ORDER) > tuple_(*map(_bound, _ORDER, found[0])))
        rows = await self._db.read(query)
        return Page(rows[:limit], rows[limit - 1].id if len(rows) > limit else None)
