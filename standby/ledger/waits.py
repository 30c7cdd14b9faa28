"""Statements on waits: open, settle (first write wins), consume, refuse, and the deadlines that are due."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Row, func, or_, select, update

from standby import clock
from standby.ledger.checkpoints import Checkpoints
from standby.ledger.database import Database
from standby.ledger.delivering import lock_topics, mark_signal
from standby.ledger.locks import locked_run, run_of_attempt
from standby.ledger.notices import notify
from standby.ledger.opening import (
    GROUP,
    Group,
    WaitRow,
    ask_in_todays_form,
    close_in,
    group_in,
    group_of,
    is_answered,
    open_group,
    reopen,
    take_kept_for,
    topics_of,
    wait_in,
)
from standby.ledger.settling import Settled, decide, settle_in, winner_of
from standby.ledger.tables import Decision, Run, Wait, table_of
from standby.ledger.text import SHORTEST
from standby.ledger.votes import count_anew, next_chase, vote_in
from standby.states import (
    Disposition,
    Door,
    Need,
    NoticeKind,
    Outcome,
    Verdict,
    WaitState,
)

runs = table_of(Run)
waits = table_of(Wait)
decisions = table_of(Decision)

MOST_KEPT = 65_536
"""Characters of what somebody said who may not answer."""

EARLIER = "the question was asked anew since, and this answers the earlier one"
LATER = "the question has not been asked so often, and there is nothing that this answers"


class Waits:
    def __init__(self, database: Database) -> None:
        self._db = database
        self._checkpoints = Checkpoints(database)

    async def open(
        self,
        run_id: str,
        attempt: int,
        key: str,
        position: int | None,
        need: Need,
        rows: list[WaitRow],
        *,
        again: bool = True,
    ) -> Group | None:
        """Open the group ``key``, or find it as an earlier attempt left it. None when fenced; for one that is
        answered the attempt is looked at when it is consumed.

        Of one that is found, the waits that are not among ``rows`` are closed: nobody takes in what they are answered.
        A wait for a signal takes the oldest one there is for it (``take_kept``), in the same transaction.
        ``again``: whether an earlier attempt has opened it, as far as the journal knows.
        """
        if again:
            # Nothing is done to one that is answered, and who takes the answers in is fenced then.
            found = await self.group(run_id, key)
            if is_answered(found.waits, need):
                return found
        async with self._db.transaction() as connection:
            return await open_group(connection, self._db, run_id, attempt, key, position, need, rows)

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
            wait = await wait_in(connection, wait_id)
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
            await close_in(connection, [wait.id for wait in await group_in(connection, run_id, key)])
            return True

    async def refuse(
        self, run_id: str, attempt: int, wait_id: str, reason: str, *, anew: WaitRow | None = None
    ) -> bool:
        """An answer that came unchecked does not fit: the wait is open again and says why. False when fenced.

        A signal that came since takes its place, also one that was late. ``anew``: the wait as today's code asks, with
        its form; and what is shown, where it says what it is about.
        """
        async with self._db.transaction() as connection:
            wait = await wait_in(connection, wait_id)
            await lock_topics(connection, self._db, topics_of(await group_in(connection, run_id, wait.group_key)))
            run = await run_of_attempt(connection, run_id, attempt)
            if run is None:
                return False
            if (await wait_in(connection, wait_id)).state != WaitState.SETTLED:
                return True  # refused before
            await reopen(connection, run_id, wait.group_key, only=wait_id, refused=reason)
            if anew is not None:
                if anew.fresh is not None:
                    todays = {"fresh": anew.fresh, "evidence": anew.evidence}
                    await connection.execute(update(waits).where(waits.c.id == wait_id).values(**todays))
                await ask_in_todays_form(connection, [await wait_in(connection, wait_id)], [anew])
            await connection.execute(
                update(decisions)
                .where(decisions.c.wait_id == wait_id, decisions.c.verdict == Verdict.WON)
                .values(verdict=Verdict.REFUSED, note=reason)
            )
            await mark_signal(connection, wait_id, Disposition.REJECTED, reason)
            await take_kept_for(connection, run, await group_in(connection, run_id, wait.group_key))
            return True

    async def count_anew(self, run_id: str, attempt: int, wait_id: str, todays: WaitRow) -> bool:
        """The policy of a wait that was answered is another by now, before the run has taken the answer in: what was
        said counts by that one, and if it is not enough the wait is open for more. False when fenced."""
        async with self._db.transaction() as connection:
            run = await run_of_attempt(connection, run_id, attempt)
            if run is None:
                return False
            answered = await wait_in(connection, wait_id)
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
            await count_anew(connection, run, await wait_in(connection, wait_id))
            wait = await wait_in(connection, wait_id)
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
            wait = await wait_in(connection, wait_id)
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
        return group_of(await self._db.read(GROUP, {"run": run_id, "group": key}))

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
