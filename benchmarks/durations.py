"""How long waits take: distributions whose costs are known exactly, and a recorded history.

``recorded_waits.txt`` has how long 1,172 patches to Git, sent by others in 2024, waited for its maintainer to apply
them, in seconds, in the order in which they were sent: from the dates of author and committer in git.git, one for each
time he applied some. His changes to them, which renew the second date, count as waiting.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate
from pathlib import Path
from random import Random
from statistics import NormalDist

_normal = NormalDist()
RECORDED = "recorded"


@dataclass(frozen=True)
class Durations:
    """A distribution of waits, in any unit.

    ``several(dice, n)``: n waits as they come, newest last. ``share(t)``: of those that last longer than t.
    ``area(t)``: E[min(W, t)].
    """

    name: str
    several: Callable[[Random, int], list[float]]
    share: Callable[[float], float]
    area: Callable[[float], float]
    points: tuple[float, ...] = ()  # where the best linger may be, beside anywhere

    def cost(self, linger: float, break_even: float) -> float:
        """What a wait costs, in seconds of rent, when it is held for ``linger`` at most."""
        return self.area(linger) + break_even * self.share(linger)

    def clairvoyant(self, break_even: float) -> float:
        """What it costs who knows how long it takes."""
        return self.area(break_even)

    def best(self, break_even: float) -> float:
        """What the best linger for the distribution costs."""
        anywhere = (self.median * 10 ** (power / 100) for power in range(-400, 501))
        return min(self.cost(linger, break_even) for linger in (0.0, *anywhere, *self.points, math.inf))

    @cached_property
    def median(self) -> float:
        low, high = 1e-9, 1e9
        while high / low > 1 + 1e-9:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self.share(middle) > 0.5 else (low, middle)
        return low


def _each(draw: Callable[[Random], float]) -> Callable[[Random, int], list[float]]:
    return lambda dice, n: [draw(dice) for _ in range(n)]


def _exponential() -> Durations:
    return Durations(
        "exponential",
        _each(lambda dice: dice.expovariate(1.0)),
        lambda t: math.exp(-t),
        lambda t: 1 - math.exp(-t),
    )


def _log_normal_share(t: float, median: float, sigma: float) -> float:
    return 1.0 if t <= 0 else 0.0 if math.isinf(t) else 1 - _normal.cdf(math.log(t / median) / sigma)


def _log_normal_area(t: float, median: float, sigma: float) -> float:
    mean = median * math.exp(sigma**2 / 2)
    if t <= 0 or math.isinf(t):
        return 0.0 if t <= 0 else mean
    within = _normal.cdf(math.log(t / median) / sigma - sigma)
    return mean * within + t * _log_normal_share(t, median, sigma)


def _lognormal() -> Durations:
    return Durations(
        "lognormal",
        _each(lambda dice: dice.lognormvariate(0, 1.5)),
        lambda t: _log_normal_share(t, 1, 1.5),
        lambda t: _log_normal_area(t, 1, 1.5),
    )


def _bimodal() -> Durations:
    """Seven in ten are answered at once, the others a hundred times later."""
    modes = ((0.7, 1.0), (0.3, 100.0))

    def draw(dice: Random) -> float:
        return dice.lognormvariate(math.log(1.0 if dice.random() < 0.7 else 100.0), 0.5)

    return Durations(
        "bimodal",
        _each(draw),
        lambda t: sum(part * _log_normal_share(t, median, 0.5) for part, median in modes),
        lambda t: sum(part * _log_normal_area(t, median, 0.5) for part, median in modes),
    )


def _pareto() -> Durations:
    return Durations(
        "Pareto",
        _each(lambda dice: dice.paretovariate(1.5)),
        lambda t: 1.0 if t < 1 else t**-1.5,
        lambda t: t if t < 1 else 1 + 2 * (1 - t**-0.5),
        points=(1.0,),
    )


def _uniform() -> Durations:
    return Durations(
        "uniform",
        _each(lambda dice: 2 * dice.random()),
        lambda t: max(0.0, 1 - t / 2),
        lambda t: 1.0 if t > 2 else t - t**2 / 4,
        points=(2.0,),
    )


@cache
def recorded_waits() -> list[float]:
    return [float(word) for word in Path(__file__).with_name("recorded_waits.txt").read_text().split()]


def _recorded() -> Durations:
    """The history as a distribution, whatever its order."""
    waits = recorded_waits()
    ordered = sorted(waits)
    sums = [0.0, *accumulate(ordered)]
    n = len(waits)

    def share(t: float) -> float:
        return 1 - bisect_right(ordered, t) / n

    def area(t: float) -> float:
        shorter = bisect_right(ordered, t)
        return (sums[shorter] + (t * (n - shorter) if shorter < n else 0.0)) / n

    return Durations(RECORDED, _each(lambda dice: dice.choice(waits)), share, area, points=tuple(ordered))


def neighbours(dice: Random, count: int) -> list[float]:
    """So many of the recorded waits as they followed each other. They are more like each other than like the rest."""
    waits = recorded_waits()
    at = dice.randrange(len(waits) - count)
    return waits[at : at + count]


def all_durations() -> list[Durations]:
    return [_exponential(), _lognormal(), _bimodal(), _pareto(), _uniform(), _recorded()]
