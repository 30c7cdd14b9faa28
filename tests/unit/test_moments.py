"""Points in time that a wait names."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from time import process_time
from typing import Any

import pytest

from standby import Approval, BusinessDays, Condition, Timer, UsageError, clock
from standby.moments import next_of, point_in_time
from standby.waits import Wait

FRIDAY = datetime(2026, 3, 27, 14, 30, tzinfo=UTC)
"""Two days before the clocks of Europe go forward."""


@pytest.fixture(autouse=True)
def _it_is_friday(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_source", lambda: FRIDAY)


@pytest.mark.parametrize(
    ("days", "due"),
    [
        (BusinessDays(1), datetime(2026, 3, 30, 14, 30, tzinfo=UTC)),
        (BusinessDays(5), datetime(2026, 4, 3, 14, 30, tzinfo=UTC)),
        (BusinessDays(6), datetime(2026, 4, 6, 14, 30, tzinfo=UTC)),
        (BusinessDays(5, holidays=frozenset({date(2026, 4, 3), date(2026, 4, 6)})),
         datetime(2026, 4, 7, 14, 30, tzinfo=UTC)),
        # 15:30 in Berlin on both sides of the change of clocks.
        (BusinessDays(1, tz="Europe/Berlin"), datetime(2026, 3, 30, 13, 30, tzinfo=UTC)),
        (BusinessDays(1, weekend=frozenset({4, 5})), datetime(2026, 3, 29, 14, 30, tzinfo=UTC)),
    ],
)  # fmt: skip
def test_working_days_skip_weekends_and_holidays(days: BusinessDays, due: datetime) -> None:
    assert days.after(FRIDAY) == due
    assert Approval("Pay?", within=days).row("approval").deadline == due


def test_from_a_weekend_the_first_working_day_counts() -> None:
    assert BusinessDays(1).after(datetime(2026, 3, 28, 9, tzinfo=UTC)) == datetime(2026, 3, 30, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "tz", "due"),
    [
        ("30 2 * * *", "Europe/Berlin", datetime(2026, 10, 26, 1, 30, tzinfo=UTC)),
        ("59 2 * * *", "Europe/Berlin", datetime(2026, 10, 26, 1, 59, tzinfo=UTC)),
        ("15,45 2 * * *", "Europe/Berlin", datetime(2026, 10, 26, 1, 15, tzinfo=UTC)),
        ("*/30 * * * *", "Europe/Berlin", datetime(2026, 10, 25, 1, 30, tzinfo=UTC)),
        ("0 9 * * *", "Europe/Berlin", datetime(2026, 10, 25, 8, tzinfo=UTC)),
    ],
)
def test_a_time_in_an_hour_that_is_there_twice_is_named_once(
    monkeypatch: pytest.MonkeyPatch, expression: str, tz: str, due: datetime
) -> None:
    """At 2:10 for the second time, what was named at the first is over."""
    monkeypatch.setattr(clock, "_source", lambda: datetime(2026, 10, 25, 1, 10, tzinfo=UTC))
    assert next_of(expression, tz=tz) == due


def test_the_next_time_is_never_over(monkeypatch: pytest.MonkeyPatch) -> None:
    for expression in ("30 2 * * *", "15,45 2 * * *", "*/10 2 * * *", "30 2 * * SUN"):
        for minute in range(0, 6 * 60, 7):
            now = datetime(2026, 10, 24, 22, tzinfo=UTC) + timedelta(minutes=minute)
            monkeypatch.setattr(clock, "_source", lambda now=now: now)
            assert next_of(expression, tz="Europe/Berlin") > now


@pytest.mark.parametrize(
    ("timer", "due", "reason"),
    [
        (Timer(timedelta(hours=1)), FRIDAY + timedelta(hours=1), "for 1:00:00"),
        (Timer(date(2026, 4, 1)), datetime(2026, 4, 1, tzinfo=UTC), "until 2026-04-01 (UTC)"),
        (Timer(date(2026, 4, 1), tz="Europe/Berlin"), datetime(2026, 3, 31, 22, tzinfo=UTC),
         "until 2026-04-01 (Europe/Berlin)"),
        (Timer(BusinessDays(1)), datetime(2026, 3, 30, 14, 30, tzinfo=UTC), "for 1 working day"),
        (Timer("0 9 * * MON"), datetime(2026, 3, 30, 9, tzinfo=UTC), "until 0 9 * * MON (UTC)"),
        (Timer("0 9 * * MON", tz="Europe/Berlin"), datetime(2026, 3, 30, 7, tzinfo=UTC),
         "until 0 9 * * MON (Europe/Berlin)"),
        (Timer("30 14 * * *"), datetime(2026, 3, 28, 14, 30, tzinfo=UTC), "until 30 14 * * * (UTC)"),
    ],
)  # fmt: skip
def test_a_timer_is_due_at_a_point_in_time(timer: Timer, due: datetime, reason: str) -> None:
    row = timer.row("timer")
    assert (row.deadline, row.reason) == (due, reason)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Timer("soon"), "not a cron expression"),
        (lambda: Timer("0 0 31 2 *"), "cron"),
        (lambda: Timer(date(2026, 4, 1), tz="Berlin"), "no time zone 'Berlin'"),
        (lambda: Timer("0 9 * * *", tz="../etc"), "no time zone"),
        (lambda: BusinessDays(0), "counts from 1"),
        (lambda: BusinessDays(1, tz="Mars"), "no time zone"),
        (lambda: BusinessDays(1, weekend=frozenset(range(7))), "never ends"),
    ],
)
def test_what_names_no_time_is_refused_where_it_is_written(make: object, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make()  # type: ignore[operator]


FAR = timezone(timedelta(hours=-12))


async def source() -> None:
    """Never polled."""


@pytest.mark.parametrize(
    ("wait", "named"),
    [
        (lambda: Timer(timedelta.max), "999999999 days"),
        (lambda: Timer(-timedelta(days=1_000_000)), "-1000000 days"),
        (lambda: Approval("Pay?", within=timedelta(days=3_650_000)), "3650000 days"),
        (lambda: Approval("Pay?", by=datetime.max.replace(tzinfo=FAR)), "9999-12-31"),
        (lambda: Approval("Pay?", within=BusinessDays(10**7)), "10000000"),
        (lambda: Approval("Pay?", within=BusinessDays(10**15)), "1000000000000000"),
        (lambda: Timer(date.min, tz="Asia/Tokyo"), "0001-01-01"),
    ],
)
def test_a_time_that_no_calendar_has_is_refused_in_a_sentence(wait: Callable[[], Wait[Any]], named: str) -> None:
    with pytest.raises(UsageError, match=f"A wait's deadline is out of reach .*{named}.*Give one within them"):
        wait().row("wait")


def test_a_poll_that_never_comes_is_refused() -> None:
    with pytest.raises(UsageError, match="at_most= is 999999999 days"):
        Condition("paid", poll=source, at_most=timedelta.max)


@pytest.mark.parametrize("days", [1.5, 2.0, "2", None])
def test_working_days_are_whole(days: Any) -> None:
    with pytest.raises(UsageError, match="counts whole days"):
        BusinessDays(days)


@pytest.mark.parametrize("weekend", [{5, 6}, {4}, {0, 1, 2, 4, 5, 6}, set(), {2, 9}])
def test_working_days_are_counted_as_on_a_calendar(weekend: set[int]) -> None:
    """Week by week, and to the same day as day by day."""
    holidays = frozenset(FRIDAY.date() + timedelta(days=number * number) for number in range(40))
    for start in range(7):
        now = day = FRIDAY + timedelta(days=start)
        for days in range(1, 200):
            day += timedelta(days=1)
            while day.weekday() in weekend or day.date() in holidays:
                day += timedelta(days=1)
            assert BusinessDays(days, holidays=holidays, weekend=frozenset(weekend)).after(now) == day


def test_thousands_of_years_of_working_days_are_counted_at_once() -> None:
    holidays = frozenset(FRIDAY.date() + timedelta(days=365 * number) for number in range(1000))
    began = process_time()
    for days in range(2_000_000, 2_000_100):
        BusinessDays(days, holidays=holidays).after(FRIDAY)
    assert process_time() - began < 5


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        point_in_time(datetime(2026, 4, 1))  # noqa: DTZ001
    assert next_of("0 0 29 2 *") == datetime(2028, 2, 29, tzinfo=UTC)
