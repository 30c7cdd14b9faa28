"""The hold policy: how long a parked run lingers in memory, and which goes first when memory is short. Pure, no I/O.

It is a ski rental: holding a run costs rent for each second, letting it go costs one cold wake. With nothing known the
cheapest sure thing is to hold for the break-even time ``cold / rent``: it never costs more than twice what somebody
would have paid who knew how long the wait takes (Karlin, Manasse, Rudolph, Sleator 1988). With past waits to learn from
it is the ``t`` that minimises ``rent * E[min(W, t)] + cold * P(W > t)`` (Karlin, Manasse, McGeoch, Owicki 1994).

For who holds runs::

    costs = hold.Costs.of(settings.prices(), gib=..., cold_seconds=..., cold_cpu_seconds=...)
    chosen = hold.chosen(Asked.read(wait.hold), deployed=True, hosted=True)      # SUSPEND, PAUSE or WARM
    seconds = hold.linger(outlook, costs, waited=seconds_since_opened, asked=asked)  # 0 suspends now, inf never
    ids = hold.evict([hold.Warm(run_id, outlook, waited, gib), ...], gib=to_be_freed)

where ``outlook`` (``standby.outlook``) is what is expected of the wait or group that the run is parked on. It is learnt
from the ledger and kept for a while: ``outlook, waited = await outlooks.of(flow, group.waits)`` with
``outlooks = outlooks.Outlooks(ledger, costs.break_even)``. When a run has been held, woken or let go, that is written
down: ``await ledger.holds.bill(run_id, group_key, gib_seconds, let_go=...)``. Times are seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from standby.errors import UsageError
from standby.outlook import Outlook
from standby.states import Hold


@dataclass(frozen=True, slots=True)
class Prices:
    """What is paid, in one currency: for a GiB of memory held for an hour, for a second of a CPU, and for a second that
    somebody waits for a woken run."""

    gib_hour: float
    cpu_second: float
    waiting_second: float


@dataclass(frozen=True, slots=True)
class Costs:
    """What holding one run costs each second (``rent``) and what a cold wake costs more than a warm one (``cold``)."""

    rent: float
    cold: float

    @classmethod
    def of(cls, prices: Prices, *, gib: float, cold_seconds: float, cold_cpu_seconds: float) -> Costs:
        """Of a run that holds ``gib`` of memory and whose cold wake takes this much longer, and this much CPU."""
        return cls(
            rent=gib * prices.gib_hour / 3600,
            cold=cold_cpu_seconds * prices.cpu_second + cold_seconds * prices.waiting_second,
        )

    @property
    def break_even(self) -> float:
        """After how many seconds holding has cost as much as a cold wake."""
        return self.cold / self.rent if self.rent > 0 else math.inf


class Asked(NamedTuple):
    """How somebody wants a run held: ``hold``, and for ``warm`` how many seconds at most."""

    hold: Hold
    seconds: float = math.inf

    @classmethod
    def of(cls, option: str | timedelta) -> Asked:
        """The option ``hold=``: ``"suspend"``, ``"pause"``, ``"warm"``, or how long it may stay warm."""
        if isinstance(option, timedelta):
            if option < timedelta(0):
                raise UsageError(f"hold= is how long a run stays warm: not {option}, which is below zero.")
            return cls(Hold.WARM, option.total_seconds())
        if option not in tuple(Hold):
            raise UsageError(f'hold= is "suspend", "pause", "warm" or a timedelta, not {option!r}.')
        return cls(Hold(option))

    @classmethod
    def read(cls, text: str | None) -> Asked | None:
        """As the ledger keeps it."""
        if text is None:
            return None
        return cls(Hold(text)) if text in tuple(Hold) else cls(Hold.WARM, float(text))

    @property
    def text(self) -> str:
        """For the ledger: a hold, or seconds."""
        return str(self.hold) if math.isinf(self.seconds) else repr(self.seconds)


def chosen(asked: Asked | None, *, deployed: bool, hosted: bool) -> Hold:
    """How a run is held: as asked where that can be done. Warm needs a host; without one it is suspended, or paused if
    it has no deployment that could wake it."""
    if asked is not None and asked.hold is not Hold.WARM:
        return asked.hold
    if not deployed:
        return Hold.PAUSE
    return Hold.WARM if hosted else Hold.SUSPEND


def linger(outlook: Outlook, costs: Costs, *, waited: float = 0.0, asked: Asked | None = None) -> float:
    """For how many seconds from now the run stays warm, its wait having lasted ``waited`` so far.

    0: let it go now. ``inf``: never. What was ``asked`` for is taken as it is; else it is the cheapest expected.
    """
    if asked is not None:
        return asked.seconds if asked.hold is Hold.WARM else 0.0
    enough = costs.break_even
    if math.isinf(enough) or enough <= 0:
        return enough
    share = outlook.share(waited)
    if share <= 0:
        return enough  # it should be over: nothing is known of it any more
    candidates = [0.0]
    if (knot := outlook.cheapest_after(waited, enough)) is not None:
        candidates.append(knot - waited)
    # In the tail it is least where the hazard, 2 / (tail + t), has fallen to 1 / enough.
    candidates.append(max(outlook.knots[-1][0] + 2 * enough - outlook.tail - waited, 0.0))
    return min(candidates, key=lambda t: outlook.area(waited + t) + enough * outlook.share(waited + t))


class Warm(NamedTuple):
    """A run that lingers: what is expected of its wait, how many seconds that has lasted, what memory it holds."""

    run_id: str
    outlook: Outlook
    waited: float
    gib: float


def evict(warm: Iterable[Warm], gib: float) -> list[str]:
    """Which runs to let go, in this order, so that ``gib`` of memory are freed: the longest expected wait first."""
    going: list[str] = []
    freed = 0.0
    for one in sorted(warm, key=lambda one: one.outlook.remaining(one.waited), reverse=True):
        if freed >= gib:
            break
        going.append(one.run_id)
        freed += one.gib
    return going
