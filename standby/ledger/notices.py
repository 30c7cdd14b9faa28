"""What parties have to be told of waits: written in the transaction that makes it so, sent afterwards."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import uuid4

from sqlalchemy import ColumnElement, Row, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from standby import clock
from standby.ledger.database import Database
from standby.ledger.tables import Notice, table_of
from standby.ledger.votes import deciders
from standby.states import NoticeKind, WaitKind

notices = table_of(Notice)

FIRST_RETRY = timedelta(seconds=10)
"""After a channel failed; each further try comes twice as late, at most ``LAST_RETRY`` later."""
LAST_RETRY = timedelta(hours=1)

SENDING = timedelta(minutes=1)
"""How long a sender has a notice to itself, longer than a channel may take. If it dies, the notice is due then."""


async def notify(connection: AsyncConnection, waiting: Iterable[Row[Any]], kind: NoticeKind) -> None:
    """Have the party of each approval among these waits told, and each person who is named as one who may decide it.

    An escalation is for its party alone: the others know.
    """
    now = clock.utcnow()
    rows = []
    for wait in waiting:
        if wait.kind == WaitKind.APPROVAL:
            people = await deciders(connection, wait.policy)
            told = [wait.party] if kind is NoticeKind.ESCALATED else [wait.party, *people]
            rows += [
                {"id": uuid4().hex, "wait_id": wait.id, "kind": kind, "party": party, "created_at": now,
                 "next_try_at": now, "tries": 0, "personal": party in people}
                for party in dict.fromkeys(told)
            ]  # fmt: skip
    if rows:
        await connection.execute(notices.insert(), rows)


def _is_due() -> ColumnElement[bool]:
    """No try is put off by more than ``LAST_RETRY``: one that lies further ahead was before the clock was set back."""
    now = clock.utcnow()
    return or_(notices.c.next_try_at <= now, notices.c.next_try_at > now + LAST_RETRY + clock.AHEAD)


class Parties(NamedTuple):
    """Whom there is room to tell: of the parties that are named some, and all ``others`` or none of them."""

    named: dict[str, bool]
    others: bool

    @property
    def clause(self) -> ColumnElement[bool]:
        named = [party for party, free in self.named.items() if free is not self.others]
        party = notices.c.party
        return or_(party.is_(None), party.not_in(named)) if self.others else party.in_(named)


class Notices:
    def __init__(self, database: Database) -> None:
        self._db = database

    async def due(
        self, limit: int = 100, *, sending: Collection[str] = (), parties: Parties | None = None
    ) -> list[Row[Any]]:
        """Notices to be sent now, the oldest first: not those (by id) on their way, and to these parties alone."""
        statement = (
            select(notices)
            .where(notices.c.done_at.is_(None), _is_due(), notices.c.id.not_in(sending))
            .order_by(notices.c.next_try_at)
            .limit(limit)
        )
        return await self._db.read(statement if parties is None else statement.where(parties.clause))

    async def claim(self, notice: Row[Any]) -> bool:
        """Take a notice that is due, to send it. False when another sender has taken it, or has sent it."""
        free = (notices.c.id == notice.id, notices.c.done_at.is_(None), notices.c.next_try_at == notice.next_try_at)
        return bool(await self._db.write(update(notices).where(*free).values(next_try_at=clock.utcnow() + SENDING)))

    async def sent_to(self, notice_id: str, channels: list[str]) -> None:
        """These channels, ``type/name``, have taken it: it is not sent to them again."""
        await self._db.write(update(notices).where(notices.c.id == notice_id).values(sent_to=json.dumps(channels)))

    async def done(self, notice_id: str, note: str | None = None) -> None:
        """It was sent, or needs no sending; ``note`` says why."""
        await self._db.write(update(notices).where(notices.c.id == notice_id).values(done_at=clock.utcnow(), note=note))

    async def failed(self, notice: Row[Any], why: str) -> None:
        """A channel did not take it: it is tried again later."""
        pause = min(FIRST_RETRY * 2 ** min(notice.tries, 16), LAST_RETRY)
        await self._db.write(
            update(notices)
            .where(notices.c.id == notice.id)
            .values(tries=notice.tries + 1, next_try_at=clock.utcnow() + pause, note=why)
        )

    async def of_wait(self, wait_id: str) -> list[Row[Any]]:
        return await self._db.read(select(notices).where(notices.c.wait_id == wait_id).order_by(notices.c.created_at))
