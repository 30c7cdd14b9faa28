"""Statements on signals: every accepted one has exactly one disposition."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import uuid4

from sqlalchemy import Row, func, select, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from standby import clock
from standby.ledger.database import Database
from standby.ledger.locks import locked_run
from standby.ledger.settling import settle_in
from standby.ledger.starts import NewStart, alive, begin, started_by
from standby.ledger.tables import Decision, Run, Signal, Wait, table_of
from standby.states import BY_SIGNAL, ENDED, Disposition, Door, Outcome, RunState, Verdict, WaitKind, WaitState

runs = table_of(Run)
waits = table_of(Wait)
signals = table_of(Signal)
decisions = table_of(Decision)

KEPT_FOR = timedelta(days=7)
"""How long a signal that no wait has asked for is kept."""


DEAD = (Disposition.LATE, Disposition.UNMATCHED, Disposition.REJECTED)
"""Signals that reached nobody, and can be sent on their way again."""

Misfit = Callable[[Row[Any], str], list[tuple[str, str]]]
"""What is wrong with a payload (JSON text) for a wait: ``(field, reason)`` pairs, none if it fits."""


class Delivery(NamedTuple):
    """What became of a signal. ``run_id`` is the run it is for, as far as that is known; the one to wake when ``wake``.

    ``first``: of a duplicate, what became of the first one. ``problems``: of a rejected one, what does not fit.
    ``start``: the run (a row of ``starts``) that it starts, and that Prefect has perhaps not made yet.
    """

    disposition: Disposition
    signal_id: str
    wait_id: str | None = None
    run_id: str | None = None
    wake: bool = False
    wake_address: str | None = None
    first: Disposition | None = None
    problems: tuple[tuple[str, str], ...] = ()
    start: Any | None = None

    @property
    def said(self) -> str:
        """The problems in one line."""
        return "; ".join(f"{field}: {reason}" for field, reason in self.problems)


class Signals:
    def __init__(self, database: Database) -> None:
        self._db = database
        self._insert = sqlite_insert if database.sqlite else postgres_insert

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
        ``misfit`` says, is rejected, and the wait stays open. Without an open wait it is late if the last wait for it
        got no answer or its run has ended, and else kept for ``KEPT_FOR``.
        """
        now = clock.utcnow()
        signal_id = uuid4().hex
        async with self._db.transaction() as connection:
            inserted = await connection.execute(
                self._insert(signals)
                .values(
                    id=signal_id,
                    source=source,
                    delivery_id=delivery_id,
                    topic=topic,
                    correlation=correlation,
                    payload=payload,
                    disposition=Disposition.BUFFERED,
                    received_at=now,
                    expires_at=now + KEPT_FOR,
                )
                .on_conflict_do_nothing(index_elements=["source", "delivery_id"])
            )
            if not inserted.rowcount:
                first = (
                    await connection.execute(
                        select(signals).where(signals.c.source == source, signals.c.delivery_id == delivery_id)
                    )
                ).one()
                became = Disposition(first.disposition)
                why = (("payload", first.note or "it did not fit"),) if became is Disposition.REJECTED else ()
                begun = await started_by(connection, first.id)
                run_id = begun.run_id if begun is not None else None
                return Delivery(
                    Disposition.DUPLICATE, first.id, first.wait_id, run_id, first=became, problems=why, start=begun
                )
            await lock_topics(connection, self._db, [(topic, correlation)])
            found = await _to_open_wait(connection, signal_id, source, topic, correlation, payload, misfit)
            if found is not None:
                return found
            living = await alive(connection, topic, correlation) if correlation is not None else None
            if start is not None and living is None and not await _has_waited(connection, topic, correlation):
                assert correlation is not None
                begun = await begin(connection, signal_id, topic, correlation, start)
                if not start.takes_payload:
                    return Delivery(Disposition.BUFFERED, signal_id, start=begun)
                await _set(connection, signal_id, Disposition.DELIVERED, None, f"start {begun.id}")
                return Delivery(Disposition.DELIVERED, signal_id, start=begun)
            if living is not None:
                return Delivery(Disposition.BUFFERED, signal_id, run_id=living.run_id)
            if (note := await _late(connection, topic, correlation)) is not None:
                await _set(connection, signal_id, Disposition.LATE, None, note)
                return Delivery(Disposition.LATE, signal_id)
            return Delivery(Disposition.BUFFERED, signal_id)

    async def redrive(self, signal_id: str, misfit: Misfit | None = None) -> Delivery | None:
        """Send a signal that reached nobody on its way again: to an open wait, or kept for one anew.

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
            made = await _to_open_wait(
                connection, signal_id, signal.source, signal.topic, signal.correlation, signal.payload, misfit
            )
            if made is not None:
                return made
            await connection.execute(
                update(signals)
                .where(signals.c.id == signal_id)
                .values(disposition=Disposition.BUFFERED, wait_id=None, note="sent again", expires_at=now + KEPT_FOR)
            )
            return Delivery(Disposition.BUFFERED, signal_id)

    async def expire(self) -> int:
        """Signals whose time is over without a wait become unmatched. Returns how many."""
        return await self._db.write(
            update(signals)
            .where(signals.c.disposition == Disposition.BUFFERED, signals.c.expires_at <= clock.utcnow())
            .values(disposition=Disposition.UNMATCHED)
        )

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


async def lock_topics(connection: AsyncConnection, database: Database, topics: list[tuple[str, str | None]]) -> None:
    """Let a signal and a wait for the same topic and key see each other: the second to come waits for the first.

    Taken before any row is locked, in one order. SQLite has one writer at a time and needs no lock.
    """
    if database.sqlite:
        return
    for name in sorted({f"{topic}\x1f{correlation or ''}" for topic, correlation in topics}):
        await connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))


async def take_buffered(
    connection: AsyncConnection, topic: str, correlation: str | None, wait_id: str
) -> Row[Any] | None:
    """The oldest kept signal for a wait that opens, now delivered to it."""
    signal = (
        await connection.execute(
            select(signals)
            .where(
                signals.c.topic == topic,
                _same(signals.c.correlation, correlation),
                signals.c.disposition == Disposition.BUFFERED,
            )
            .order_by(signals.c.received_at, signals.c.id)
            .limit(1)
            .with_for_update()
        )
    ).first()
    if signal is not None:
        await _set(connection, signal.id, Disposition.DELIVERED, wait_id)
    return signal


async def mark_signal(connection: AsyncConnection, wait_id: str, disposition: Disposition, note: str) -> None:
    """Change what became of the signal that a wait had taken."""
    await connection.execute(
        update(signals)
        .where(signals.c.wait_id == wait_id, signals.c.disposition == Disposition.DELIVERED)
        .values(disposition=disposition, note=note)
    )


async def _to_open_wait(
    connection: AsyncConnection,
    signal_id: str,
    source: str,
    topic: str,
    correlation: str | None,
    payload: str,
    misfit: Misfit | None,
) -> Delivery | None:
    """Settle the oldest open wait for the topic and key with the signal; None when there is none."""
    # Another signal may take the same wait while this one waits for the lock on its run: look again then.
    while (wait := await _oldest_open(connection, topic, correlation)) is not None:
        run = await locked_run(connection, wait.run_id)
        wait = (await connection.execute(select(waits).where(waits.c.id == wait.id))).one()
        if run is None or wait.state != WaitState.OPEN or RunState(run.state) in ENDED:
            continue
        if misfit is not None and (problems := misfit(wait, payload)):
            made = Delivery(Disposition.REJECTED, signal_id, wait.id, wait.run_id, problems=tuple(problems))
            await _set(connection, signal_id, Disposition.REJECTED, wait.id, made.said)
            return made
        settled = await settle_in(
            connection,
            run,
            wait,
            outcome=Outcome.ANSWERED,
            answer=payload,
            door=Door.SIGNAL,
            actor=source,
            note=f"signal {signal_id}",
        )
        await _set(connection, signal_id, Disposition.DELIVERED, wait.id)
        return Delivery(Disposition.DELIVERED, signal_id, wait.id, wait.run_id, settled.wake, settled.wake_address)
    return None


async def _oldest_open(connection: AsyncConnection, topic: str, correlation: str | None) -> Row[Any] | None:
    return (
        await connection.execute(
            select(waits)
            .join(runs, runs.c.id == waits.c.run_id)
            .where(
                waits.c.topic == topic,
                _same(waits.c.correlation, correlation),
                waits.c.kind.in_(BY_SIGNAL),
                waits.c.state == WaitState.OPEN,
                runs.c.state.not_in(ENDED),
            )
            .order_by(waits.c.opened_at, waits.c.id)
            .limit(1)
        )
    ).first()


async def _has_waited(connection: AsyncConnection, topic: str, correlation: str | None) -> bool:
    """Whether a run that has not ended has a wait for the topic and key, whatever became of it."""
    found = await connection.execute(
        select(waits.c.id)
        .join(runs, runs.c.id == waits.c.run_id)
        .where(waits.c.topic == topic, _same(waits.c.correlation, correlation), runs.c.state.not_in(ENDED))
        .limit(1)
    )
    return found.first() is not None


async def _late(connection: AsyncConnection, topic: str, correlation: str | None) -> str | None:
    """Why a signal without an open wait comes too late; None when it may be early."""
    last = (
        await connection.execute(
            select(waits.c.id, waits.c.state, waits.c.outcome, runs.c.state.label("run_state"))
            .join(runs, runs.c.id == waits.c.run_id)
            .where(waits.c.topic == topic, _same(waits.c.correlation, correlation))
            .order_by(waits.c.opened_at.desc(), waits.c.id.desc())
            .limit(1)
        )
    ).first()
    if last is None:
        return None
    if RunState(last.run_state) in ENDED:
        return f"the run of wait {last.id} has ended"
    if last.state == WaitState.CLOSED or last.outcome != Outcome.ANSWERED:
        return f"wait {last.id} was settled or closed without it"
    return None


async def _set(
    connection: AsyncConnection,
    signal_id: str,
    disposition: Disposition,
    wait_id: str | None,
    note: str | None = None,
) -> None:
    await connection.execute(
        update(signals).where(signals.c.id == signal_id).values(disposition=disposition, wait_id=wait_id, note=note)
    )


def _same(column: Any, value: str | None) -> Any:
    return column.is_(None) if value is None else column == value
