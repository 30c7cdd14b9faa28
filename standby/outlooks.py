"""What is expected of the waits that runs are parked on, learnt from the ledger and kept for a while."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from time import monotonic
from typing import Any, NamedTuple

from standby import clock
from standby.ledger import Ledger
from standby.outlook import Outlook, first_of, known, last_of, learnt
from standby.states import Need, WaitKind, WaitState

LEARN_EVERY = timedelta(seconds=30)
"""How old what was learnt of an agent's kind of wait may be."""


class Expected(NamedTuple):
    """What is expected of a group of waits from when it was opened, and how many seconds ago that was."""

    outlook: Outlook
    waited: float


class _Learnt(NamedTuple):
    at: float
    usual: Outlook
    by_due: dict[int, Outlook]  # with a deadline so many seconds after the opening


class Outlooks:
    """For one process that holds runs. ``break_even``: of its costs (``hold.Costs``), in seconds."""

    def __init__(self, ledger: Ledger, break_even: float) -> None:
        self._ledger = ledger
        self._break_even = break_even
        self._learnt: dict[tuple[str, str], _Learnt] = {}

    async def of(self, agent: str, group: Sequence[Any]) -> Expected:
        """Of a group of waits (their rows in the ledger) that an agent's run is parked on: until it wakes."""
        opened = [wait for wait in group if wait.state == WaitState.OPEN]
        if not opened:
            return Expected(known(0.0), 0.0)
        outlooks = [await self._of_one(agent, wait) for wait in opened]
        together = last_of(outlooks) if opened[0].need == Need.ALL else first_of(outlooks)
        return Expected(together, max(0.0, (clock.utcnow() - opened[0].opened_at).total_seconds()))

    async def _of_one(self, agent: str, wait: Any) -> Outlook:
        due = None if wait.deadline is None else (wait.deadline - wait.opened_at).total_seconds()
        if wait.kind == WaitKind.TIMER and due is not None:
            return known(due)
        found = self._learnt.get((agent, wait.kind))
        if found is None or monotonic() - found.at > LEARN_EVERY.total_seconds():
            usual = learnt(await self._ledger.holds.history(agent, wait.kind), self._break_even)
            found = self._learnt[agent, wait.kind] = _Learnt(monotonic(), usual, {})
        if due is None:
            return found.usual
        # Waits of one kind are mostly given the same time, to within what it takes to open them.
        seconds = math.ceil(due)
        if seconds not in found.by_due:
            found.by_due[seconds] = first_of([found.usual, known(seconds)])
        return found.by_due[seconds]
