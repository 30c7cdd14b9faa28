"""Firing deadlines: many at a time, for many may be due in the same second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Row

from standby import clock
from standby.ledger.database import Database
from standby.ledger.settling_many import Answer, SettlingMany, is_open
from standby.states import Door, Need, Outcome

TOGETHER = 250
"""Deadlines to fire in one transaction: few enough that nobody who writes meanwhile has to wait for long."""


class Woken(NamedTuple):
    """A run that has to be woken; ``address`` is where an attempt that paused in its process listens."""

    run_id: str
    address: str | None


class Fired(NamedTuple):
    """How many waits were settled, and the runs to wake."""

    settled: int
    woken: list[Woken]


class Deadlines:
    def __init__(self, database: Database) -> None:
        self._db = database
        self._settling = SettlingMany(database)

    async def fire(self, due: Sequence[Row[Any]]) -> Fired:
        """Settle waits whose deadline has passed, as ``Waits.expire`` does, in one transaction.

        A wait that somebody else is at just then is left alone, and still due if that did not settle it.
        """
        async with self._db.transaction() as connection:
            now = clock.utcnow()
            found = await self._settling.locked(connection, [wait.id for wait in due])
            over = [
                wait for wait in found.values() if is_open(wait) and wait.deadline is not None and wait.deadline <= now
            ]
            over = _first_of_each(sorted(over, key=lambda wait: wait.deadline))
            ready = await self._settling.settle(connection, [_answer(wait) for wait in over])
        addresses = {wait.run_id: wait.run_wake_address for wait in over}
        return Fired(len(over), [Woken(run, address) for run, address in addresses.items() if run in ready])


def _first_of_each(over: Sequence[Row[Any]]) -> list[Row[Any]]:
    """Without those of a group where one is enough that come after another one of it, which closes them."""
    chosen: dict[tuple[str, str], Row[Any]] = {}
    for wait in over:
        group = wait.group_key if wait.need == Need.ANY else wait.id
        chosen.setdefault((wait.run_id, group), wait)
    return list(chosen.values())


def _answer(wait: Row[Any]) -> Answer:
    outcome = Outcome.DEFAULTED if wait.has_default else Outcome.TIMED_OUT
    return Answer(wait, outcome, wait.default_answer, Door.DEADLINE)
