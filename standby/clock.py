"""The clock everything asks: UTC, aware, and replaceable in tests.

It can be set while things wait. Deadlines are times of this clock and hold, whatever it is set to; what is asked is
then whether they have passed. A span that something has lasted is another matter: a time that lies ahead of the clock
was written before it was set back, and nobody can tell how long ago, so it counts as long over.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

AHEAD = timedelta(minutes=1)
"""How far the clocks of two machines may be apart: a time that lies further ahead was written before the clock was set
back."""

_source: Callable[[], datetime] | None = None


def utcnow() -> datetime:
    """The time now: an aware datetime in UTC."""
    return _source() if _source is not None else datetime.now(UTC)


def plain(at: datetime) -> datetime:
    """The same time, of the class that databases take: Prefect's times are of another."""
    return datetime.fromtimestamp(at.timestamp(), UTC)


def elapsed() -> float:
    """Seconds since some moment, which go on whatever the clock is set to, and where the system can tell while the
    machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def set_source(source: Callable[[], datetime] | None) -> None:
    """Let ``source`` tell the time from here on; ``None`` restores the machine's clock. For tests."""
    global _source
    _source = source


def is_over(since: datetime, span: timedelta) -> bool:
    """Whether ``span`` has passed since then, or nobody can tell because the clock was set back since."""
    now = utcnow()
    return not now - span < since <= now + AHEAD


def require_aware(value: datetime, what: str) -> datetime:
    """Return ``value`` in UTC; refuse a naive datetime with a ``ValueError`` that names ``what``."""
    if value.tzinfo is None:
        raise ValueError(f"{what} has no time zone: {value.isoformat()}. Give an aware datetime, e.g. in UTC.")
    return value.astimezone(UTC)
