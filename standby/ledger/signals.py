"""Statements on signals: every accepted one has exactly one disposition."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Row, func, literal, select, update

from standby import clock
from standby.ledger.arrivals import Incoming
from standby.ledger.database import Database
from standby.ledger.delivering import (
    DEAD,
    KEPT_FOR,
    Delivery,
    Misfit,
    has_waited,
    keep,
    lock_topics,
    to_open_wait,
)
from standby.ledger.intake import Intake
from standby.ledger.starts import NewStart, started_by
from standby.ledger.tables import Decision, Run, Signal, Start, Wait, table_of
from standby.states import ENDED, Disposition, Door, RunState, Verdict, WaitKind

__all__ = ["DEAD", "KEPT_FOR", "Delivery", "Misfit", "Signals"]

runs = table_of(Run)
waits = table_of(Wait)
signals = table_of(Signal)
starts = table_of(Start)
decisions = table_of(Decision)


class Signals:
    def __init__(self, database: Database) -> None:
        self._db = database
        self._intake = Intake(database)

    async def deliver(
        self,
        *,
        source: str,
        delivery_id: str,
        topic: str,
        correlation: str | None,
        payload: str,
        misfit: Misfit | None = None,
        start: NewStart | None = None,
    ) -> Delivery:
        """Take one signal in: settle the oldest open wait for its topic and key, or keep it.

        With ``start`` (and a key), if no living run was started for this topic and key, nor has waited for it, write
        down that one is to be started, once, whoever asks. It has the signal as a parameter, or as a kept signal.

        The same ``(source, delivery_id)`` again changes nothing and is a duplicate. One that the wait cannot take, as
        ``misfit`` says, is rejected, and the wait stays open. Without an open wait it is kept for ``KEPT_FOR`` if it
        has a ``start``, if nobody has waited for it yet, or if a run lives that was started for it and has yet to wait,
        or whose last wait for it was answered. Else it is late.

        Raises ``StartRefused``, and nothing was written, if it has to start what has ``problems``.
        """
        return await self._intake.take(Incoming(source, delivery_id, topic, correlation, payload, misfit, start))

    async def redrive(self, signal_id: str, misfit: Misfit | None = None) -> Delivery | None:
        """Send a signal that reached nobody on its way again: to an open wait, or kept for one anew; or to start its
        run, if Prefect had refused that.

        None if there is no such signal, or it is not one of the ``DEAD``.
        """
        now = clock.utcnow()
        async with self._db.transaction() as connection:
            found = select(signals).where(signals.c.id == signal_id)
            signal = (await connection.execute(found)).first()
            if signal is None:
                return None
            await lock_topics(connection, self._db, [(signal.topic, signal.correlation)])
            signal = (await connection.execute(found)).one()
            if Disposition(signal.disposition) not in DEAD:
                return None
            made = await to_open_wait(
                connection, signal_id, signal.source, signal.topic, signal.correlation, signal.payload, misfit
            )
            if made is not None:
                return made
            await connection.execute(
                update(signals)
                .where(signals.c.id == signal_id)
                .values(disposition=Disposition.BUFFERED, wait_id=None, note="sent again", expires_at=now + KEPT_FOR)
            )
            begun = await started_by(connection, signal_id)
            if begun is None or begun.over_at is None or begun.run_id is not None:
                return Delivery(Disposition.BUFFERED, signal_id)
            # Only what was to be a parameter was rejected with the start.
            takes_payload = signal.disposition == Disposition.REJECTED
            start = NewStart(begun.deployment, begun.parameters, takes_payload, begun.context_id)
            return await keep(connection, signal_id, signal.topic, signal.correlation, start)

    async def not_started(self, start: Row[Any], why: str) -> None:
        """End a start (its row), unless it has a run by now: Prefect will make none. Its topic and key are free.

        What was to be the run's input is rejected; what was kept for the run is unmatched, unless another lives that
        may yet take it.
        """
        async with self._db.transaction() as connection:
            await lock_topics(connection, self._db, [(start.topic, start.correlation)])
            ended = await connection.execute(
                update(starts)
                .where(starts.c.id == start.id, starts.c.over_at.is_(None), starts.c.run_id.is_(None))
                .values(over_at=clock.utcnow(), ended_as=RunState.FAILED, note=why)
            )
            if not ended.rowcount:
                return
            its_own = signals.c.id == start.signal_id
            note = f"its run cannot be started: {why}"
            await connection.execute(
                update(signals)
                .where(its_own, signals.c.disposition == Disposition.DELIVERED)
                .values(disposition=Disposition.REJECTED, note=note)
            )
            if not await has_waited(connection, start.topic, start.correlation):
                since = select(signals.c.received_at).where(its_own).scalar_subquery()
                kept = (signals.c.topic == start.topic, signals.c.correlation == start.correlation)
                await connection.execute(
                    update(signals)
                    .where(*kept, signals.c.disposition == Disposition.BUFFERED, signals.c.received_at >= since)
                    .values(disposition=Disposition.UNMATCHED, note=note)
                )

    async def expire(self) -> int:
        """Signals whose time is over without a wait become unmatched. Returns how many.

        One whose key is a run's id is kept for as long as that run lives, which may be longer.
        """
        lives = select(runs.c.id).where(runs.c.id == signals.c.correlation, runs.c.state.not_in(ENDED)).exists()
        # As the index on those that are kept has it, or a database would look at all that ever came.
        kept = signals.c.disposition == literal(Disposition.BUFFERED, literal_execute=True)
        return await self._db.write(
            update(signals)
            .where(kept, signals.c.expires_at <= clock.utcnow(), ~lives)
            .values(disposition=Disposition.UNMATCHED)
        )

    async def is_kept(self, topic: str, correlation: str) -> bool:
        """Whether a signal is kept for a wait that has yet to open."""
        kept = (signals.c.topic == topic, signals.c.correlation == correlation)
        found = select(signals.c.id).where(*kept, signals.c.disposition == Disposition.BUFFERED).limit(1)
        return bool(await self._db.read(found))

    async def is_taken(self, source: str, delivery_id: str | None) -> bool:
        """Whether a signal of this delivery has come before."""
        same = (signals.c.source == source, signals.c.delivery_id == delivery_id)
        return bool(await self._db.read(select(signals.c.id).where(*same).limit(1)))

    async def all(self) -> list[Row[Any]]:
        return await self._db.read(select(signals).order_by(signals.c.received_at))

    async def latest(self, dispositions: Iterable[Disposition] | None = None, limit: int = 100) -> list[Row[Any]]:
        """The signals that came last, the newest first; of these dispositions, or all."""
        query = select(signals).order_by(signals.c.received_at.desc(), signals.c.id).limit(limit)
        if dispositions is not None:
            query = query.where(signals.c.disposition.in_(list(dispositions)))
        return await self._db.read(query)

    async def pushed_and_polled(self) -> list[tuple[str, int, int]]:
        """``(topic, pushed, polled)``: of the conditions that came true, how many by a signal, and how many by a poll
        because the signal stayed away or came later."""
        by_door = [func.count().filter(decisions.c.door == door) for door in (Door.SIGNAL, Door.POLL)]
        rows = await self._db.read(
            select(waits.c.topic, *by_door)
            .join(decisions, decisions.c.wait_id == waits.c.id)
            .where(waits.c.kind == WaitKind.CONDITION, decisions.c.verdict == Verdict.WON)
            .group_by(waits.c.topic)
            .order_by(waits.c.topic)
        )
        return [(row[0], row[1], row[2]) for row in rows]

    async def find(self, prefix: str) -> list[Row[Any]]:
        """Signals whose id begins with ``prefix``."""
        return await self._db.read(select(signals).where(signals.c.id.startswith(prefix, autoescape=True)))
