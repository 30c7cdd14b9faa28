"""Statements on runs that a host has: parked warm in its memory, or cold and taken up by it when their wait settles.

A run that is parked warm has ``holder`` and no lease of its own: it hangs on the host's (``leases``). Whoever claims
it first, the attempt that lingers or any other, goes on; the attempt number fences the loser.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, and_, bindparam, case, literal, or_, select, true, update
from sqlalchemy.sql import ColumnElement

from standby import clock
from standby.ledger.database import Database
from standby.ledger.locks import TAKEN, locked_run, take, taken_by
from standby.ledger.prepared import given
from standby.ledger.runs import Claim
from standby.ledger.tables import Lease, Run, table_of
from standby.states import Hold, RunState

runs = table_of(Run)
leases = table_of(Lease)

PARKED = (RunState.PARKED, RunState.READY)

_WARM_AND_READY = (runs.c.state == RunState.READY, runs.c.hold == Hold.WARM)

LEASES = "host/"
"""How the names of hosts' leases begin; what follows is the host's wake address, and what tells it from another's."""


NO_LIMIT = "/no-limit"
"""How those names end whose hosts run any number of agents at the same time: nothing waits for a slot there."""


class _Statements:
    def __init__(self, database: Database) -> None:
        lingers = (runs.c.id == bindparam("run"), runs.c.attempt == bindparam("lingers"), runs.c.hold == Hold.WARM)
        taken = update(runs).where(*lingers).values(given(runs, *TAKEN))
        ready, parked = runs.c.state == RunState.READY, runs.c.state == RunState.PARKED
        self.claim = database.prepared(taken.where(ready))
        self.claim_stray = database.prepared(taken.where(or_(ready, parked)))


class Hosted:
    def __init__(self, database: Database) -> None:
        self._db = database
        self._sql = database.made(_Statements)

    async def claim_warm(
        self, run_id: str, attempt: int, holder: str, lease: timedelta, *, stray: bool = False
    ) -> int | None:
        """The attempt that lingers goes on, under a new number; ``stray``: even if it has no answer yet.

        0 when it has none and lingers on. None when the run is another's, or has ended.
        """
        mine = (runs.c.id == run_id, runs.c.attempt == attempt, runs.c.hold == Hold.WARM)
        # One statement, for an answer waits for it.
        claim = self._sql.claim_stray if stray else self._sql.claim
        if await self._db.write(claim, {"run": run_id, "lingers": attempt, **taken_by(holder, lease, attempt + 1)}):
            return attempt + 1
        still = await self._db.read(select(runs.c.id).where(*mine, runs.c.state.in_(PARKED)))
        return 0 if still else None

    async def claim_ready(
        self, run_id: str, deployments: Container[str], holder: str, lease: timedelta
    ) -> tuple[Claim, Row[Any]] | None:
        """A host takes up a cold run, of one of these deployments, whose wait has settled; its row as it was. None when
        there is nothing to take."""
        asked_at = clock.elapsed()
        async with self._db.transaction() as connection:
            run = await locked_run(connection, run_id)
            if run is None or run.state != RunState.READY or run.holder is not None or run.wake_address is None:
                return None
            if run.deployment_id not in deployments:
                return None
            attempt = await take(connection, run, holder, lease)
            return Claim(attempt, RunState.READY, None, asked_at=asked_at), run

    async def give_back(self, run_id: str, attempt: int, holder: str) -> bool:
        """A host that has claimed a run, or worked on it, leaves it to whom Prefect gives it; also one that pauses in
        it, as if its process had died. False when fenced."""
        return bool(
            await self._db.write(
                update(runs)
                .where(
                    runs.c.id == run_id,
                    runs.c.attempt == attempt,
                    runs.c.holder == holder,
                    or_(runs.c.state == RunState.RUNNING, and_(runs.c.state.in_(PARKED), runs.c.hold == Hold.PAUSE)),
                )
                .values(
                    state=RunState.READY,
                    attempt=attempt + 1,
                    holder=None,
                    lease_expires_at=None,
                    hold=None,
                    wake_address=None,
                    ready_at=clock.utcnow(),
                )
            )
        )

    async def evict(self, run_id: str, attempt: int, address: str | None) -> bool:
        """Nothing of the run is kept in memory any more. False when it is not parked warm by this attempt, or READY."""
        return bool(
            await self._db.write(
                update(runs)
                .where(
                    runs.c.id == run_id,
                    runs.c.attempt == attempt,
                    runs.c.hold == Hold.WARM,
                    runs.c.state == RunState.PARKED,
                )
                .values(hold=Hold.SUSPEND, holder=None, wake_address=address)
            )
        )

    async def abandon(self, holder: str) -> int:
        """All that is parked warm in this host, which is gone or goes, is parked cold from here on. How many."""
        return await self._db.write(
            update(runs)
            .where(runs.c.holder == holder, runs.c.hold == Hold.WARM, runs.c.state.in_(PARKED))
            .values(hold=Hold.SUSPEND, holder=None, wake_address=None, attempt=runs.c.attempt + 1)
        )

    async def abandon_one(self, run_id: str, holder: str, address: str | None) -> bool:
        """This run is not in the memory of its host, which lives: it is cold, and comes back to it at ``address``."""
        return bool(
            await self._db.write(
                update(runs)
                .where(runs.c.id == run_id, runs.c.holder == holder, runs.c.hold == Hold.WARM, runs.c.state.in_(PARKED))
                .values(hold=Hold.SUSPEND, holder=None, wake_address=address, attempt=runs.c.attempt + 1)
            )
        )

    async def warm_in(self, holder: str) -> dict[str, int]:
        """What is parked warm in this host by the ledger: attempt numbers by run."""
        rows = await self._db.read(
            select(runs.c.id, runs.c.attempt).where(
                runs.c.holder == holder, runs.c.hold == Hold.WARM, runs.c.state.in_(PARKED)
            )
        )
        return {row.id: row.attempt for row in rows}

    async def warm_and_ready(self, holder: str) -> list[str]:
        """What is parked warm in this host and has its answer."""
        rows = await self._db.read(
            select(runs.c.id).where(runs.c.state == RunState.READY, runs.c.holder == holder, runs.c.hold == Hold.WARM)
        )
        return [row.id for row in rows]

    async def warm_holders(self) -> list[tuple[str, bool]]:
        """The hosts that runs are parked warm in, and whether the lease of each is alive."""
        rows = await self._db.read(
            select(runs.c.holder, self._host_lives().label("alive"))
            .where(runs.c.hold == Hold.WARM, runs.c.state.in_(PARKED), runs.c.holder.is_not(None))
            .distinct()
        )
        return [(row.holder, bool(row.alive)) for row in rows]

    async def whose(self, run_id: str) -> Row[Any] | None:
        """``state, attempt, holder, hold, ended_at, confirmed`` of the run, whether the lease of who has it is
        ``alive`` (its host's, if it is parked warm), and whether that host has a limit: ``limited``."""
        alive = case((runs.c.hold == Hold.WARM, self._host_lives()), else_=runs.c.lease_expires_at > clock.utcnow())
        of_it = (runs.c.state, runs.c.attempt, runs.c.holder, runs.c.hold, runs.c.ended_at, runs.c.confirmed)
        judged = (alive.label("alive"), (~self._is_without_limit()).label("limited"))
        rows = await self._db.read(select(*of_it, *judged).where(runs.c.id == run_id))
        return rows[0] if rows else None

    async def adopt(self, deployments: Iterable[str], address: str) -> int:
        """Have cold runs of these deployments that no living host would take up come to this one. How many."""
        living = await self._db.read(
            select(leases.c.name).where(leases.c.name.startswith(LEASES), leases.c.expires_at > clock.utcnow())
        )
        others = [
            runs.c.wake_address.startswith(f"{row.name.removeprefix(LEASES).partition('/')[0]}#", autoescape=True)
            for row in living
        ]
        return await self._db.write(
            update(runs)
            .where(
                runs.c.state.in_(PARKED),
                runs.c.holder.is_(None),
                self._of(deployments),
                or_(runs.c.wake_address.is_(None), ~or_(*others) if others else runs.c.id.is_not(None)),
            )
            .values(wake_address=literal(f"{address}#") + runs.c.id)
        )

    async def disown(self, address: str, deployment: str | None = None) -> int:
        """Cold runs that would have come to this host, or those of one deployment, are woken through Prefect from here
        on. How many."""
        return await self._db.write(
            update(runs)
            .where(
                runs.c.holder.is_(None),
                runs.c.wake_address.startswith(f"{address}#", autoescape=True),
                self._of([deployment]) if deployment is not None else true(),
            )
            .values(wake_address=None)
        )

    async def to_take_up(self, deployments: Iterable[str], limit: int = 1_000) -> list[str]:
        """Runs of these deployments that a host should take up, the one that waits longest first."""
        rows = await self._db.read(
            select(runs.c.id)
            .where(
                runs.c.state == RunState.READY,
                runs.c.holder.is_(None),
                runs.c.wake_address.is_not(None),
                self._of(deployments),
            )
            .order_by(runs.c.ready_at)
            .limit(limit)
        )
        return [row.id for row in rows]

    async def waiting_elsewhere(
        self, deployments: Iterable[str], holder: str, since: datetime, limit: int
    ) -> list[tuple[str, int]]:
        """Runs of these deployments that are parked warm in other hosts and have had their answers ``since`` then, for
        those have no slot for them: each with its attempt, the one that waits longest first."""
        rows = await self._db.read(
            select(runs.c.id, runs.c.attempt)
            .where(*_WARM_AND_READY, runs.c.holder != holder, runs.c.ready_at < since, self._of(deployments))
            .where(~self._is_without_limit())
            .order_by(runs.c.ready_at)
            .limit(limit)
        )
        return [(row.id, row.attempt) for row in rows]

    async def call_over(self, run_id: str, attempt: int, address: str) -> bool:
        """Have such a run come to the host at ``address``. False when the host that has it has just gone on with it."""
        cold = {"hold": Hold.SUSPEND, "holder": None, "attempt": attempt + 1, "wake_address": address}
        mine = (runs.c.id == run_id, runs.c.attempt == attempt, *_WARM_AND_READY)
        return bool(await self._db.write(update(runs).where(*mine).values(cold)))

    async def orphans(self, deployments: Iterable[str]) -> list[Row[Any]]:
        """Runs of these deployments that an attempt works on, or did."""
        return await self._db.read(
            select(runs).where(runs.c.state == RunState.RUNNING, runs.c.holder.is_not(None), self._of(deployments))
        )

    def _host_lives(self) -> ColumnElement[bool]:
        """Whether the run's holder is a host whose lease is alive."""
        return (
            select(leases.c.name)
            .where(leases.c.name.startswith(LEASES), leases.c.holder == runs.c.holder)
            .where(leases.c.expires_at > clock.utcnow())
            .exists()
        )

    def _is_without_limit(self) -> ColumnElement[bool]:
        """Whether the run's holder is a host that runs any number at the same time."""
        return (
            select(leases.c.name)
            .where(leases.c.name.startswith(LEASES), leases.c.holder == runs.c.holder)
            .where(leases.c.name.endswith(NO_LIMIT))
            .exists()
        )

    def _of(self, deployments: Iterable[str]) -> ColumnElement[bool]:
        return runs.c.deployment_id.in_(list(deployments))
