"""Statements on runs: claim, renew, park, end, and what the keeper looks for."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Row, and_, case, literal, null, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from standby import clock
from standby.ledger.children import tell_parents
from standby.ledger.database import Database, by, unindexed
from standby.ledger.holds import held
from standby.ledger.locks import group_ready, locked_run, run_of_attempt, take
from standby.ledger.notifications import told
from standby.ledger.retrying import wait_again
from standby.ledger.tables import Checkpoint, Run, Wait, table_of
from standby.ledger.text import SHORTEST
from standby.states import ENDED, Door, Hold, RunState, WaitState

runs = table_of(Run)
waits = table_of(Wait)
checkpoints = table_of(Checkpoint)


class Claim(NamedTuple):
    """What a claim found. ``attempt`` is 0 when the run could not be claimed because ``holder`` works on it.

    ``asked_at``: when it was asked for (``clock.elapsed``), if the run was claimed.
    """

    attempt: int
    was: RunState | None  # its state before, None for a run the ledger had not seen
    result: str | None
    holder: str | None = None
    lease_expires_at: datetime | None = None
    error: str | None = None
    ended_at: datetime | None = None
    ended_after: str | None = None
    asked_at: float = 0.0


class Runs:
    def __init__(self, database: Database) -> None:
        self._db = database
        self._insert = sqlite_insert if database.sqlite else postgres_insert

    async def claim(
        self,
        run_id: str,
        *,
        flow: str,
        name: str,
        deployment_id: str | None,
        holder: str,
        lease: timedelta,
        presumed_dead: str | None = None,
        retried: datetime | bool | None = True,
    ) -> Claim:
        """Take the run for a new attempt, unless another attempt's lease on it is alive.

        ``presumed_dead`` is a holder the caller knows to be dead, whose lease need not be waited for. A completed
        run is not claimed: the claim has attempt 0 and its result. Nor is a failed or cancelled one unless it was
        ``retried`` (since which end, or True): the claim then has attempt 0, what it ended with, when, and after which
        state of Prefect's.
        """
        now, asked_at = clock.utcnow(), clock.elapsed()
        async with self._db.transaction() as connection:
            await connection.execute(
                self._insert(runs)
                .values(
                    id=run_id,
                    flow=flow,
                    name=name,
                    deployment_id=deployment_id,
                    attempt=0,
                    state=RunState.READY,
                    started_at=now,
                    confirmed=False,
                )
                .on_conflict_do_nothing()
            )
            row = await self._locked(connection, run_id)
            assert row is not None
            was = RunState(row.state) if row.attempt else None
            if was is RunState.COMPLETED:
                return Claim(0, was, row.result)
            if was in (RunState.FAILED, RunState.CANCELLED) and retried is not True and retried != row.ended_at:
                return Claim(0, was, None, error=row.error, ended_at=row.ended_at, ended_after=row.ended_after)
            # One that is parked warm is parked: who comes first goes on with it, and the other is fenced.
            alive = row.holder is not None and row.hold != Hold.WARM and row.lease_expires_at > now
            if alive and row.holder != presumed_dead:
                return Claim(0, was, None, row.holder, row.lease_expires_at)
            attempt = await take(connection, row, holder, lease)
            if row.ended_by is not None:
                await wait_again(connection, run_id, row.ended_by)
            await connection.execute(
                update(runs)
                .where(runs.c.id == run_id)
                .values(
                    name=name,
                    deployment_id=deployment_id,
                    error=None,
                    ended_at=None,
                    ended_after=None,
                    ended_by=None,
                    failed_step=None,
                    cancelled_by=None,
                    cancelled_door=None,
                    confirmed=False,
                )
            )
            return Claim(attempt, was, None, asked_at=asked_at)

    async def renew(self, run_id: str, attempt: int, lease: timedelta) -> bool:
        """Keep the lease, if the attempt has not let it go. False when the run is another attempt's."""
        return (await self.renew_all([(run_id, attempt)], lease)).get(run_id) == attempt

    async def renew_all(self, attempts: Collection[tuple[str, int]], lease: timedelta) -> dict[str, int]:
        """Keep the leases of these attempts, as ``renew`` does, with one statement; the attempt each run is at now."""
        kept = case(
            (runs.c.holder.is_(None), null()), else_=literal(clock.utcnow() + lease, runs.c.lease_expires_at.type)
        )
        mine = tuple_(runs.c.id, runs.c.attempt).in_(list(attempts))
        if await self._db.write(update(runs).where(mine).values(lease_expires_at=kept)) == len(attempts):
            return dict(attempts)
        rows = await self._db.read(
            select(runs.c.id, runs.c.attempt).where(runs.c.id.in_([run_id for run_id, _ in attempts]))
        )
        return {row.id: row.attempt for row in rows}

    async def park(
        self, run_id: str, attempt: int, group_key: str, hold: Hold, wake_address: str | None = None
    ) -> RunState | None:
        """The attempt stops for the group of waits: PARKED, or READY if they settled meanwhile; None when fenced.

        With ``suspend`` the lease is let go; with ``pause`` the attempt keeps it; with ``warm`` it is the host's.
        """
        now = clock.utcnow()
        async with self._db.transaction() as connection:
            if await run_of_attempt(connection, run_id, attempt) is None:
                return None
            ready = await group_ready(connection, run_id, group_key)
            state = RunState.READY if ready else RunState.PARKED
            values: dict[str, Any] = {
                "state": state,
                "hold": hold,
                "parked_at": now,
                "ready_at": now if ready else None,
                "wake_address": wake_address,
            }
            if hold is Hold.SUSPEND:
                values |= {"holder": None, "lease_expires_at": None}
            elif hold is Hold.WARM:
                values |= {"lease_expires_at": None}
            await connection.execute(held(run_id, group_key, hold))
            parked = update(runs).where(runs.c.id == run_id).values(**values)
            await connection.execute(told(parked, connection) if ready else parked)
            return state

    async def unpark(self, run_id: str, attempt: int) -> bool:
        """The attempt that paused in its process goes on. False when fenced."""
        return bool(
            await self._db.write(
                update(runs)
                .where(
                    runs.c.id == run_id,
                    runs.c.attempt == attempt,
                    runs.c.state.in_([RunState.PARKED, RunState.READY, RunState.RUNNING]),
                )
                .values(state=RunState.RUNNING, hold=None, wake_address=None)
            )
        )

    async def release(self, run_id: str, attempt: int) -> bool:
        """The attempt ends without having parked or finished, and lets its lease go. False when fenced."""
        return bool(
            await self._db.write(
                update(runs)
                .where(runs.c.id == run_id, runs.c.attempt == attempt)
                .values(holder=None, lease_expires_at=None)
            )
        )

    async def end(
        self,
        run_id: str,
        attempt: int,
        state: RunState,
        *,
        result: str | None = None,
        error: str | None = None,
        after: str | None = None,
        by: str | None = None,
        step: str | None = None,
    ) -> bool:
        """The attempt ends the run; its open waits are closed. False when fenced.

        ``after``: the id of a state that the run had in Prefect in this attempt; scheduled after it, it is retried.
        ``by``: the group of waits whose error ends it, which its retry opens again. ``step``: the key of the step whose
        error does.
        """
        async with self._db.transaction() as connection:
            return await _end(connection, run_id, attempt, state, result, error, after, by, step)

    async def end_from_outside(
        self,
        run_id: str,
        state: RunState,
        error: str | None = None,
        *,
        attempt: int | None = None,
        at: datetime | None = None,
        after: str | None = None,
    ) -> bool:
        """Someone ended the run on Prefect's side. The attempt number goes up, so that a live attempt stops.

        ``attempt``: the one it was in before Prefect was asked. False if there is a newer one, which came after a retry
        that Prefect's answer does not know of. None: whichever it is in. ``at``: when it ended there, by default now.
        ``after``: the id of the state that it ended with there; scheduled after it, it is retried.
        """
        async with self._db.transaction() as connection:
            row = await self._locked(connection, run_id)
            if row is None or RunState(row.state) in ENDED or attempt not in (None, row.attempt):
                return False
            await _end(connection, run_id, row.attempt, state, None, error, after)
            values: dict[str, Any] = {"attempt": row.attempt + 1}
            if at is not None:
                values["ended_at"] = clock.plain(at)
            await connection.execute(update(runs).where(runs.c.id == run_id).values(**values))
            return True

    async def cancelled_by(self, run_id: str, after: str | None, actor: str, door: Door, error: str) -> bool:
        """Say who cancelled the run, and ``error`` in words, if it was ended by the state ``after`` of Prefect's: who
        follows Prefect may have been first to tell the ledger, and does not know who it was. False if it was not."""
        return bool(
            await self._db.write(
                update(runs)
                .where(
                    runs.c.id == run_id,
                    runs.c.state == RunState.CANCELLED,
                    runs.c.ended_after.is_not_distinct_from(after),
                )
                .values(cancelled_by=actor, cancelled_door=door, error=error)
            )
        )

    async def rescue(self, run_id: str, attempt: int, holder: str | None) -> RunState | None:
        """Take the run from a dead attempt, which is fenced off. What it is now: PARKED or READY; None if it moved on,
        or somebody is at it just then.

        READY means that somebody should work on it: it was running, or its wait has settled.
        """
        now = clock.utcnow()
        async with self._db.transaction() as connection:
            row = await locked_run(connection, run_id, skip_locked=True)
            if row is None or row.attempt != attempt or row.holder != holder or RunState(row.state) in ENDED:
                return None
            state = RunState(row.state)
            if state is RunState.RUNNING or row.hold == Hold.PAUSE:
                state = RunState.READY
            await connection.execute(
                update(runs)
                .where(runs.c.id == run_id)
                .values(
                    state=state,
                    attempt=attempt + 1,
                    holder=None,
                    lease_expires_at=None,
                    wake_address=None,
                    hold=Hold.SUSPEND if row.hold == Hold.WARM else row.hold,
                    ready_at=now if state is RunState.READY else row.ready_at,
                )
            )
            return state

    async def confirm(self, run_ids: Iterable[str]) -> None:
        """Prefect has been seen to know the end of these runs."""
        await self._db.write(update(runs).where(runs.c.id.in_(list(run_ids))).values(confirmed=True))

    async def get(self, run_id: str) -> Row[Any] | None:
        rows = await self._db.read(select(runs).where(runs.c.id == run_id))
        return rows[0] if rows else None

    async def find(self, prefix: str) -> list[Row[Any]]:
        """Runs whose id starts with ``prefix``, if that is long enough, or whose name is ``prefix``."""
        named = runs.c.name == prefix
        if len(prefix) >= SHORTEST:
            named = or_(runs.c.id.startswith(prefix, autoescape=True), named)
        return await self._db.read(select(runs).where(named))

    async def all(self, *, ended: bool) -> list[Row[Any]]:
        """Runs, oldest first; with ``ended`` those that ended, too."""
        statement = select(runs).order_by(runs.c.started_at, runs.c.id)
        if not ended:
            statement = statement.where(runs.c.state.not_in(ENDED))
        return await self._db.read(statement)

    async def held(self) -> list[Row[Any]]:
        """Runs that some attempt holds, or should hold: RUNNING ones, and ones that pause in a process. Those that are
        parked warm hang on their host's lease."""
        return await self._db.read(
            select(runs).where(
                or_(
                    runs.c.state == RunState.RUNNING,
                    and_(runs.c.state == RunState.PARKED, runs.c.hold == Hold.PAUSE),
                    and_(runs.c.holder.is_not(None), runs.c.state.not_in(ENDED)),
                ),
                runs.c.hold.is_distinct_from(Hold.WARM),
            )
        )

    async def ready_since(self, before: datetime) -> list[Row[Any]]:
        """Runs that should have been taken up: READY, held by none, since ``before``; the longest ready first."""
        return await self._db.read(
            select(runs)
            .where(runs.c.state == RunState.READY, runs.c.holder.is_(None), by(runs.c.ready_at, before))
            .order_by(runs.c.ready_at, runs.c.id)
        )

    async def still_ready(self, run_ids: list[str]) -> list[Row[Any]]:
        """Those of these runs that are READY and held by none."""
        return await self._db.read(
            select(runs).where(runs.c.id.in_(run_ids), runs.c.state == RunState.READY, runs.c.holder.is_(None))
        )

    async def unconfirmed(self, before: datetime) -> list[Row[Any]]:
        """Runs that ended before ``before`` and whose end Prefect has not been seen to know."""
        return await self._db.read(
            select(runs).where(runs.c.state.in_(ENDED), runs.c.confirmed.is_(False), by(runs.c.ended_at, before))
        )

    async def _locked(self, connection: AsyncConnection, run_id: str) -> Row[Any] | None:
        return await locked_run(connection, run_id)


async def _end(
    connection: AsyncConnection,
    run_id: str,
    attempt: int,
    state: RunState,
    result: str | None,
    error: str | None,
    after: str | None,
    by: str | None = None,
    step: str | None = None,
) -> bool:
    """False if the run is in another attempt by now, or has ended."""
    now = clock.utcnow()
    ended = await connection.execute(
        update(runs)
        .where(runs.c.id == run_id, runs.c.attempt == attempt, runs.c.state.not_in(ENDED))
        .values(
            state=state,
            result=result,
            error=error,
            ended_at=now,
            ended_after=after,
            ended_by=by,
            failed_step=step,
            holder=None,
            lease_expires_at=None,
            hold=None,
            wake_address=None,
            confirmed=False,
        )
    )
    if not ended.rowcount:
        return False
    await connection.execute(
        update(waits)
        .where(waits.c.run_id == run_id, unindexed(waits.c.state) == WaitState.OPEN)
        .values(state=WaitState.CLOSED, settled_at=now)
    )
    await tell_parents(connection, run_id, state, result, error, attempt)
    return True
