"""Statements on pushes: where the clients of A2A tasks are told of them, and who has not been told of what is so now.

What is told is where the task is: of what came and went between two looks nobody is told.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from standby import clock
from standby.ledger.database import Database
from standby.ledger.tables import Push, Run, Start, table_of
from standby.ledger.tasks import mark, over

pushes = table_of(Push)
runs = table_of(Run)
starts = table_of(Start)

FIRST_RETRY = timedelta(seconds=10)
"""After a try failed; each further try comes twice as late, at most ``LAST_RETRY`` later."""
LAST_RETRY = timedelta(hours=1)

MOST_TRIES = 50
"""After as many tries in a row, which take two days, nobody is there."""

SENDING = timedelta(minutes=1)
"""How long a sender has a push to itself, longer than a client may take. If it dies, the push is due then."""

LOOKED_AT = 1000
"""Pushes that are looked at together."""

MOST = 10
"""Pushes of one task."""


class Pushes:
    def __init__(self, database: Database) -> None:
        self._db = database
        self._insert = sqlite_insert if database.sqlite else postgres_insert

    async def save(self, task_id: str, config_id: str, key_id: str, **how: str | None) -> str | None:
        """Have a client told of the task's states, from the one of now on; ``how``: url, token, scheme, credentials.

        The same ``config_id`` of the same key again replaces what it said. Returns why nothing was saved, or None.
        """
        now = clock.utcnow()
        row = {"key_id": key_id, **how, "created_at": now, "next_try_at": now, "tries": 0, "told": None,
               "done_at": None, "note": None}  # fmt: skip
        async with self._db.transaction() as connection:
            others = select(func.count()).where(pushes.c.task_id == task_id, pushes.c.config_id != config_id)
            if (await connection.execute(others)).scalar_one() >= MOST:
                return f"the task has {MOST} already, which is as many as there may be"
            saved = await connection.execute(
                self._insert(pushes)
                .values(task_id=task_id, config_id=config_id, **row)
                .on_conflict_do_update(
                    index_elements=["task_id", "config_id"], set_=row, where=pushes.c.key_id == key_id
                )
            )
            return None if saved.rowcount else "it is somebody else's"

    async def of_task(self, task_id: str) -> list[Row[Any]]:
        return await self._db.read(select(pushes).where(pushes.c.task_id == task_id).order_by(pushes.c.config_id))

    async def remove(self, task_id: str, config_id: str) -> None:
        await self._db.write(delete(pushes).where(pushes.c.task_id == task_id, pushes.c.config_id == config_id))

    async def due(self, after: str | None = None) -> tuple[list[Row[Any]], str | None]:
        """Pushes whose client has not been told where the task is now: ``mark``.

        ``LOOKED_AT`` are looked at, of tasks behind ``after``; after which task the next ones are, None for the first.
        """
        these: list[ColumnElement[bool]] = [pushes.c.done_at.is_(None)]
        if after is not None:
            these.append(pushes.c.task_id > after)
        last = await self._db.read(
            select(pushes.c.task_id).where(*these).order_by(pushes.c.task_id).offset(LOOKED_AT - 1).limit(1)
        )
        if last:
            these.append(pushes.c.task_id <= last[0].task_id)
        found = await self._db.read(
            select(pushes, mark().label("mark"))
            .outerjoin(starts, starts.c.id == pushes.c.task_id)
            .outerjoin(runs, runs.c.id == func.coalesce(starts.c.run_id, pushes.c.task_id))
            .where(
                *these,
                pushes.c.next_try_at <= clock.utcnow(),
                pushes.c.told.is_distinct_from(mark()),
            )
            .order_by(pushes.c.next_try_at)
        )
        return found, last[0].task_id if last else None

    async def claim(self, push: Row[Any]) -> bool:
        """Take a push that is due, to send it. False when another sender has taken it, or has sent it."""
        as_seen = (pushes.c.next_try_at == push.next_try_at, pushes.c.told.is_not_distinct_from(push.told))
        free = and_(_same(push), *as_seen, pushes.c.tries == push.tries)
        return bool(await self._db.write(update(pushes).where(free).values(next_try_at=clock.utcnow() + SENDING)))

    async def told(self, push: Row[Any]) -> None:
        """The client has taken it. After the last state there is nothing more to tell."""
        now = clock.utcnow()
        values: dict[str, Any] = {"told": push.mark, "tries": 0, "next_try_at": now, "note": None}
        if over(push.mark):
            values["done_at"] = now
        await self._db.write(update(pushes).where(_same(push)).values(**values))

    async def failed(self, push: Row[Any], why: str) -> None:
        """The client did not take it: it is tried again later, ``MOST_TRIES`` times."""
        if push.tries + 1 >= MOST_TRIES:
            await self.give_up(push, f"tried {MOST_TRIES} times: {why}")
            return
        pause = min(FIRST_RETRY * 2 ** min(push.tries, 16), LAST_RETRY)
        later = {"tries": push.tries + 1, "next_try_at": clock.utcnow() + pause, "note": why}
        await self._db.write(update(pushes).where(_same(push)).values(**later))

    async def give_up(self, push: Row[Any], why: str) -> None:
        """It is not tried again."""
        await self._db.write(update(pushes).where(_same(push)).values(done_at=clock.utcnow(), note=why))


def _same(push: Row[Any]) -> ColumnElement[bool]:
    """This push, unless it was replaced since."""
    return and_(
        pushes.c.task_id == push.task_id,
        pushes.c.config_id == push.config_id,
        pushes.c.created_at == push.created_at,
    )
