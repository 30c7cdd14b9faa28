"""Firing deadlines: many at a time, for many may be due in the same second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Row

from standby import clock
from standby.ledger.database import Database
from standby.ledger.settling_many import Answer, SettlingMany, is_open, to_wake
from standby.ledger.waits import Waits
from standby.states import Door, Need, Outcome

TOGETHER = 250
"""Deadlines in one transaction: few enough that nobody who writes meanwhile has to wait for long."""


class Woken(NamedTuple):
    """A run that has to be woken; ``address`` is where an attempt that paused in its process listens."""

    run_id: str
    address: str | None


class Deadlines:
    def __init__(self, database: Database, waits: Waits) -> None:
        self._db, self._waits = database, waits
        self._settling = SettlingMany(database)

    async def fire(self, due: Sequence[Row[Any]]) -> list[Woken]:
        """Settle waits whose deadline has passed, as ``Waits.expire`` does; the runs to wake.

        A wait that somebody else is at just then is left alone, and still due if that did not settle it.
        """
        woken: list[Woken] = []
        alone: dict[str, Row[Any]] = {}
        others = []
        for wait in due:
            # The second one of a run is settled after the first.
            if wait.need == Need.ONE and wait.run_id not in alone:
                alone[wait.run_id] = wait
            else:
                others.append(wait)
        ids = [wait.id for wait in alone.values()]
        for first in range(0, len(ids), TOGETHER):
            woken += await self._fire(ids[first : first + TOGETHER])
        # These take a lock each, and wait for it: those above need not.
        for wait in others:
            if (settled := await self._waits.expire(wait)) is not None and settled.wake:
                woken.append(Woken(wait.run_id, settled.wake_address))
        return woken

    async def _fire(self, ids: Sequence[str]) -> list[Woken]:
        async with self._db.transaction() as connection:
            now = clock.utcnow()
            found = await self._settling.locked(connection, ids)
            over = [
                wait for wait in found.values() if is_open(wait) and wait.deadline is not None and wait.deadline <= now
            ]
            await self._settling.settle(connection, [_answer(wait) for wait in over])
        wakes = [(wait.run_id, *to_wake(wait)) for wait in over]
        return [Woken(run_id, address) for run_id, wake, address in wakes if wake]


def _answer(wait: Row[Any]) -> Answer:
    outcome = Outcome.DEFAULTED if wait.has_default else Outcome.TIMED_OUT
    return Answer(wait, outcome, wait.default_answer, Door.DEADLINE)
