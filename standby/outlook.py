"""How long a wait may yet last: what is expected of it from how long others like it took. Pure; times are seconds.

An ``Outlook`` is a survival curve: the share of waits that last longer than a time. It is learnt from the past waits of
the same agent and kind, newest first, and shrunk towards what is assumed where nothing is known. That assumption is the
curve whose cheapest linger is exactly the break-even one: ``(1 + t / b) ** -2`` (a Lomax distribution), where ``b`` is
the time after which holding has cost as much as a cold wake.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from statistics import NormalDist
from typing import NamedTuple

ASSUMED_WEIGHT = 1.0
"""How many waits' worth of evidence the assumption is."""

ASSUMED_SECONDS = 3600.0
"""The assumption's ``b`` where holding or a cold wake is free: the outlook then only says who goes first."""

SPREAD = 0.7
"""How far waits like one that was seen may be from it, after ten: the standard deviation of the logarithm."""

HALF_LIFE = 25.0
"""After how many later waits one counts half: what was usual may have changed."""

NOTICED = 2.0
"""How late a deadline may be noticed, in seconds."""


class Past(NamedTuple):
    """A wait of before: how many seconds it lasted, or, where it is not ``over`` (still open, or closed without an
    answer), how long at least."""

    seconds: float
    over: bool = True


class Outlook:
    """A survival curve: straight lines between ``knots``, (seconds, share that lasts longer), the first at 0.

    Two knots at one time are a jump. Behind the last knot the curve falls like ``(1 + t / tail) ** -2``.
    """

    def __init__(self, knots: Sequence[tuple[float, float]], tail: float) -> None:
        self.knots = knots
        self.tail = tail
        self._times = [time for time, _ in knots]
        self._cheapest: dict[float, list[float]] = {}
        # The integral of the curve from 0 to each knot.
        self._areas = [0.0]
        for (before, high), (time, low) in pairwise(knots):
            self._areas.append(self._areas[-1] + (time - before) * (high + low) / 2)

    def share(self, seconds: float) -> float:
        """The share of such waits that last longer than this."""
        at = bisect_right(self._times, seconds) - 1
        before, high = self.knots[at]
        if at == len(self.knots) - 1:
            return high * (1 + (seconds - before) / self.tail) ** -2
        time, low = self.knots[at + 1]
        return high + (low - high) * (seconds - before) / (time - before)

    def share_before(self, seconds: float) -> float:
        """The share that lasts at least this long: another than ``share`` where the curve jumps."""
        at = bisect_left(self._times, seconds)
        return self.knots[at][1] if at < len(self.knots) and self._times[at] == seconds else self.share(seconds)

    def area(self, seconds: float) -> float:
        """What such a wait is expected to take of the first ``seconds``: E[min(W, seconds)]."""
        at = bisect_right(self._times, seconds) - 1
        before, high = self.knots[at]
        if at == len(self.knots) - 1:
            if math.isinf(seconds):
                return self._areas[at] + high * self.tail
            return self._areas[at] + high * self.tail * (1 - 1 / (1 + (seconds - before) / self.tail))
        return self._areas[at] + (seconds - before) * (high + self.share(seconds)) / 2

    def cheapest_after(self, seconds: float, break_even: float) -> float | None:
        """The knot behind ``seconds`` until which holding is expected to cost least; None behind the last.

        Between knots the cost is concave, so that the least is at one of them, or in the tail.
        """
        least = self._cheapest.get(break_even)
        if least is None:
            # From behind: the cheapest of this knot and all later ones. Many runs ask the same outlook.
            least, best = [0.0] * len(self.knots), math.inf
            for at in range(len(self.knots) - 1, -1, -1):
                cost = self._areas[at] + break_even * self.knots[at][1]
                if cost <= best:
                    best, until = cost, self._times[at]
                least[at] = until
            self._cheapest[break_even] = least
        at = bisect_right(self._times, seconds)
        return least[at] if at < len(least) else None

    def remaining(self, waited: float) -> float:
        """How long a wait that has lasted this long is expected to last from now (its mean residual life)."""
        share = self.share(waited)
        return (self.area(math.inf) - self.area(waited)) / share if share > 0 else 0.0


def learnt(history: Iterable[Past], break_even: float) -> Outlook:
    """What is expected of a wait after these past ones, newest first. ``break_even`` in seconds, of any costs.

    The estimator of Susarla and Van Ryzin (1976): the share seen, one more wait speaking for the assumption, and one
    that is not over counted for as long as it has lasted and taken to go on like the rest. Later waits weigh more. Each
    wait that is over stands for a spread of similar ones, the wider the fewer there are: few do not say too much.
    """
    if not 0 < break_even < math.inf:
        break_even = ASSUMED_SECONDS
    past = list(history)
    weights = [0.5 ** (later / HALF_LIFE) for later in range(len(past))]
    weight = sum(weights)
    points = [(factor * break_even, 0.0, False) for factor in _ASSUMED_AT]
    if past:
        count = weight**2 / sum(one**2 for one in weights)
        factors = _spread(SPREAD * (10 / count) ** 0.3, copies=round(max(4, min(16, 400 / count))))
        for (seconds, over), one in zip(past, weights, strict=True):
            if over:
                points += [(seconds * factor, one / len(factors), True) for factor in factors]
            else:
                points.append((seconds, one, False))
    points.sort(key=lambda point: point[0])
    lasting, gone_on = weight, 1 / (weight + ASSUMED_WEIGHT)
    knots = [(0.0, 1.0)]
    for seconds, one, over in points:
        assumed = ASSUMED_WEIGHT * (1 + seconds / break_even) ** -2
        after = max(0.0, lasting - one)
        if over:
            knots.append((seconds, gone_on * (assumed + (lasting + after) / 2)))
        else:
            knots.append((seconds, gone_on * (assumed + lasting)))
            gone_on *= (assumed + lasting) / (assumed + after)
        lasting = after
    # Nobody is seen behind the last knot: there the assumption goes on, from where it is.
    return Outlook(knots, break_even + knots[-1][0])


_ASSUMED_AT = tuple(2.0 ** (power / 4) for power in range(-16, 25))
"""Where the assumed curve has its knots, in break-even times."""


@lru_cache(maxsize=256)
def _spread(width: float, copies: int) -> list[float]:
    """Factors that make similar waits of one: equally likely, log-normal with this standard deviation."""
    normal = NormalDist()
    steps = [normal.inv_cdf((copy + 0.5) / copies) for copy in range(copies)]
    scale = width / math.sqrt(sum(step**2 for step in steps) / copies)
    return [math.exp(scale * step) for step in steps]


def known(seconds: float) -> Outlook:
    """A wait for a time that is this far away, and is noticed within ``NOTICED``."""
    seconds = max(0.0, seconds)
    return Outlook([(0.0, 1.0), (seconds, 1.0), (seconds + NOTICED, 0.0)], NOTICED)


def first_of(outlooks: Sequence[Outlook]) -> Outlook:
    """What is expected until the first of several waits is over (``wait_any``), if they know nothing of each other."""
    return _together(outlooks, math.prod, min)


def last_of(outlooks: Sequence[Outlook]) -> Outlook:
    """What is expected until the last of several waits is over (``wait_all``), if they know nothing of each other."""
    return _together(outlooks, lambda shares: 1 - math.prod(1 - share for share in shares), max)


def _together(
    outlooks: Sequence[Outlook], of: Callable[[list[float]], float], tail: Callable[[Iterable[float]], float]
) -> Outlook:
    if len(outlooks) == 1:
        return outlooks[0]
    times = sorted({time for outlook in outlooks for time, _ in outlook.knots})
    knots = []
    for time in times:
        knots.append((time, of([outlook.share_before(time) for outlook in outlooks])))
        knots.append((time, of([outlook.share(time) for outlook in outlooks])))
    return Outlook(knots[1:], tail(outlook.tail for outlook in outlooks))
