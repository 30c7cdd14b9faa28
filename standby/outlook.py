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
from itertools import pairwise
from typing import NamedTuple

ASSUMED_WEIGHT = 1.0
"""How many waits' worth of evidence the assumption is."""

HALF_LIFE = 50.0
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

    def remaining(self, waited: float) -> float:
        """How long a wait that has lasted this long is expected to last from now (its mean residual life)."""
        share = self.share(waited)
        return (self.area(math.inf) - self.area(waited)) / share if share > 0 else 0.0


def learnt(history: Iterable[Past], break_even: float) -> Outlook:
    """What is expected of a wait after these past ones, newest first. ``break_even`` in seconds, above zero."""
    weighted = [(past, 0.5 ** (age / HALF_LIFE)) for age, past in enumerate(history)]
    # Kaplan-Meier: those that are not over leave the count without having ended.
    weighted.sort(key=lambda one: (one[0].seconds, not one[0].over))
    at_risk = sum(weight for _, weight in weighted)
    evidence = at_risk / (at_risk + ASSUMED_WEIGHT)
    knots = [(0.0, 1.0)]
    curve = 1.0
    for past, weight in weighted:
        assumed = (1 - evidence) * (1 + past.seconds / break_even) ** -2
        knots.append((past.seconds, evidence * curve + assumed))
        if past.over:
            curve *= 1 - weight / at_risk if at_risk > weight * (1 + 1e-9) else 0.0
            knots.append((past.seconds, evidence * curve + assumed))
        at_risk -= weight
    return Outlook(knots, break_even + knots[-1][0])


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
