"""Statements on waits for Prefect's events: which are open, and giving an event to one of them.

An event counts once for each run: its delivery id is the event's id and the run's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

from sqlalchemy import Row, select
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from standby import clock
from standby.ledger.database import Database
from standby.ledger.locks import locked_run
from standby.ledger.settling import Settled, settle_in
from standby.ledger.tables import Run, Signal, Wait, table_of
from standby.states import ENDED, Disposition, Door, Outcome, RunState, WaitKind, WaitState

runs = table_of(Run)
waits = table_of(Wait)
signals = table_of(Signal)

SOURCE = "prefect-events"

_PREFIX = "event:"


def topic_of(event: str) -> str:
    """The topic of a wait for events of this name: no signal has it by chance."""
    return _PREFIX + event


def name_of(wait: Row[Any]) -> str:
    """The name of the events that a wait is for; their resource is its correlation."""
    return str(wait.topic.removeprefix(_PREFIX))


class Events:
    def __init__(self, database: Database) -> None:
        self._db = database
        self._insert = sqlite_insert if database.sqlite else postgres_insert

    async def awaited(self, event: str | None = None, resource: str | None = None) -> list[Row[Any]]:
        """Open waits for an event, oldest first, with ``run_started_at``; of all events, or of one."""
        query = (
            select(waits, runs.c.started_at.label("run_started_at"))
            .join(runs, runs.c.id == waits.c.run_id)
            .where(waits.c.kind == WaitKind.EVENT, waits.c.state == WaitState.OPEN, runs.c.state.not_in(ENDED))
            .order_by(waits.c.opened_at, waits.c.id)
        )
        if event is not None:
            query = query.where(waits.c.topic == topic_of(event), waits.c.correlation == resource)
        return await self._db.read(query)

    async def deliver(
        self, wait: Row[Any], *, event_id: str, payload: str, misfit: Callable[[Row[Any], str], list[tuple[str, str]]]
    ) -> Settled | None:
        """Settle the wait with an event, unless it is settled, or the run has used the event before.

        ``payload`` is JSON text. One that does not fit is kept as rejected, and the wait stays open.
        """
        async with self._db.transaction() as connection:
            run = await locked_run(connection, wait.run_id)
            wait = (await connection.execute(select(waits).where(waits.c.id == wait.id))).one()
            if run is None or RunState(run.state) in ENDED or wait.state != WaitState.OPEN:
                return None
            problems = misfit(wait, payload)
            signal_id = uuid4().hex
            inserted = await connection.execute(
                self._insert(signals)
                .values(
                    id=signal_id,
                    source=SOURCE,
                    delivery_id=f"{event_id}/{wait.run_id}",
                    topic=wait.topic,
                    correlation=wait.correlation,
                    payload=payload,
                    disposition=Disposition.REJECTED if problems else Disposition.DELIVERED,
                    wait_id=wait.id,
                    note="; ".join(f"{field}: {reason}" for field, reason in problems) or None,
                    received_at=clock.utcnow(),
                )
                .on_conflict_do_nothing(index_elements=["source", "delivery_id"])
            )
            if not inserted.rowcount or problems:
                return None
            return await settle_in(
                connection,
                run,
                wait,
                outcome=Outcome.ANSWERED,
                answer=payload,
                door=Door.SIGNAL,
                actor=SOURCE,
                note=f"event {event_id}, signal {signal_id}",
            )
