"""Points in time that a wait can name: a span from now, a date, working days, the next time of a cron expression."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from standby import clock
from standby.errors import UsageError

SATURDAY, SUNDAY = 5, 6


@dataclass(frozen=True)
class BusinessDays:
    """So many working days from now, at the same time of day.

    ``days``: whole, at least 1. ``tz``: where the days begin and end, an IANA name ("UTC"). ``holidays``: days that do
    not count; ``weekend``: weekdays that do not, Monday is 0 (Saturday and Sunday). A day in which something opens
    counts from the next one: what opens on Friday with one day is due on Monday.
    """

    days: int
    tz: str = "UTC"
    holidays: frozenset[date] = frozenset()
    weekend: frozenset[int] = frozenset({SATURDAY, SUNDAY})

    def __post_init__(self) -> None:
        if not isinstance(self.days, int):
            raise UsageError(f"BusinessDays counts whole days, not {self.days!r}. Round it.")
        if self.days < 1:
            raise UsageError(f"BusinessDays counts from 1, not {self.days}.")
        if self.weekend >= set(range(7)):
            raise UsageError("BusinessDays with a weekend of seven days never ends.")
        zone(self.tz)

    def after(self, now: datetime) -> datetime:
        local = now.astimezone(zone(self.tz))
        day, left = local.date(), self.days
        per_week = len(set(range(7)) - self.weekend)
        holidays = sorted(day for day in self.holidays if day.weekday() not in self.weekend)
        while left:
            # Whole weeks at once: centuries are not counted day by day while an event loop waits.
            if weeks := (left - 1) // per_week:
                end = day + timedelta(weeks=weeks)
                left -= weeks * per_week - (bisect_right(holidays, end) - bisect_right(holidays, day))
                day = end
                continue
            day += timedelta(days=1)
            if day.weekday() not in self.weekend and day not in self.holidays:
                left -= 1
        return datetime.combine(day, local.time(), tzinfo=local.tzinfo).astimezone(UTC)


Moment = timedelta | datetime | date | BusinessDays


def point_in_time(moment: Moment, *, tz: str = "UTC", what: str = "A wait's deadline") -> datetime:
    """The moment as an aware datetime in UTC. A date is its beginning in ``tz``.

    Raises ``ValueError`` when naive, and ``UsageError`` for one that no calendar has here.
    """
    try:
        if isinstance(moment, BusinessDays):
            return moment.after(clock.utcnow())
        if isinstance(moment, timedelta):
            return clock.utcnow() + moment
        if isinstance(moment, datetime):
            return clock.require_aware(moment, what)
        return datetime.combine(moment, time(), tzinfo=zone(tz)).astimezone(UTC)
    except OverflowError as error:
        raise UsageError(
            f"{what} is out of reach ({moment}): times are kept in UTC, from the year 1 to 9999. Give one within them, "
            "or none where it shall never come."
        ) from error


def next_of(expression: str, *, tz: str = "UTC") -> datetime:
    """The next time after now that a cron expression (five fields) names, in UTC. Raises ``UsageError``."""
    now = clock.utcnow()
    try:
        # An hour that the clocks go back by is there twice, and a time in it is named once: the first time.
        for local in CronSim(expression, now.astimezone(zone(tz))):
            if (then := local.astimezone(UTC)) > now:
                return then
    except CronSimError as error:
        raise UsageError(f"{expression!r} is not a cron expression: {error}. Example: '0 9 * * MON'.") from error
    raise UsageError(f"The cron expression {expression!r} names no time that ever comes.")


def zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UsageError(f"There is no time zone {name!r}. Give an IANA name, such as Europe/Berlin.") from error
