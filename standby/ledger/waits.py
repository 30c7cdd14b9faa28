"""Statements on waits: open, settle (first write wins), consume, refuse, and the deadlines that are due."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import uuid4

from sqlalchemy import Row, case, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from standby import clock
from standby.ledger.checkpoints import Checkpoints, intend_wait
from standby.ledger.children import try_again
from standby.ledger.database import Database, unindexed
from standby.ledger.delivering import lock_topics, mark_signal, take_kept
from standby.ledger.locks import group_ready, locked_run, run_of_attempt
from standby.ledger.notices import notify
from standby.ledger.polls import first_poll
from standby.ledger.settling import Settled, decide, settle_in, winner_of
from standby.ledger.tables import Decision, Run, Wait, table_of
from standby.ledger.text import SHORTEST
from standby.ledger.votes import count_anew, next_chase, vote_in
from standby.states import (
    BY_SIGNAL,
    Disposition,
    Door,
    Need,
    NoticeKind,
    Outcome,
    Verdict,
    WaitKind,
    WaitState,
)

runs = table_of(Run)
waits = table_of(Wait)
decisions = table_of(Decision)

MOST_KEPT = 65_536
"""Characters of what somebody said who may not answer."""

EARLIER = "the question was asked anew since, and this answers the earlier one"
LATER = "the question has not been asked so often, and there is nothing that this answers"


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


class Waits:
    def __init__(self, database: Database) -> None:
        self._db = database
        self._checkpoints = Checkpoints(database)

    async def open(
        self, run_id: str, attempt: int, key: str, position: int | None, need: Need, rows: list[WaitRow]
    ) -> Group | None:
        """Open the group ``key``, or find it as an earlier attempt left it. None when fenced.

        Of one that is found, the waits that are not among ``rows`` are closed: nobody takes in what they are answered.
        A wait for a signal takes the oldest one there is for it (``take_kept``), in the same transaction.
        """
        async with self._db.transaction() as connection:
            await lock_topics(connection, self._db, _topics(rows))
            run = await run_of_attempt(connection, run_id, attempt)
            if run is None:
                return None
            found = await _group(connection, run_id, key)
            if not found:
                now = clock.utcnow()
                await connection.execute(
                    waits.insert(),
                    [
                        {
                            "id": uuid4().hex,
                            "run_id": run_id,
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
                    ],
                )
                await intend_wait(connection, run_id, attempt, key, position)
                found = await _group(connection, run_id, key)
                await notify(connection, found, NoticeKind.OPENED)
            else:
                if need is Need.ALL or not any(wait.state == WaitState.SETTLED for wait in found):
                    # The run ended (failed, cancelled) with these waits open and is being retried.
                    await _reopen(connection, run_id, key)
                earlier = {wait.id: wait.policy for wait in found}
                await _ask_in_todays_form(connection, run_id, rows)
                await _close(connection, [wait.id for wait in found if wait.key not in {row.key for row in rows}])
                found = await _group(connection, run_id, key)
                for wait in found:
                    if wait.state == WaitState.OPEN and wait.policy != earlier[wait.id]:
                        await count_anew(connection, run, wait)
            await _take_kept(connection, run, key)
            return Group(await group_ready(connection, run_id, key), await _group(connection, run_id, key))

    async def settle(
        self,
        wait_id: str,
        *,
        outcome: Outcome,
        answer: str | None,
        door: Door,
        actor: str | None = None,
        note: str | None = None,
        not_before_deadline: bool = False,
        opening: int | None = None,
        given_at: datetime | None = None,
    ) -> Settled | None:
        """Give the wait its one answer, unless it has one: the first write wins. None when there is no such wait.

        ``not_before_deadline`` settles only if the deadline has passed by the ledger's clock (for the keeper).
        ``opening``: which opening of the wait is answered; one that has opened again since refuses.
        ``given_at``: when the answer was given, if that was before now and another knows it.
        """
        async with self._db.transaction() as connection:
            run_id = (await connection.execute(select(waits.c.run_id).where(waits.c.id == wait_id))).scalar()
            if run_id is None:
                return None
            run = await locked_run(connection, run_id)
            wait = await _wait(connection, wait_id)
            assert run is not None
            if not_before_deadline and (wait.deadline is None or wait.deadline > clock.utcnow()):
                return Settled(False, wait, False, None)
            if opening is not None and opening != wait.opening:
                why = EARLIER if opening < wait.opening else LATER
                await decide(connection, wait, Verdict.REFUSED, answer, door, actor, why)
                return Settled(False, wait, False, None, refused=why)
            if wait.policy is not None and outcome is Outcome.ANSWERED:
                return await vote_in(
                    connection, run, wait, answer=answer or "null", door=door, actor=actor, note=note, given_at=given_at
                )
            return await settle_in(
                connection, run, wait, outcome=outcome, answer=answer, door=door, actor=actor, note=note,
                given_at=given_at,
            )  # fmt: skip

    async def expire(self, wait: Row[Any]) -> Settled | None:
        """Settle a wait whose deadline has passed: with its default answer, or as timed out."""
        return await self.settle(
            wait.id,
            outcome=Outcome.DEFAULTED if wait.has_default else Outcome.TIMED_OUT,
            answer=wait.default_answer,
            door=Door.DEADLINE,
            not_before_deadline=True,
        )

    async def consume(self, run_id: str, attempt: int, key: str, value: str, digest: str) -> bool:
        """The run has taken the answers of the group in: store them as its checkpoint. False when fenced, or when
        that was done before."""
        # One statement, for the agent's next line waits for it.
        return await self._checkpoints.write_wait(run_id, attempt, key, value, digest)

    async def close(self, run_id: str, attempt: int, key: str) -> bool:
        """Nobody will take the group's answers in: close what of it is open. False when fenced."""
        async with self._db.transaction() as connection:
            if await run_of_attempt(connection, run_id, attempt) is None:
                return False
            await _close(connection, [wait.id for wait in await _group(connection, run_id, key)])
            return True

    async def refuse(
        self, run_id: str, attempt: int, wait_id: str, reason: str, *, anew: WaitRow | None = None
    ) -> bool:
        """An answer that came unchecked does not fit: the wait is open again and says why. False when fenced.

        A signal that came since takes its place, also one that was late. ``anew``: the wait as today's code asks, with
        its form; and what is shown, where it says what it is about.
        """
        async with self._db.transaction() as connection:
            wait = await _wait(connection, wait_id)
            await lock_topics(connection, self._db, _topics(await _group(connection, run_id, wait.group_key)))
            run = await run_of_attempt(connection, run_id, attempt)
            if run is None:
                return False
            if (await _wait(connection, wait_id)).state != WaitState.SETTLED:
                return True  # refused before
            await _reopen(connection, run_id, wait.group_key, only=wait_id, refused=reason)
            if anew is not None:
                if anew.fresh is not None:
                    todays = {"fresh": anew.fresh, "evidence": anew.evidence}
                    await connection.execute(update(waits).where(waits.c.id == wait_id).values(**todays))
                await _ask_in_todays_form(connection, run_id, [anew])
            await connection.execute(
                update(decisions)
                .where(decisions.c.wait_id == wait_id, decisions.c.verdict == Verdict.WON)
                .values(verdict=Verdict.REFUSED, note=reason)
            )
            await mark_signal(connection, wait_id, Disposition.REJECTED, reason)
            await _take_kept(connection, run, wait.group_key)
            return True

    async def count_anew(self, run_id: str, attempt: int, wait_id: str, todays: WaitRow) -> bool:
        """The policy of a wait that was answered is another by now, before the run has taken the answer in: what was
        said counts by that one, and if it is not enough the wait is open for more. False when fenced."""
        async with self._db.transaction() as connection:
            run = await run_of_attempt(connection, run_id, attempt)
            if run is None:
                return False
            answered = await _wait(connection, wait_id)
            mine, new = waits.c.id == wait_id, {"policy": todays.policy, "party": todays.party}
            await connection.execute(update(waits).where(mine).values(**new))
            if todays.policy is None or answered.state != WaitState.SETTLED or answered.outcome != Outcome.ANSWERED:
                return True
            await connection.execute(
                update(waits)
                .where(mine)
                .values(state=WaitState.OPEN, outcome=None, answer=None, settled_at=None, announced_at=None)
            )
            await connection.execute(
                update(decisions)
                .where(decisions.c.wait_id == wait_id, decisions.c.opening == answered.opening)
                .where(decisions.c.verdict == Verdict.WON)
                .values(verdict=Verdict.COUNTED)
            )
            await count_anew(connection, run, await _wait(connection, wait_id))
            wait = await _wait(connection, wait_id)
            if wait.state == WaitState.OPEN:
                why = "who decides has changed since, and what was said is not enough"
                due = next_chase(todays.policy, clock.utcnow(), 0)
                await connection.execute(update(waits).where(mine).values(refused=why, chase_at=due))
                await notify(connection, [wait], NoticeKind.OPENED)
            else:
                # It is as old as it was.
                await connection.execute(update(waits).where(mine).values(settled_at=answered.settled_at))
            return True

    async def note_refusal(self, run_id: str, attempt: int, wait_id: str, answer: str, reason: str) -> bool:
        """An answer from Prefect's own form did not fit and never settled the wait: write it down."""
        async with self._db.transaction() as connection:
            if await run_of_attempt(connection, run_id, attempt) is None:
                return False
            wait = await _wait(connection, wait_id)
            await decide(connection, wait, Verdict.REFUSED, answer, Door.PREFECT, None, reason)
            await connection.execute(update(waits).where(waits.c.id == wait_id).values(refused=reason))
            return True

    async def note_not_allowed(self, wait_id: str, door: Door, actor: str, why: str, answer: str | None) -> None:
        """Write down that somebody was kept from deciding a wait before what they said (JSON text; None if it is none)
        was looked at. It is not kept where it is long: who may not answer could fill the ledger."""
        if answer is not None and len(answer) > MOST_KEPT:
            why, answer = f"{why} What was said has more than {MOST_KEPT:,} characters.", None
        async with self._db.transaction() as connection:
            wait = (await connection.execute(select(waits).where(waits.c.id == wait_id))).first()
            if wait is not None:
                await decide(connection, wait, Verdict.REFUSED, answer, door, actor, why)

    async def group(self, run_id: str, key: str) -> Group:
        rows = await self._db.read(_group_query(run_id, key))
        return Group(all(row.state != WaitState.OPEN for row in rows), rows)

    async def get(self, wait_id: str) -> Row[Any] | None:
        rows = await self._db.read(select(waits).where(waits.c.id == wait_id))
        return rows[0] if rows else None

    async def find(self, prefix: str) -> list[Row[Any]]:
        """Waits whose id starts with ``prefix``, if that is long enough."""
        if len(prefix) < SHORTEST:
            return []
        return await self._db.read(select(waits).where(waits.c.id.startswith(prefix, autoescape=True)))

    async def open_ones(self, run_ids: list[str] | None = None, *, limit: int | None = None) -> list[Row[Any]]:
        """Open waits, oldest first; of the runs given, or of all; at most ``limit``."""
        statement = select(waits).where(waits.c.state == WaitState.OPEN).order_by(waits.c.opened_at, waits.c.member)
        if run_ids is not None:
            statement = statement.where(waits.c.run_id.in_(run_ids))
        return await self._db.read(statement.limit(limit))

    async def of_run(self, run_id: str) -> list[Row[Any]]:
        return await self._db.read(
            select(waits).where(waits.c.run_id == run_id).order_by(waits.c.opened_at, waits.c.member)
        )

    async def decisions_of(self, run_id: str) -> list[Row[Any]]:
        """Every attempt to decide a wait of the run, in order."""
        return await self._db.read(
            select(decisions).where(decisions.c.run_id == run_id).order_by(decisions.c.decided_at, decisions.c.id)
        )

    async def decided_by(self, wait_id: str, opening: int, person: str) -> Row[Any] | None:
        """The decision in this opening of the wait that counts for this person: theirs, or one in their place."""
        rows = await self._db.read(
            select(decisions).where(
                decisions.c.wait_id == wait_id,
                decisions.c.opening == opening,
                or_(decisions.c.actor == person, decisions.c.place == person),
                decisions.c.verdict.in_((Verdict.COUNTED, Verdict.WON)),
            )
        )
        return rows[0] if rows else None

    async def winner(self, wait: Row[Any]) -> Row[Any] | None:
        """The decision that settled the wait, or the one of its group that closed it."""
        async with self._db.reading() as connection:
            return await winner_of(connection, wait)

    async def decided_more_than_once(self) -> list[tuple[str, str, int]]:
        """``(wait, run, count)`` of waits with more than one winning decision, which must not be."""
        times = func.count()
        rows = await self._db.read(
            select(decisions.c.wait_id, decisions.c.run_id, times)
            .where(decisions.c.verdict == Verdict.WON)
            .group_by(decisions.c.wait_id, decisions.c.run_id)
            .having(times > 1)
        )
        return [(row[0], row[1], row[2]) for row in rows]

    async def due(self, limit: int = 500) -> list[Row[Any]]:
        """Open waits whose deadline has passed, most overdue first."""
        return await self._db.read(
            select(waits)
            .where(waits.c.state == WaitState.OPEN, waits.c.deadline <= clock.utcnow())
            .order_by(waits.c.deadline)
            .limit(limit)
        )

    async def unannounced(self, limit: int = 200) -> list[Row[Any]]:
        """Open waits that nobody has been told of, oldest first."""
        return await self._db.read(
            select(waits)
            .where(waits.c.announced_at.is_(None), waits.c.state == WaitState.OPEN)
            .order_by(waits.c.opened_at, waits.c.member)
            .limit(limit)
        )

    async def announced(self, told_of: list[Row[Any]]) -> None:
        """These waits, as they were read, have been announced. One that was opened anew since has not."""
        now = clock.utcnow()
        for wait in told_of:
            # One by one: a settling of several takes their locks in another order.
            same = waits.c.opening == wait.opening
            await self._db.write(update(waits).where(waits.c.id == wait.id, same).values(announced_at=now))


def _topics(waiting: Iterable[WaitRow | Row[Any]]) -> list[tuple[str, str | None]]:
    return [(wait.topic, wait.correlation) for wait in waiting if wait.topic is not None]


def _group_query(run_id: str, key: str) -> Any:
    return select(waits).where(waits.c.run_id == run_id, waits.c.group_key == key).order_by(waits.c.member)


async def _wait(connection: AsyncConnection, wait_id: str) -> Row[Any]:
    return (await connection.execute(select(waits).where(waits.c.id == wait_id))).one()


async def _group(connection: AsyncConnection, run_id: str, key: str) -> list[Row[Any]]:
    return list((await connection.execute(_group_query(run_id, key))).all())


async def _close(connection: AsyncConnection, ids: list[str]) -> None:
    """Close what of these is open."""
    if ids:
        await connection.execute(
            update(waits)
            .where(waits.c.id.in_(ids), unindexed(waits.c.state) == WaitState.OPEN)
            .values(state=WaitState.CLOSED, settled_at=clock.utcnow())
        )


async def _ask_in_todays_form(connection: AsyncConnection, run_id: str, rows: list[WaitRow]) -> None:
    """The code may have another form than when the waits were opened: an answer must fit the one it has now."""
    for row in rows:
        todays = {
            name: getattr(row, name)
            for name in ("answer_type", "answer_schema", "has_default", "default_answer", "policy", "poll", "hold")
        }
        await connection.execute(
            update(waits)
            .where(
                waits.c.run_id == run_id,
                waits.c.key == row.key,
                waits.c.state == WaitState.OPEN,
                or_(*(waits.c[name].is_distinct_from(value) for name, value in todays.items())),
            )
            .values(**todays)
        )
        if row.deadline is not None:  # it has timed out, and is open again for a retry
            again = (waits.c.state == WaitState.OPEN, waits.c.deadline.is_(None), waits.c.opening > 1)
            await connection.execute(
                update(waits)
                .where(waits.c.run_id == run_id, waits.c.key == row.key, *again)
                .values(deadline=row.deadline)
            )


async def _take_kept(connection: AsyncConnection, run: Row[Any], key: str) -> None:
    """Settle the waits of a group that has just opened with the oldest signals there are for them."""
    for wait in await _group(connection, run.id, key):
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
        if wait.need == Need.ANY:
            return  # the others are closed now


async def _reopen(
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
