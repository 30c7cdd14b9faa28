"""Giving many waits their answers in one transaction, by the same few statements.

For answers that need no counting; a policy's decisions are counted one by one. What somebody else has locked just then
is passed over: a transaction that works for many must not wait for one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import uuid4

from sqlalchemy import ColumnElement, Row, Select, Update, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from standby import clock
from standby.ledger.database import Database, among, listed, unindexed
from standby.ledger.notifications import told
from standby.ledger.prepared import given, unnested
from standby.ledger.tables import Decision, Run, Signal, Wait, table_of
from standby.ledger.text import digest_of
from standby.states import ENDED, Disposition, Door, Need, Outcome, RunState, Verdict, WaitState

runs = table_of(Run)
waits = table_of(Wait)
decisions = table_of(Decision)
signals = table_of(Signal)


class Answer(NamedTuple):
    """The answer (JSON text) of a wait, as ``SettlingMany.locked`` has found it: open."""

    wait: Row[Any]
    outcome: Outcome
    answer: str | None
    door: Door
    actor: str | None = None
    note: str | None = None
    signal_id: str | None = None
    """The signal that it came by, which is delivered."""


def with_run(which: ColumnElement[bool]) -> Select[Any]:
    """These waits, with ``run_state`` and ``run_wake_address``, that nobody else has locked; both rows are locked."""
    return (
        select(waits, runs.c.state.label("run_state"), runs.c.wake_address.label("run_wake_address"))
        .join(runs, runs.c.id == waits.c.run_id)
        .where(which)
        .with_for_update(of=[runs, waits], skip_locked=True)
    )


_DECIDED = ("id", "wait_id", "run_id", "door", "actor", "opening", "verdict", "answer", "note", "evidence_digest")


class _Statements:
    def __init__(self, database: Database) -> None:
        self.with_run = with_run(among(waits.c.id, "waits", database))
        self.settle = database.prepared(
            update(waits)
            .where(waits.c.id == bindparam("wait"))
            .values(state=WaitState.SETTLED, refused=None, **given(waits, "outcome", "answer", "settled_at"))
        )
        self.decide = database.prepared(decisions.insert().values(given(decisions, *_DECIDED, "decided_at")))
        self.deliver = database.prepared(
            update(signals)
            .where(signals.c.id == bindparam("signal"))
            .values(disposition=Disposition.DELIVERED, **given(signals, "wait_id"))
        )
        self.close = database.prepared(
            update(waits)
            .where(
                waits.c.run_id == bindparam("run"),
                waits.c.group_key == bindparam("group"),
                unindexed(waits.c.state) == WaitState.OPEN,
            )
            .values(state=WaitState.CLOSED, **given(waits, "settled_at"))
        )
        ready = update(runs).where(among(runs.c.id, "runs", database))
        ready = ready.values(state=RunState.READY, ready_at=bindparam("now", type_=runs.c.ready_at.type))
        self.ready = told(ready, database)
        self.at_once = None if database.sqlite else database.prepared(_at_once(ready, database))
        settled, other = waits.alias(), waits.alias()
        one_is_open = select(other.c.id).where(
            other.c.run_id == settled.c.run_id,
            other.c.group_key == settled.c.group_key,
            unindexed(other.c.state) == WaitState.OPEN,
        )
        complete = select(settled.c.id).where(
            among(settled.c.id, "settled", database), settled.c.run_id == runs.c.id, ~one_is_open.exists()
        )
        self.ready_as_group = told(ready.where(complete.exists()), database)
        self.are_ready = select(runs.c.id).where(
            among(runs.c.id, "runs", database), unindexed(runs.c.state) == RunState.READY
        )


def _at_once(ready: Update, database: Database) -> Any:
    """``settle``, ``decide``, ``deliver`` and ``ready`` as one statement, for PostgreSQL: one trip, and not four."""
    types = {name: decisions.c[name].type for name in _DECIDED}
    one = unnested("one", **types, outcome=waits.c.outcome.type, signal_id=signals.c.id.type).select().cte("one")
    now = bindparam("now", type_=waits.c.settled_at.type)
    settled = (
        update(waits)
        .where(waits.c.id == one.c.wait_id)
        .values(state=WaitState.SETTLED, refused=None, outcome=one.c.outcome, answer=one.c.answer, settled_at=now)
    )
    decided = decisions.insert().from_select(
        [*_DECIDED, "decided_at"], select(*(one.c[name] for name in _DECIDED), now), include_defaults=False
    )
    delivered = (
        update(signals)
        .where(signals.c.id == one.c.signal_id)
        .values(disposition=Disposition.DELIVERED, wait_id=one.c.wait_id)
    )
    parts = (settled.cte("settled"), decided.cte("decided"), delivered.cte("delivered"))
    return told(ready, database).add_cte(*parts)


class SettlingMany:
    def __init__(self, database: Database) -> None:
        self._db = database
        self._sql = database.made(_Statements)

    async def locked(self, connection: AsyncConnection, wait_ids: Iterable[str]) -> dict[str, Row[Any]]:
        """These waits by id, with ``run_state`` and ``run_wake_address``; both rows are locked."""
        found = await connection.execute(self._sql.with_run, {"waits": listed(wait_ids, self._db)})
        return {row.id: row for row in found}

    async def settle(self, connection: AsyncConnection, answers: Sequence[Answer]) -> set[str]:
        """Settle each: all are open and locked, and none of a group where one is enough is with another of it.

        The runs that are READY by it, and have to be woken.
        """
        if not answers:
            return set()
        now = clock.utcnow()
        ready = {one.wait.run_id for one in answers if _is_parked(one.wait) and one.wait.need == Need.ONE}
        if self._sql.at_once is not None:
            await self._sql.at_once.many(connection, [_values(answers, ready, now)])
        else:
            await self._one_by_one(connection, answers, ready, now)
        settled = [one.wait for one in answers]
        await self._sql.close.many(
            connection,
            [
                {"run": wait.run_id, "group": wait.group_key, "settled_at": now}
                for wait in settled
                if wait.need == Need.ANY
            ],
        )
        if groups := [wait for wait in settled if _is_parked(wait) and wait.need != Need.ONE]:
            named = listed({wait.run_id for wait in groups}, self._db)
            ids = listed([wait.id for wait in groups], self._db)
            await connection.execute(self._sql.ready_as_group, {"runs": named, "settled": ids, "now": now})
            ready |= set((await connection.execute(self._sql.are_ready, {"runs": named})).scalars())
        return ready

    async def _one_by_one(
        self, connection: AsyncConnection, answers: Sequence[Answer], ready: set[str], now: datetime
    ) -> None:
        sql = self._sql
        await sql.settle.many(
            connection,
            [{"wait": one.wait.id, "outcome": one.outcome, "answer": one.answer, "settled_at": now} for one in answers],
        )
        await sql.decide.many(connection, [_decision(one) | {"decided_at": now} for one in answers])
        await sql.deliver.many(
            connection,
            [{"signal": one.signal_id, "wait_id": one.wait.id} for one in answers if one.signal_id is not None],
        )
        if ready:
            await connection.execute(sql.ready, {"runs": listed(ready, self._db), "now": now})


def _values(answers: Sequence[Answer], ready: set[str], now: datetime) -> dict[str, Any]:
    """The parameters of ``_at_once``."""
    rows = [_decision(one) | {"outcome": one.outcome, "signal_id": one.signal_id} for one in answers]
    return {f"{name}s": [row[name] for row in rows] for name in rows[0]} | {"runs": list(ready), "now": now}


def _decision(one: Answer) -> dict[str, Any]:
    return {
        "id": uuid4().hex, "wait_id": one.wait.id, "run_id": one.wait.run_id, "door": one.door, "actor": one.actor,
        "opening": one.wait.opening, "verdict": Verdict.WON, "answer": one.answer, "note": one.note,
        "evidence_digest": digest_of(one.wait.evidence) if one.wait.evidence is not None else None,
    }  # fmt: skip


def _is_parked(wait: Row[Any]) -> bool:
    return bool(wait.run_state == RunState.PARKED)


def is_open(wait: Row[Any]) -> bool:
    """Not asked for in SQL: SQLite would go through all that are open."""
    return wait.state == WaitState.OPEN and RunState(wait.run_state) not in ENDED
