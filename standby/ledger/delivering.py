"""What a signal is for: the open wait it settles, the run that lives for its key, or nobody any more.

Inside a transaction that has written the signal and holds the lock on its topic and key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import ARRAY, Row, Select, Text, and_, bindparam, case, column, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from standby.errors import StartRefused
from standby.ledger.database import Database
from standby.ledger.locks import locked_run
from standby.ledger.settling import settle_in
from standby.ledger.starts import NewStart, alive, begin
from standby.ledger.tables import Run, Signal, Wait, table_of
from standby.states import BY_SIGNAL, ENDED, Disposition, Door, Outcome, RunState, WaitState

runs = table_of(Run)
waits = table_of(Wait)
signals = table_of(Signal)

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


_names = func.unnest(bindparam("names", type_=ARRAY(Text))).alias("name")
_key = func.hashtextextended(column("name"), 0)
_lock = select(func.pg_advisory_xact_lock(_key)).select_from(_names)
_patience = func.set_config("lock_timeout", bindparam("within", type_=Text), True)
_lock_within = select(_patience, func.pg_advisory_xact_lock(_key)).select_from(_names)


async def lock_topics(
    connection: AsyncConnection,
    database: Database,
    topics: Iterable[tuple[str, str | None]],
    *,
    within: str | None = None,
) -> None:
    """Let a signal and a wait for the same topic and key see each other: the second to come waits for the first.

    Taken before any row is locked, in one order. SQLite has one writer at a time and needs no lock.
    ``within``: how long it is waited for, such as ``500ms``, and each later lock up to ``wait_for_locks``.
    """
    names = sorted(set(map(lock_name, topics)))
    if names and not database.sqlite:
        if within is None:
            await connection.execute(_lock, {"names": names})
        else:
            await connection.execute(_lock_within, {"names": names, "within": within})


async def wait_for_locks(connection: AsyncConnection, database: Database) -> None:
    """As long as for any statement, from here to the end of the transaction."""
    if not database.sqlite:
        await connection.exec_driver_sql("SET LOCAL lock_timeout TO DEFAULT")


def lock_name(topic: tuple[str, str | None]) -> str:
    return f"{topic[0]}\x1f{topic[1] or ''}"


@cache
def _kept(*, keyed: bool, again: bool) -> Select[Any]:
    """The oldest signal for a topic, and a key if it is ``keyed``; ``again``: for a wait that opens anew."""
    takes = signals.c.disposition == Disposition.BUFFERED
    if again:
        late = signals.c.disposition == Disposition.LATE
        takes = or_(takes, and_(late, signals.c.received_at >= bindparam("since", type_=signals.c.received_at.type)))
    correlation = signals.c.correlation
    return (
        select(signals)
        .where(signals.c.topic == bindparam("topic"), takes)
        .where(correlation == bindparam("correlation") if keyed else correlation.is_(None))
        .order_by(signals.c.received_at, signals.c.id)
        .limit(1)
        .with_for_update()
    )


async def take_kept(connection: AsyncConnection, wait: Row[Any]) -> Row[Any] | None:
    """The oldest signal for a wait that opens, now delivered to it: of those that were kept, and if the wait opens anew
    also of those that came late since it first opened, for the wait was closed then."""
    statement = _kept(keyed=wait.correlation is not None, again=wait.opening > 1)
    named = {"topic": wait.topic, "correlation": wait.correlation, "since": wait.opened_at}
    signal = (await connection.execute(statement, named)).first()
    if signal is not None:
        note = "it was late until the wait was opened anew" if signal.disposition == Disposition.LATE else None
        await set_disposition(connection, signal.id, Disposition.DELIVERED, wait.id, note)
    return signal


async def mark_signal(connection: AsyncConnection, wait_id: str, disposition: Disposition, note: str) -> None:
    """Change what became of the signal that a wait had taken."""
    await connection.execute(
        update(signals)
        .where(signals.c.wait_id == wait_id, signals.c.disposition == Disposition.DELIVERED)
        .values(disposition=disposition, note=note)
    )


async def to_open_wait(
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
            await set_disposition(connection, signal_id, Disposition.REJECTED, wait.id, made.said)
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
        await set_disposition(connection, signal_id, Disposition.DELIVERED, wait.id)
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


async def keep(
    connection: AsyncConnection, signal_id: str, topic: str, correlation: str | None, start: NewStart | None
) -> Delivery:
    """What becomes of a signal, written as kept, that no wait is open for: it stays so, starts a run, or is late.

    Raises ``StartRefused`` if it has to start one that cannot be made.
    """
    living = await alive(connection, topic, correlation) if correlation is not None else None
    run_id = living.run_id if living is not None else None
    if start is not None:
        if living is not None or await has_waited(connection, topic, correlation):
            return Delivery(Disposition.BUFFERED, signal_id, run_id=run_id)  # for whoever has the key: never late
        if start.problems:
            raise StartRefused(start.deployment, list(start.problems))
        assert correlation is not None
        begun = await begin(connection, signal_id, topic, correlation, start)
        if not start.takes_payload:
            return Delivery(Disposition.BUFFERED, signal_id, start=begun)
        await set_disposition(connection, signal_id, Disposition.DELIVERED, None, f"start {begun.id}")
        return Delivery(Disposition.DELIVERED, signal_id, start=begun)
    yet_to_wait = living is not None and (
        run_id is None or not await has_waited(connection, topic, correlation, run_id)
    )
    if not yet_to_wait and (note := await late(connection, topic, correlation)) is not None:
        await set_disposition(connection, signal_id, Disposition.LATE, None, note)
        return Delivery(Disposition.LATE, signal_id)
    return Delivery(Disposition.BUFFERED, signal_id, run_id=run_id)


async def has_waited(
    connection: AsyncConnection, topic: str, correlation: str | None, run_id: str | None = None
) -> bool:
    """Whether a run that has not ended, or this one, has a wait for the topic and key, whatever became of it."""
    whose = runs.c.state.not_in(ENDED) if run_id is None else runs.c.id == run_id
    found = await connection.execute(
        select(waits.c.id)
        .join(runs, runs.c.id == waits.c.run_id)
        .where(waits.c.topic == topic, _same(waits.c.correlation, correlation), whose)
        .limit(1)
    )
    return found.first() is not None


async def late(connection: AsyncConnection, topic: str, correlation: str | None) -> str | None:
    """Why a signal without an open wait comes too late; None when it may be early.

    It may be while there is a run that lives and whose last wait for it was answered, for that may wait again; and of
    course where nobody has waited for it at all.
    """
    asked = (waits.c.topic == topic, _same(waits.c.correlation, correlation))
    nth_last = func.rank().over(partition_by=waits.c.run_id, order_by=waits.c.opened_at.desc())
    of_living = (
        select(waits.c.id, waits.c.outcome, waits.c.opened_at, nth_last.label("nth_last"))
        .join(runs, runs.c.id == waits.c.run_id)
        .where(*asked, runs.c.state.not_in(ENDED))
        .subquery()
    )
    last = (
        await connection.execute(
            select(of_living.c.id, of_living.c.outcome)
            .where(of_living.c.nth_last == 1)
            .order_by(case((of_living.c.outcome == Outcome.ANSWERED, 0), else_=1), of_living.c.opened_at.desc())
            .limit(1)
        )
    ).first()
    if last is not None:
        answered = last.outcome == Outcome.ANSWERED
        return None if answered else f"wait {last.id} was settled or closed without it"
    ended = select(waits.c.id).where(*asked).order_by(waits.c.opened_at.desc(), waits.c.id.desc()).limit(1)
    wait_id = (await connection.execute(ended)).scalar()
    return f"the run of wait {wait_id} has ended" if wait_id is not None else None


async def set_disposition(
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
