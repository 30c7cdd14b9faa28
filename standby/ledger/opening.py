"""A group of waits opens, for the first time or once more: inside a transaction that locks its topics and its run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import uuid4

from sqlalchemy import Row, bindparam, case, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from standby import clock
from standby.ledger.checkpoints import intend_wait
from standby.ledger.children import try_again
from standby.ledger.database import Database, unindexed
from standby.ledger.delivering import lock_topics, take_kept
from standby.ledger.locks import run_of_attempt
from standby.ledger.notices import notify
from standby.ledger.polls import first_poll
from standby.ledger.settling import settle_in
from standby.ledger.tables import Wait, table_of
from standby.ledger.votes import count_anew, next_chase
from standby.states import BY_SIGNAL, Door, Need, NoticeKind, Outcome, WaitKind, WaitState

waits = table_of(Wait)

GROUP = (
    select(waits)
    .where(waits.c.run_id == bindparam("run"), waits.c.group_key == bindparam("group"))
    .order_by(waits.c.member)
)
"""The waits of one group."""

_ONE = select(waits).where(waits.c.id == bindparam("wait"))
_NEW = waits.insert().returning(waits)


@dataclass(frozen=True, slots=True)
class WaitRow:
    """What a wait is when it opens. JSON is text; ``deadline`` is aware."""

    key: str
    kind: WaitKind
    reason: str
    party: str | None = None
    topic: str | None = None
    correlation: str | None = None
    evidence: str | None = None
    answer_type: str | None = None
    answer_schema: str | None = None
    has_default: bool = False
    default_answer: str | None = None
    deadline: datetime | None = None
    policy: str | None = None
    poll: str | None = None
    child: str | None = None
    hold: str | None = None
    fresh: str | None = None


class Group(NamedTuple):
    """The waits that one ``wait_for``, ``wait_any`` or ``wait_all`` opened, in their order."""

    ready: bool
    waits: list[Row[Any]]


def group_of(rows: list[Row[Any]]) -> Group:
    """Of all of the group's rows. One settled wait closes the rest where one is enough."""
    return Group(all(row.state != WaitState.OPEN for row in rows), rows)


def is_answered(rows: list[Row[Any]], need: Need) -> bool:
    """Whether nothing of the group is to be opened again: none is open, nor closed by the end of a run without an
    answer where one is needed."""
    states = {row.state for row in rows}
    if need is Need.ANY:
        return WaitState.SETTLED in states and WaitState.OPEN not in states
    return states == {WaitState.SETTLED}


async def open_group(
    connection: AsyncConnection,
    database: Database,
    run_id: str,
    attempt: int,
    key: str,
    position: int | None,
    need: Need,
    rows: list[WaitRow],
) -> Group | None:
    """``Waits.open``, in a transaction."""
    await lock_topics(connection, database, topics_of(rows))
    run = await run_of_attempt(connection, run_id, attempt)
    if run is None:
        return None
    found = await group_in(connection, run_id, key)
    if not found:
        found = await _insert(connection, run, key, need, rows)
        await intend_wait(connection, run_id, attempt, key, position)
        await notify(connection, found, NoticeKind.OPENED)
    else:
        if need is Need.ALL or not any(wait.state == WaitState.SETTLED for wait in found):
            # The run ended (failed, cancelled) with these waits open and is being retried.
            await reopen(connection, run_id, key)
            found = await group_in(connection, run_id, key)
        earlier = {wait.id: wait.policy for wait in found}
        gone = [wait.id for wait in found if wait.key not in {row.key for row in rows}]
        if await ask_in_todays_form(connection, found, rows) | await close_in(connection, gone):
            found = await group_in(connection, run_id, key)
            for wait in found:
                if wait.state == WaitState.OPEN and wait.policy != earlier[wait.id]:
                    await count_anew(connection, run, wait)
            found = await group_in(connection, run_id, key)
    return group_of(await take_kept_for(connection, run, found))


async def _insert(
    connection: AsyncConnection, run: Row[Any], key: str, need: Need, rows: list[WaitRow]
) -> list[Row[Any]]:
    now = clock.utcnow()
    new = [
        {
            "id": uuid4().hex,
            "run_id": run.id,
            "agent": run.flow,
            "group_key": key,
            "member": member,
            "need": need,
            "state": WaitState.OPEN,
            "opened_at": now,
            "chase_at": next_chase(row.policy, now, 0),
            "poll_at": first_poll(row.poll, now),
            **{name: getattr(row, name) for name in WaitRow.__slots__},
        }
        for member, row in enumerate(rows)
    ]
    made = await connection.execute(_NEW, new if len(new) > 1 else new[0])
    return sorted(made.all(), key=lambda wait: wait.member)


def topics_of(waiting: Iterable[WaitRow | Row[Any]]) -> list[tuple[str, str | None]]:
    return [(wait.topic, wait.correlation) for wait in waiting if wait.topic is not None]


async def wait_in(connection: AsyncConnection, wait_id: str) -> Row[Any]:
    return (await connection.execute(_ONE, {"wait": wait_id})).one()


async def group_in(connection: AsyncConnection, run_id: str, key: str) -> list[Row[Any]]:
    return list((await connection.execute(GROUP, {"run": run_id, "group": key})).all())


async def close_in(connection: AsyncConnection, ids: list[str]) -> bool:
    """Close what of these is open. Whether there was anything to look at."""
    if ids:
        await connection.execute(
            update(waits)
            .where(waits.c.id.in_(ids), unindexed(waits.c.state) == WaitState.OPEN)
            .values(state=WaitState.CLOSED, settled_at=clock.utcnow())
        )
    return bool(ids)


_FORM = ("answer_type", "answer_schema", "has_default", "default_answer", "policy", "poll", "hold")


async def ask_in_todays_form(connection: AsyncConnection, found: list[Row[Any]], rows: list[WaitRow]) -> bool:
    """The code may have another form than when the waits were opened: an answer must fit the one it has now.

    ``found``: the waits as they are under the lock on their run. Returns whether one of them is another now.
    """
    asked = {row.key: row for row in rows}
    changed = False
    for wait in found:
        row = asked.get(wait.key)
        if row is None or wait.state != WaitState.OPEN:
            continue
        todays = {name: getattr(row, name) for name in _FORM if getattr(row, name) != getattr(wait, name)}
        if row.deadline is not None and wait.deadline is None and wait.opening > 1:
            todays["deadline"] = row.deadline  # it has timed out, and is open again for a retry
        if todays:
            await connection.execute(update(waits).where(waits.c.id == wait.id).values(**todays))
            changed = True
    return changed


async def take_kept_for(connection: AsyncConnection, run: Row[Any], found: list[Row[Any]]) -> list[Row[Any]]:
    """Settle the waits of a group that has just opened, as ``found``, with the oldest signals there are for them.
    Returns the group as it is then."""
    taken = False
    for wait in found:
        if wait.kind not in BY_SIGNAL or wait.state != WaitState.OPEN:
            continue
        signal = await take_kept(connection, wait)
        if signal is None:
            continue
        await settle_in(
            connection,
            run,
            wait,
            outcome=Outcome.ANSWERED,
            answer=signal.payload,
            door=Door.SIGNAL,
            actor=signal.source,
            note=f"signal {signal.id}, kept since {signal.received_at.isoformat()}",
        )
        taken = True
        if wait.need == Need.ANY:
            break  # the others are closed now
    return await group_in(connection, run.id, found[0].group_key) if taken else found


async def reopen(
    connection: AsyncConnection, run_id: str, key: str, only: str | None = None, refused: str | None = None
) -> None:
    """Open a wait again, and the ones of its group that were closed and have no answer. All are announced anew.

    ``only``: the one whose answer was refused; what was said of it, or of those it had closed, does not count any more.
    Without it, they were closed by the end of a run that is retried, and what was said and not read yet does count.
    """
    which = waits.c.state == WaitState.CLOSED
    if only is not None:
        which = or_(which, waits.c.id == only)
    again = (
        await connection.execute(select(waits).where(waits.c.run_id == run_id, waits.c.group_key == key, which))
    ).all()
    if not again:
        return
    await notify(connection, again, NoticeKind.OPENED)
    if only is None:
        await try_again(connection, [wait.id for wait in again if wait.child_run_id is not None])
    await connection.execute(
        update(waits)
        .where(waits.c.run_id == run_id, waits.c.group_key == key, which)
        .values(
            state=WaitState.OPEN,
            outcome=None,
            answer=None,
            settled_at=None,
            opening=waits.c.opening + 1,
            announced_at=None,
            child_attempt=case((waits.c.child_run_id.is_(None), None), else_=waits.c.child_attempt),
            **({} if only is None else {"asked_since": waits.c.opening + 1}),
        )
    )
    if only is not None:
        await connection.execute(update(waits).where(waits.c.id == only).values(refused=refused))
