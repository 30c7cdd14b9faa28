"""Statements on tasks: runs as other agents see them, from the moment one is to be started.

A task's id is that of its start, or of its run where no signal has started it; it is found by either.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Row, Text, and_, case, cast, func, literal, or_, select, union_all

from standby.ledger.database import Database
from standby.ledger.tables import Decision, Run, Signal, Start, Wait, table_of
from standby.states import ENDED, WaitKind, WaitState

runs = table_of(Run)
starts = table_of(Start)
waits = table_of(Wait)
signals = table_of(Signal)
decisions = table_of(Decision)

SUBMITTED, WORKING = "submitted", "working"
"""How the mark begins of a task that has not come to the ledger as a run, and of one that has not ended."""


class Found(NamedTuple):
    """A task. ``start`` and ``run`` are rows, one of them may be None; ``source`` is the start's signal's.

    ``waits`` are those of the run, ``decisions`` what was decided on them, in order.
    """

    start: Row[Any] | None
    source: str | None
    run: Row[Any] | None
    waits: list[Row[Any]]
    decisions: list[Row[Any]]

    @property
    def id(self) -> str:
        row = self.start if self.start is not None else self.run
        assert row is not None
        return str(row.id)

    @property
    def run_id(self) -> str | None:
        if self.run is not None:
            return str(self.run.id)
        return self.start.run_id if self.start is not None else None


class Listed(NamedTuple):
    id: str
    at: datetime


def mark() -> ColumnElement[str]:
    """Where a task is, as text that changes whenever its client has something new to see: for a statement on starts
    and runs, either of which may be missing."""
    asked = func.coalesce(func.sum(waits.c.opening + waits.c.chased), 0)
    # Not in the condition: SQLite would go through all that are open, for each run.
    unanswered = func.count(case((waits.c.state == WaitState.OPEN, 1)))
    questions = (
        select(cast(asked, Text) + "/" + cast(unanswered, Text))
        .where(waits.c.run_id == runs.c.id, waits.c.kind == WaitKind.APPROVAL)
        .scalar_subquery()
    )
    state = case(
        (runs.c.state.in_(ENDED), runs.c.state),
        (runs.c.id.is_not(None), literal(WORKING)),
        else_=func.coalesce(starts.c.ended_as, literal(SUBMITTED)),
    )
    return state + "/" + questions


def over(mark: str) -> bool:
    """Whether a task with this mark has ended."""
    return mark.partition("/")[0] in ENDED


class Tasks:
    def __init__(self, database: Database) -> None:
        self._db = database

    async def find(self, task_id: str) -> Found | None:
        started = await self._db.read(
            select(starts, signals.c.source)
            .outerjoin(signals, signals.c.id == starts.c.signal_id)
            .where(or_(starts.c.id == task_id, starts.c.run_id == task_id))
        )
        start = started[0] if started else None
        run_id = task_id if start is None else start.run_id
        found = await self._db.read(select(runs).where(runs.c.id == run_id)) if run_id is not None else []
        if start is None and not found:
            return None
        source = start.source if start is not None else None
        if not found:
            return Found(start, source, None, [], [])
        order = (waits.c.opened_at, waits.c.member)
        asked = await self._db.read(select(waits).where(waits.c.run_id == run_id).order_by(*order))
        made = await self._db.read(
            select(decisions).where(decisions.c.run_id == run_id).order_by(decisions.c.decided_at, decisions.c.id)
        )
        return Found(start, source, found[0], asked, made)

    async def marks(self, task_ids: Sequence[str]) -> dict[str, str]:
        """The mark of each of these tasks (ids as ``Found.id``) that there is."""
        wanted = list(set(task_ids))
        started = (
            select(starts.c.id, mark()).outerjoin(runs, runs.c.id == starts.c.run_id).where(starts.c.id.in_(wanted))
        )
        alone = (
            select(runs.c.id, mark())
            .outerjoin(starts, starts.c.run_id == runs.c.id)
            .where(runs.c.id.in_(wanted), starts.c.id.is_(None))
        )
        return {row[0]: row[1] for query in (started, alone) for row in await self._db.read(query)}

    async def page(
        self,
        limit: int,
        *,
        after: Listed | None = None,
        sources: Sequence[str] | None = None,
        context_id: str | None = None,
    ) -> list[Listed]:
        """Tasks, the newest first, from behind ``after`` on; of these sources, of this context."""
        tasks = _all(sources, context_id).subquery()
        statement = select(tasks.c.id, tasks.c.at).order_by(tasks.c.at.desc(), tasks.c.id).limit(limit)
        if after is not None:
            statement = statement.where(or_(tasks.c.at < after.at, and_(tasks.c.at == after.at, tasks.c.id > after.id)))
        return [Listed(*row) for row in await self._db.read(statement)]

    async def count(self, *, sources: Sequence[str] | None = None, context_id: str | None = None) -> int:
        return int((await self._db.read(select(func.count()).select_from(_all(sources, context_id).subquery())))[0][0])


def _all(sources: Sequence[str] | None, context_id: str | None) -> Any:
    started = select(starts.c.id, starts.c.created_at.label("at"))
    if sources is not None:
        started = started.join(signals, signals.c.id == starts.c.signal_id).where(signals.c.source.in_(sources))
    if context_id is not None:
        started = started.where(or_(starts.c.context_id == context_id, starts.c.id == context_id))
    if sources is not None:
        return started  # what nobody started by a signal is nobody's own
    alone = (
        select(runs.c.id, runs.c.started_at.label("at"))
        .outerjoin(starts, starts.c.run_id == runs.c.id)
        .where(starts.c.id.is_(None))
    )
    if context_id is not None:
        alone = alone.where(runs.c.id == context_id)
    return union_all(started, alone)
