"""The hold policy: how long a parked run lingers, who goes first, and what is expected of a wait."""

import math
import statistics
from datetime import timedelta
from itertools import pairwise, product
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import durations
from benchmarks import hold as benchmark
from standby import UsageError, settings
from standby.hold import Asked, Costs, Prices, Warm, chosen, evict, linger
from standby.outlook import Outlook, Past, first_of, known, last_of, learnt
from standby.states import Hold

seconds = st.floats(0.001, 1e7)
pasts = st.lists(st.builds(Past, seconds, st.booleans()), max_size=30)


def costs(break_even: float) -> Costs:
    return Costs(rent=1.0, cold=break_even)


def expected(outlook: Outlook, break_even: float, waited: float, limit: float) -> float:
    """What lingering for ``limit`` more is expected to cost, after ``waited``."""
    held = outlook.area(waited + limit) - outlook.area(waited)
    return (held + break_even * outlook.share(waited + limit)) / outlook.share(waited)


# With nothing known.


@given(seconds, seconds)
def test_without_history_it_lingers_for_the_break_even_time_and_never_costs_twice_what_it_had_to(
    break_even: float, wait: float
) -> None:
    limit = linger(learnt([], break_even), costs(break_even))
    assert limit == pytest.approx(break_even)
    paid = wait if wait <= limit else limit + break_even
    assert paid <= 2 * min(wait, break_even) * (1 + 1e-9)


def test_where_holding_is_free_it_lingers_for_ever_and_where_a_cold_wake_is_free_not_at_all() -> None:
    assert linger(learnt([], 1.0), Costs(rent=0.0, cold=1.0)) == math.inf
    assert linger(learnt([], 1.0), Costs(rent=1.0, cold=0.0)) == 0


# With a history.


@given(pasts, seconds, st.floats(0, 1e6), st.floats(0, 1e7))
def test_no_other_linger_is_expected_to_cost_less(
    history: list[Past], break_even: float, waited: float, other: float
) -> None:
    """Two-sided: the minimum over the knots is the minimum over all times."""
    outlook = learnt(history, break_even)
    limit = linger(outlook, costs(break_even), waited=waited)
    best = expected(outlook, break_even, waited, limit)
    assert best <= expected(outlook, break_even, waited, other) * (1 + 1e-6) + 1e-9


@given(pasts, seconds)
def test_an_outlook_is_a_share_of_waits_that_falls(history: list[Past], break_even: float) -> None:
    outlook = learnt(history, break_even)
    times = [0.0, *sorted(past.seconds for past in history), 1e8]
    shares = [outlook.share(time) for time in times]
    areas = [outlook.area(time) for time in times]
    assert shares[0] == 1
    assert all(0 < after <= before + 1e-12 for before, after in pairwise(shares))
    assert all(before <= after <= time for before, after, time in zip(areas, areas[1:], times[1:], strict=False))
    assert outlook.area(math.inf) >= areas[-1]
    assert outlook.remaining(0) == pytest.approx(outlook.area(math.inf))


@given(pasts, st.floats(0.1, 100), st.integers(-20, 20))
def test_only_the_ratio_to_the_break_even_time_matters(history: list[Past], break_even: float, power: int) -> None:
    scale = 2.0**power
    larger = [Past(past.seconds * scale, past.over) for past in history]
    limit = linger(learnt(history, break_even), costs(break_even))
    other = linger(learnt(larger, break_even * scale), costs(break_even * scale))
    assert other / scale == pytest.approx(limit, rel=1e-6)


@given(st.lists(seconds, min_size=1, max_size=30), seconds)
def test_it_never_lingers_much_longer_than_anything_took(waits: list[float], break_even: float) -> None:
    """So that what a wrong guess costs is bounded."""
    outlook = learnt([Past(wait) for wait in waits], break_even)
    widest = outlook.knots[-1][0] / max(64 * break_even, max(waits))
    assert widest < 20
    assert linger(outlook, costs(break_even)) <= 20 * max(break_even, max(waits))


def test_waits_that_are_soon_over_are_held_to_their_end_and_long_ones_not_at_all() -> None:
    soon = [Past(wait) for wait in (1.0, 2.0, 3.0, 2.0, 1.0)]
    assert 3 <= linger(learnt(soon, 60.0), costs(60.0)) <= 60
    long = [Past(wait * 3600) for wait in (1.0, 2.0, 3.0, 2.0, 1.0)]
    assert linger(learnt(long, 60.0), costs(60.0)) == 0


def test_of_two_kinds_of_waits_the_short_ones_are_held_and_the_long_ones_let_go() -> None:
    history = [Past(wait) for wait in (1.0, 9000.0, 2.0, 1.5, 8000.0, 3.0, 2.0, 9000.0)]
    assert 3 <= linger(learnt(history, 60.0), costs(60.0)) < 100


def test_a_wait_that_is_still_open_counts_for_as_long_as_it_has_lasted() -> None:
    """Taken for over, the open ones would make all waits look short; left out, too."""
    quick = [Past(10.0)] * 5
    assert linger(learnt(quick, 60.0), costs(60.0)) >= 10
    assert linger(learnt([Past(5000.0, over=False)] * 20 + quick, 60.0), costs(60.0)) == 0
    just_opened = [Past(0.01, over=False)] * 20
    assert linger(learnt(just_opened + quick, 60.0), costs(60.0)) >= 10


@given(seconds, seconds, st.floats(0, 1e7))
def test_a_wait_that_is_open_says_nothing_of_how_it_goes_on(lasted: float, break_even: float, on: float) -> None:
    """Alone it leaves the assumption as it is."""
    alone, nothing = learnt([Past(lasted, over=False)], break_even), learnt([], break_even)
    goes_on = alone.share(lasted + on) / alone.share(lasted)
    assert goes_on == pytest.approx(nothing.share(lasted + on) / nothing.share(lasted), rel=0.05)


def test_what_has_changed_is_followed() -> None:
    was, is_now = [Past(3600.0)] * 100, [Past(5.0)] * 60
    assert linger(learnt(was, 60.0), costs(60.0)) == 0
    assert linger(learnt(is_now + was, 60.0), costs(60.0)) >= 5


def test_one_long_wait_is_not_believed_as_many_are() -> None:
    assert linger(learnt([Past(1e6)], 60.0), costs(60.0)) < linger(learnt([], 60.0), costs(60.0))
    assert linger(learnt([Past(20.0)], 60.0), costs(60.0)) > 20


@pytest.mark.parametrize("distribution", durations.all_durations(), ids=lambda one: one.name)
def test_it_comes_near_the_best_linger_for_a_distribution(
    distribution: durations.Durations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On average within 1.10 after ten waits, and within 1.03 after fifty; nearer than the plain minimiser."""
    monkeypatch.setattr(benchmark, "DRAWS", 25)

    def beside_best(choose: benchmark.Chooser, count: int) -> float:
        cells = [ratio * distribution.median for ratio in benchmark.RATIOS]
        return statistics.mean(benchmark._learning(distribution, choose, count, b) / best[b] for b in cells)

    best = {b: distribution.best(b) for b in (ratio * distribution.median for ratio in benchmark.RATIOS)}
    assert 1 <= beside_best(benchmark.policy, 10) <= 1.10
    assert 1 <= beside_best(benchmark.policy, 50) <= 1.03
    assert beside_best(benchmark.policy, 10) < beside_best(benchmark.plain, 10)


@pytest.mark.parametrize("distribution", durations.all_durations(), ids=lambda one: one.name)
def test_the_benchmarks_distributions_cost_what_their_draws_cost(distribution: durations.Durations) -> None:
    drawn = distribution.several(Random(1), 20_000)
    for limit in (0.5, 1, 4):
        limit *= distribution.median
        paid = statistics.mean(wait if wait <= limit else limit + 3.0 for wait in drawn)
        assert paid == pytest.approx(distribution.cost(limit, 3.0), rel=0.03)


# A wait for a time, and several at once.


def test_a_wait_for_a_time_is_held_if_that_is_cheaper_than_waking_and_otherwise_not() -> None:
    assert 30 <= linger(known(30.0), costs(60.0)) <= 33
    assert linger(known(90.0), costs(60.0)) == 0
    assert 30 <= linger(known(90.0), costs(60.0), waited=60.0) <= 33, "not long now"


def test_a_wait_whose_time_is_over_and_that_is_not_is_held_for_the_break_even_time() -> None:
    assert linger(known(10.0), costs(60.0), waited=100.0) == 60


@given(pasts, st.floats(1, 1000))
def test_a_deadline_bounds_what_is_expected(history: list[Past], due: float) -> None:
    usual = learnt(history, 60.0)
    bounded = first_of([usual, known(due)])
    assert bounded.share(due / 2) == pytest.approx(usual.share(due / 2), rel=0.05)
    assert bounded.share(due + 3) == 0
    assert bounded.remaining(0) <= due + 2


@given(st.lists(seconds, min_size=1, max_size=5))
def test_the_first_of_several_comes_before_each_and_the_last_after(waits: list[float]) -> None:
    outlooks = [known(wait) for wait in waits]
    for time in waits:
        first, last = first_of(outlooks).share(time + 2), last_of(outlooks).share(time - 0.0005)
        assert first <= min(one.share(time + 2) for one in outlooks) + 1e-9
        assert last >= max(one.share(time - 0.0005) for one in outlooks) - 1e-9


# Who goes first when memory is short.


def test_who_is_expected_to_wait_longest_goes_first_and_no_more_than_needed() -> None:
    soon, late = learnt([Past(5.0)] * 20, 60.0), learnt([Past(5000.0)] * 20, 60.0)
    warm = [Warm("soon", soon, 1.0, 2.0), Warm("late", late, 3000.0, 2.0), Warm("later", late, 1.0, 2.0)]
    assert evict(warm, 1.0) == ["later"]
    assert evict(warm, 3.0) == ["later", "late"]
    assert evict(warm, 100.0) == ["later", "late", "soon"]
    assert evict(warm, 0.0) == []


def test_who_has_outlasted_the_quick_ones_is_expected_to_wait_on() -> None:
    either = learnt([Past(5.0), Past(5000.0)] * 10, 60.0)
    assert evict([Warm("young", either, 0.0, 1.0), Warm("old", either, 100.0, 1.0)], 1.0) == ["old"]


@pytest.mark.parametrize("break_even", [0.0, 60.0, math.inf])
def test_the_longest_wait_goes_first_also_where_holding_or_a_cold_wake_is_free(break_even: float) -> None:
    soon, late = (Warm(str(wait), learnt([Past(wait)] * 20, break_even), 1.0, 1.0) for wait in (5.0, 50_000.0))
    assert evict([soon, late], 0.5) == evict([late, soon], 0.5) == ["50000.0"]


# What it is told.


def test_what_a_run_costs_follows_from_the_prices() -> None:
    made = Costs.of(Prices(3600.0, 2.0, 5.0), gib=0.5, cold_seconds=3.0, cold_cpu_seconds=1.5)
    assert (made.rent, made.cold, made.break_even) == (0.5, 18.0, 36.0)


def test_prices_are_told_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.prices() == Prices(0.005, 0.00001, 0.001)
    monkeypatch.setenv("STANDBY_PRICE_GIB_HOUR", "1.5")
    assert settings.prices().gib_hour == 1.5
    for wrong in ("cheap", "-1", "nan", "inf", "1e-300", "1e300", "5e-324"):
        monkeypatch.setenv("STANDBY_PRICE_GIB_HOUR", wrong)
        with pytest.raises(UsageError, match=f"STANDBY_PRICE_GIB_HOUR is '{wrong}', and a price is a number"):
            settings.prices()


@pytest.mark.parametrize("prices", list(product((0.0, settings.LEAST_PRICE, 1.0, settings.HIGHEST_PRICE), repeat=3)))
def test_whatever_is_a_price_a_linger_follows_from_it(
    prices: tuple[float, float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, price in zip(settings.PRICES, prices, strict=True):
        monkeypatch.setenv(variable, str(price))
    at = Costs.of(settings.prices(), gib=settings.WARM_GIB, cold_seconds=0.15, cold_cpu_seconds=0.05)
    for history in ([], [Past(0.0)] * 3, [Past(0.001), Past(1e9, over=False)]):
        outlook = learnt(history, at.break_even)
        for waited in (0.0, 1.0, 1e9):
            assert 0 <= outlook.remaining(waited) < math.inf
            seconds = linger(outlook, at, waited=waited)
            assert seconds >= 0 if 0 < at.break_even < math.inf else seconds == at.break_even


@pytest.mark.parametrize("option", ["suspend", "pause", "warm", timedelta(minutes=5), timedelta(0)])
def test_how_a_run_is_held_is_kept_as_it_was_asked_for(option: Any) -> None:
    asked = Asked.of(option)
    assert Asked.read(asked.text) == asked
    assert Asked.read(None) is None
    expected = {"suspend": 0, "pause": 0, "warm": math.inf}.get(str(option))
    told = option.total_seconds() if isinstance(option, timedelta) else expected
    assert linger(learnt([Past(1e6)] * 9, 1.0), costs(1.0), asked=asked) == told


@pytest.mark.parametrize("option", ["hot", "", 5, timedelta(seconds=-1)])
def test_a_hold_there_is_not_is_refused(option: Any) -> None:
    with pytest.raises(UsageError, match="hold= is"):
        Asked.of(option)


def test_what_cannot_be_done_falls_back_to_what_can() -> None:
    warm, suspend, pause = Asked(Hold.WARM, 60.0), Asked(Hold.SUSPEND), Asked(Hold.PAUSE)
    table = [(asked, chosen(asked, deployed=True, hosted=True), chosen(asked, deployed=True, hosted=False),
              chosen(asked, deployed=False, hosted=False)) for asked in (None, warm, suspend, pause)]  # fmt: skip
    assert table == [
        (None, Hold.WARM, Hold.SUSPEND, Hold.PAUSE),
        (warm, Hold.WARM, Hold.SUSPEND, Hold.PAUSE),
        (suspend, Hold.SUSPEND, Hold.SUSPEND, Hold.SUSPEND),
        (pause, Hold.PAUSE, Hold.PAUSE, Hold.PAUSE),
    ]
