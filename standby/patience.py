"""Patience with runs that keep dying: each is tried again ever more slowly."""

from __future__ import annotations

from time import monotonic

LONGEST = 60.0
"""The longest pause between two tries, in seconds."""

FORGOTTEN = 300.0
"""Seconds after which a run is tried like one that was never tried."""


class Patience:
    def __init__(self) -> None:
        self._later: dict[str, tuple[float, float]] = {}  # not before, delay

    def allows(self, run_id: str) -> bool:
        """Whether the run may be tried (again) now."""
        return run_id not in self._later or self._later[run_id][0] <= monotonic()

    def tried(self, run_id: str) -> None:
        """The next try for this run comes later: after 2 seconds, then twice as long each time, up to a minute."""
        now = monotonic()
        since, delay = self._later.get(run_id, (now, 1.0))
        fresh = now - since > FORGOTTEN
        delay = 2.0 if fresh else min(delay * 2, LONGEST)
        self._later[run_id] = (now + delay, delay)
        if len(self._later) > 10_000:
            self._later = {key: value for key, value in self._later.items() if value[0] > now}
