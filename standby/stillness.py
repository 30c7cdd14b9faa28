"""How long something has stood still, by a clock that nobody can set: what tells a dead process when the time of day
does not."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from time import monotonic

from standby import clock

NOTICED = 2.0
"""Seconds by which the clock has to differ from what was expected before that counts as set, and not as drift."""


class Stillness:
    def __init__(self) -> None:
        self._seen: dict[str, tuple[object, float]] = {}

    def seconds(self, name: str, value: object) -> float:
        """For how long ``value`` is known to have been the same."""
        now = monotonic()
        seen = self._seen.get(name)
        if seen is None or seen[0] != value:
            self._seen[name] = seen = (value, now)
        return now - seen[1]

    def keep(self, names: Collection[str]) -> None:
        """Forget all others."""
        self._seen = {name: seen for name, seen in self._seen.items() if name in names}


class ClockSteps:
    """Notices that the clock was set, from one look to the next."""

    def __init__(self) -> None:
        self._last: tuple[datetime, float] | None = None
        self._step = 0.0  # not told of yet
        # Nobody knows what was before the first look.
        self._forward_at = monotonic()

    def look(self) -> float:
        """By how many seconds the clock was set since the last look: 0 where it was not, negative where it was set
        back."""
        self._see()
        step, self._step = self._step, 0.0
        return step

    def may_have_gone_forward(self, within: timedelta) -> bool:
        """Whether the clock was set forward in that time, or may have been because nobody looked before."""
        self._see()
        return monotonic() - self._forward_at < within.total_seconds()

    def _see(self) -> None:
        now, steady = clock.utcnow(), monotonic()
        last, self._last = self._last, (now, steady)
        if last is None:
            return
        step = (now - last[0]).total_seconds() - (steady - last[1])
        if abs(step) >= NOTICED:
            self._step += step
            if step > 0:
                self._forward_at = steady
