"""Waits for a time."""

from __future__ import annotations

from datetime import date, datetime, timedelta

from standby.moments import BusinessDays, Moment, next_of, point_in_time, zone
from standby.states import WaitKind
from standby.values import Codec
from standby.waits.base import Wait


class Timer(Wait[None]):
    """Wait for a time.

    ``until``: a timedelta or ``BusinessDays`` from now, an aware datetime, a date (its beginning in ``tz``), or a cron
    expression of five fields (the next time in ``tz`` that it names, seen from when the wait opens). ``tz``: an IANA
    name ("UTC").
    """

    def __init__(self, until: Moment | str, *, tz: str = "UTC") -> None:
        zone(tz)
        in_tz = f" ({tz})" if isinstance(until, str) or type(until) is date else ""
        text = until.isoformat(timespec="seconds") if isinstance(until, datetime) else str(until)
        if isinstance(until, BusinessDays):
            text = f"{until.days} working day{'' if until.days == 1 else 's'}"
        verb = "for" if isinstance(until, BusinessDays | timedelta) else "until"
        deadline = None if isinstance(until, str) else until
        super().__init__(f"{verb} {text}{in_tz}", "timer", Codec(lambda: None), None, deadline, None)
        if isinstance(until, str):
            next_of(until, tz=tz)  # one that is wrong is refused where it is written
        object.__setattr__(self, "tz", tz)
        object.__setattr__(self, "cron", until if isinstance(until, str) else None)

    tz: str
    cron: str | None

    def due(self) -> datetime | None:
        if self.cron is not None:
            return next_of(self.cron, tz=self.tz)
        assert self.deadline is not None
        return point_in_time(self.deadline, tz=self.tz)

    def kind(self) -> WaitKind:
        return WaitKind.TIMER
