"""Taking signals in: those that come at the same time share one transaction, and one fsync.

What is usual is done for all of a batch by the same few statements: a signal with a key settles the oldest open wait
for it. A transaction that works for many must not wait for one of them: it passes over keys and runs that somebody else
has locked just then. Those signals, the second one for a run, and those without a key are taken in alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import uuid4
from weakref import WeakValueDictionary

from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from standby import clock
from standby.errors import LedgerUnavailable
from standby.ledger.batches import Batches
from standby.ledger.database import STATEMENT_SECONDS, Database, among, in_the_way, listed
from standby.ledger.delivering import (
    KEPT_FOR,
    Delivery,
    Misfit,
    keep,
    lock_free_topics,
    lock_topics,
    to_open_wait,
)
from standby.ledger.prepared import given
from standby.ledger.settling_many import Answer, SettlingMany, is_open
from standby.ledger.starts import NewStart, started_by
from standby.ledger.tables import Run, Signal, Wait, table_of
from standby.states import BY_SIGNAL, ENDED, Disposition, Door, Outcome, WaitState

log = logging.getLogger("standby.ledger")

runs = table_of(Run)
waits = table_of(Wait)
signals = table_of(Signal)


class Incoming(NamedTuple):
    """A signal as it comes. ``payload`` is JSON text."""

    source: str
    delivery_id: str
    topic: str
    correlation: str | None
    payload: str
    misfit: Misfit | None
    start: NewStart | None


_oldest_open = (
    select(waits.c.id)
    .join(runs, runs.c.id == waits.c.run_id)
    .where(
        waits.c.topic == signals.c.topic,
        waits.c.correlation == signals.c.correlation,
        waits.c.kind.in_(BY_SIGNAL),
        waits.c.state == WaitState.OPEN,
        runs.c.state.not_in(ENDED),
    )
    .order_by(waits.c.opened_at, waits.c.id)
    .limit(1)
    .correlate(signals)
    .scalar_subquery()
)


class _Statements:
    def __init__(self, database: Database) -> None:
        insert = sqlite_insert if database.sqlite else postgres_insert
        signal = given(
            signals, "id", "source", "delivery_id", "topic", "correlation", "payload", "disposition", "received_at",
            "expires_at",
        )  # fmt: skip
        self.write = database.prepared(insert(signals).values(signal).on_conflict_do_nothing())
        self.dispose = database.prepared(
            update(signals)
            .where(signals.c.id == bindparam("signal"))
            .values(given(signals, "disposition", "wait_id", "note"))
        )
        self.waits_for = select(signals.c.id, _oldest_open).where(among(signals.c.id, "signals", database))
        self.undo = delete(signals).where(among(signals.c.id, "signals", database))


class Intake:
    def __init__(self, database: Database) -> None:
        self._db = database
        self._sql = database.made(_Statements)
        self._settling = SettlingMany(database)
        self._batches: Batches[Incoming, Delivery | None] = Batches(self._take, _address)
        self._turns: WeakValueDictionary[tuple[str, str | None], asyncio.Lock] = WeakValueDictionary()

    async def take(self, signal: Incoming) -> Delivery:
        """What became of it, once that is committed."""
        made = await self._batches.do(signal) if signal.correlation is not None else None
        if made is not None:
            return made
        # Those of one key wait for each other here, and not each with a connection that others need.
        turn = self._turns.setdefault(_address(signal), asyncio.Lock())
        try:
            await asyncio.wait_for(turn.acquire(), STATEMENT_SECONDS)
        except TimeoutError as error:
            raise LedgerUnavailable(self._db.shown, "other signals for the same topic and key wait for it") from error
        try:
            return await self._alone(signal)
        finally:
            turn.release()

    async def _take(self, batch: Sequence[Incoming]) -> Sequence[Delivery | None]:
        """None for those that have to be taken in alone."""
        ids = [uuid4().hex for _ in batch]
        try:
            made = await self._together(dict(zip(ids, batch, strict=True)))
        except LedgerUnavailable as error:
            if not in_the_way(error):
                raise
            made = {}
        except Exception:
            log.exception("%s signals could not be taken in together, and are one by one.", len(batch))
            made = {}
        return [made.get(signal_id) for signal_id in ids]

    async def _together(self, batch: dict[str, Incoming]) -> dict[str, Delivery]:
        """What became of each by its id; those that have to be taken in alone are not there."""
        made: dict[str, Delivery] = {}
        async with self._db.transaction() as connection:
            free = await lock_free_topics(connection, self._db, map(_address, batch.values()))
            batch = {signal_id: one for signal_id, one in batch.items() if _address(one) in free}
            if not batch:
                return made
            # In one order in all transactions: one of two that write the same delivery, for two keys, waits for the
            # other.
            rows = sorted(batch.items(), key=lambda item: (item[1].source, item[1].delivery_id))
            await self._sql.write.many(connection, [_kept(signal_id, one) for signal_id, one in rows])
            found = await connection.execute(self._sql.waits_for, {"signals": listed(batch, self._db)})
            wait_of: dict[str, str | None] = dict(found.tuples().all())
            made |= await self._settle_waits(connection, batch, wait_of)
            alone = [
                signal_id for signal_id, wait_id in wait_of.items() if wait_id is not None and signal_id not in made
            ]
            if alone:
                await connection.execute(self._sql.undo, {"signals": listed(alone, self._db)})
            for signal_id, one in batch.items():
                if signal_id not in wait_of:
                    made[signal_id] = await _duplicate(connection, one)
                elif wait_of[signal_id] is None:
                    made[signal_id] = await keep(connection, signal_id, one.topic, one.correlation, one.start)
        return made

    async def _settle_waits(
        self, connection: AsyncConnection, batch: dict[str, Incoming], wait_of: dict[str, str | None]
    ) -> dict[str, Delivery]:
        """Settle the waits that can be settled here, each with its signal."""
        wanted = [wait_id for wait_id in wait_of.values() if wait_id is not None]
        if not wanted:
            return {}
        found = await self._settling.locked(connection, wanted)
        made: dict[str, Delivery] = {}
        settles: dict[str, Answer] = {}
        seen: set[str] = set()
        for signal_id, wait_id in wait_of.items():
            wait, one = found.get(wait_id or ""), batch[signal_id]
            if wait is None or wait.run_id in seen or not is_open(wait):
                continue
            seen.add(wait.run_id)
            if one.misfit is not None and (problems := one.misfit(wait, one.payload)):
                made[signal_id] = Delivery(
                    Disposition.REJECTED, signal_id, wait.id, wait.run_id, problems=tuple(problems)
                )
                continue
            settles[signal_id] = Answer(
                wait, Outcome.ANSWERED, one.payload, Door.SIGNAL, one.source, f"signal {signal_id}"
            )
        ready = await self._settling.settle(connection, list(settles.values()))
        for signal_id, (wait, *_) in settles.items():
            wake = wait.run_id in ready
            made[signal_id] = Delivery(
                Disposition.DELIVERED, signal_id, wait.id, wait.run_id, wake, wait.run_wake_address
            )
        await self._sql.dispose.many(
            connection,
            [
                {"signal": signal_id, "disposition": one.disposition, "wait_id": one.wait_id, "note": one.said or None}
                for signal_id, one in made.items()
            ],
        )
        return made

    async def _alone(self, one: Incoming) -> Delivery:
        signal_id = uuid4().hex
        async with self._db.transaction() as connection:
            await lock_topics(connection, self._db, [_address(one)])
            inserted = await self._sql.write.many(connection, [_kept(signal_id, one)])
            if not inserted:
                return await _duplicate(connection, one)
            found = await to_open_wait(
                connection, signal_id, one.source, one.topic, one.correlation, one.payload, one.misfit
            )
            return found or await keep(connection, signal_id, one.topic, one.correlation, one.start)


def _address(one: Incoming) -> tuple[str, str | None]:
    return one.topic, one.correlation


def _kept(signal_id: str, one: Incoming) -> dict[str, Any]:
    """The row of a signal as long as nothing else has become of it."""
    now = clock.utcnow()
    return {
        "id": signal_id, "source": one.source, "delivery_id": one.delivery_id, "topic": one.topic,
        "correlation": one.correlation, "payload": one.payload, "disposition": Disposition.BUFFERED,
        "received_at": now, "expires_at": now + KEPT_FOR,
    }  # fmt: skip


async def _duplicate(connection: AsyncConnection, one: Incoming) -> Delivery:
    """What became of the first of this delivery."""
    same = select(signals).where(signals.c.source == one.source, signals.c.delivery_id == one.delivery_id)
    first = (await connection.execute(same)).one()
    became = Disposition(first.disposition)
    begun = await started_by(connection, first.id)
    why: tuple[tuple[str, str], ...] = ()
    if became is Disposition.REJECTED:
        said = first.note or "it did not fit"
        if begun is not None and begun.run_id is None:
            why = (("start", said),)
        else:
            wait = (await connection.execute(select(waits).where(waits.c.id == first.wait_id))).first()
            # By the same fields as the first time, unless what is asked for has changed since.
            problems = one.misfit(wait, first.payload) if one.misfit is not None and wait is not None else []
            why = tuple(problems) or (("payload", said),)
    run_id = begun.run_id if begun is not None else None
    return Delivery(Disposition.DUPLICATE, first.id, first.wait_id, run_id, first=became, problems=why, start=begun)
