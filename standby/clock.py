"""The clock everything asks: UTC, aware, and replaceable in tests."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

_source: Callable[[], datetime] | None = None


def utcnow() -> datetime:
    """The time now: an aware datetime in UTC."""
    return _source() if _source is not None else datetime.now(UTC)


def set_source(source: Callable[[], datetime] | None) -> None:
    """Let ``source`` tell the time from here on; ``None`` restores the machine's clock. For tests."""
    global _source
    _source = source


def require_aware(value: datetime, what: str) -> datetime:
    """Return ``value`` in UTC; refuse a naive datetime with a ``ValueError`` that names ``what``."""
    if value.tzinfo is None:
        raise ValueError(f"{what} has no time zone: {value.isoformat()}. Give an aware datetime, e.g. in UTC.")
    return value.astimezone(UTC)
