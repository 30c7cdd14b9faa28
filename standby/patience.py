"""Patience with runs that keep dying: each is tried again ever more slowly."""

from __future__ import annotations

from datetime import datetime, timedelta

from standby import clock

LONGEST = timedelta(minutes=1)
"""The longest pause between two tries."""


class Patience:
    def __init__(self) -> None:
        self._later: dict[str, tuple[datetime, timedelta]] = {}  # not before, delay

    def allows(self, run_id: str) -> bool:
        """Whether the run may be tried (again) now."""
        return run_id not in self._later or self._later[run_id][0] <= clock.utcnow()

    def tried(self, run_id: str) -> None:
        """The next try for this run comes later: after 2 seconds, then twice as long each time, up to a minute."""
        now = clock.utcnow()
        since, delay = self._later.get(run_id, (now, timedelta(seconds=1)))
        fresh = now - since > timedelta(minutes=5)
        delay = timedelta(seconds=2) if fresh else min(delay * 2, LONGEST)
        self._later[run_id] = (now + delay, delay)
        if len(self._later) > 10_000:
            self._later = {key: value for key, value in self._later.items() if value[0] > now}
