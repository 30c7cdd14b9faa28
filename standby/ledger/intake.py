"""Taking signals in: those that come at the same time share one transaction, and one fsync.

What is usual is done for all of a batch by the same few statements: a signal with a key settles the oldest open wait
for it. A transaction that works for many must not wait for one of them: it passes over keys and runs that somebody else
has locked just then. Those signals, the second one for a run, those without a key and those that ask for a start which
cannot be made are taken in alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import uuid4
from weakref import WeakValueDictionary

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from standby.errors import LedgerUnavailable
from standby.ledger.arrivals import LOCK_WAITS, Arrival, Arrivals, Incoming
from standby.ledger.batches import Batches
from standby.ledger.database import STATEMENT_SECONDS, Database, in_the_way
from standby.ledger.delivering import Delivery, keep, lock_topics, set_disposition, to_open_wait, wait_for_locks
from standby.ledger.settling_many import Answer, SettlingMany, is_open
from standby.ledger.starts import started_by
from standby.ledger.tables import Signal, Wait, table_of
from standby.states import Disposition, Door, Outcome

log = logging.getLogger("standby.ledger")

ALONE = 5
"""Signals that are taken in alone at the same time, each with one of the ledger's 15 connections. One that cannot be
written for ``LOCK_WAITS`` makes room for the next, and has its turn again: what nobody has locked is taken in between.
"""

waits = table_of(Wait)
signals = table_of(Signal)


class Intake:
    def __init__(self, database: Database) -> None:
        self._db = database
        self._arrivals = Arrivals(database)
        self._settling = SettlingMany(database)
        self._batches: Batches[Incoming, Delivery | None] = Batches(self._take, _address)
        self._turns: WeakValueDictionary[tuple[str, str | None], asyncio.Lock] = WeakValueDictionary()
        self._room = asyncio.Semaphore(ALONE)

    async def take(self, signal: Incoming) -> Delivery:
        """What became of it, once that is committed. Raises ``StartRefused`` as ``keep``; then nothing was written."""
        # What may be refused undoes its transaction.
        beside_others = signal.correlation is not None and not (signal.start and signal.start.problems)
        made = await self._batches.do(signal) if beside_others else None
        if made is not None:
            return made
        turn = self._turns.setdefault(_address(signal), asyncio.Lock())
        until = asyncio.get_running_loop().time() + STATEMENT_SECONDS
        # Those of one key, and those for which there is no room, wait here and not with a connection each.
        async with self._in_time(turn, until):
            while True:
                async with self._in_time(self._room, until):
                    try:
                        return await self._alone(signal)
                    except LedgerUnavailable as error:
                        if not in_the_way(error) or asyncio.get_running_loop().time() >= until:
                            raise

    @asynccontextmanager
    async def _in_time(self, turn: asyncio.Lock | asyncio.Semaphore, until: float) -> AsyncIterator[None]:
        """Raises ``LedgerUnavailable`` when it is not had by then, by the event loop's time."""
        try:
            async with asyncio.timeout_at(until):
                await turn.acquire()
        except TimeoutError as error:
            why = "other signals, for the same topic and key or that wait for others' locks, come before it"
            raise LedgerUnavailable(self._db.shown, why) from error
        try:
            yield
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
            new = await self._arrivals.write(connection, batch)
            made |= await self._settle_waits(connection, batch, new)
            alone = [
                signal_id for signal_id, (wait_id, _) in new.items() if wait_id is not None and signal_id not in made
            ]
            await self._arrivals.undo(connection, alone)
            for signal_id, one in batch.items():
                if signal_id in new and new[signal_id].wait_id is None:
                    made[signal_id] = await keep(connection, signal_id, one.topic, one.correlation, one.start)
            # After all that is new: the first of a delivery may be of this batch, which PostgreSQL writes in its order.
            for signal_id, one in batch.items():
                if signal_id not in new and (duplicate := await _duplicate(connection, one)) is not None:
                    made[signal_id] = duplicate
        return made

    async def _settle_waits(
        self, connection: AsyncConnection, batch: dict[str, Incoming], new: dict[str, Arrival]
    ) -> dict[str, Delivery]:
        """Settle the waits that can be settled here, each with its signal."""
        made: dict[str, Delivery] = {}
        settles: dict[str, Answer] = {}
        seen: set[str] = set()
        for signal_id, (_, wait) in new.items():
            one = batch[signal_id]
            if wait is None or wait.run_id in seen or not is_open(wait):
                continue
            seen.add(wait.run_id)
            if one.misfit is not None and (problems := one.misfit(wait, one.payload)):
                made[signal_id] = Delivery(
                    Disposition.REJECTED, signal_id, wait.id, wait.run_id, problems=tuple(problems)
                )
                await set_disposition(connection, signal_id, Disposition.REJECTED, wait.id, made[signal_id].said)
                continue
            note = f"signal {signal_id}"
            settles[signal_id] = Answer(wait, Outcome.ANSWERED, one.payload, Door.SIGNAL, one.source, note, signal_id)
        ready = await self._settling.settle(connection, list(settles.values()))
        for signal_id, answer in settles.items():
            wait = answer.wait
            made[signal_id] = Delivery(
                Disposition.DELIVERED, signal_id, wait.id, wait.run_id, wait.run_id in ready, wait.run_wake_address
            )
        return made

    async def _alone(self, one: Incoming) -> Delivery:
        signal_id = uuid4().hex
        async with self._db.transaction() as connection:
            await lock_topics(connection, self._db, [_address(one)], within=LOCK_WAITS)
            if not await self._arrivals.write_one(connection, signal_id, one):
                duplicate = await _duplicate(connection, one)
                assert duplicate is not None  # who wrote it has committed, or it would be written here
                return duplicate
            # It is written: the same delivery for another key is a duplicate, and does not come first.
            await wait_for_locks(connection, self._db)
            found = await to_open_wait(
                connection, signal_id, one.source, one.topic, one.correlation, one.payload, one.misfit
            )
            return found or await keep(connection, signal_id, one.topic, one.correlation, one.start)


def _address(one: Incoming) -> tuple[str, str | None]:
    return one.topic, one.correlation


async def _duplicate(connection: AsyncConnection, one: Incoming) -> Delivery | None:
    """What became of the first of this delivery; None when there is none that is committed."""
    same = select(signals).where(signals.c.source == one.source, signals.c.delivery_id == one.delivery_id)
    if (first := (await connection.execute(same)).first()) is None:
        return None
    became = Disposition(first.disposition)
    begun = await started_by(connection, first.id)
    why: tuple[tuple[str, str], ...] = ()
    wait = None
    if first.wait_id is not None:
        wait = (await connection.execute(select(waits).where(waits.c.id == first.wait_id))).first()
    if became is Disposition.REJECTED:
        said = first.note or "it did not fit"
        if begun is not None and begun.run_id is None:
            why = (("start", said),)
        else:
            # By the same fields as the first time, unless what is asked for has changed since.
            problems = one.misfit(wait, first.payload) if one.misfit is not None and wait is not None else []
            why = tuple(problems) or (("payload", said),)
    run_id = wait.run_id if wait is not None else begun.run_id if begun is not None else None
    return Delivery(Disposition.DUPLICATE, first.id, first.wait_id, run_id, first=became, problems=why, start=begun)
