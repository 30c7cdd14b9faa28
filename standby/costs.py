"""What waiting has cost, by agent and kind of wait, and what other ways to hold its runs would have cost. Pure.

Money is in the currency of the prices (``settings.prices``). Times are seconds.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from standby import settings
from standby.hold import Costs, Prices, linger
from standby.outlook import Past, learnt
from standby.states import Hold, WaitState

FIXED = {"warm 5 s": 5.0, "warm 1 min": 60.0, "warm 15 min": 900.0, "warm for ever": math.inf}
"""Lingers to compare with."""

ENOUGH = 5
"""So many cold wakes make their median the one that is reckoned with."""

AT_ONCE = 1.0
"""A wait that took less than this, and of which no hold is known, had its answer before its run parked."""

LEARN = 200
"""How often the policy learns when a history is gone through again; more changes little."""


class Lasted(NamedTuple):
    """A wait of a history: when it opened and how long it took, or has taken if it is not ``over``."""

    opened_at: datetime
    seconds: float
    over: bool


def costs_view(rows: Iterable[Any], prices: Prices, now: datetime) -> list[dict[str, Any]]:
    """By agent and kind, in their order: what is in ``Holds.waited``.

    Each: ``agent, kind, waits, open, p50_seconds, p90_seconds`` (of those that were answered or timed out), ``held``
    (how many by which hold, ``let_go`` for those that were warm and then not any more, ``none`` for those that were
    settled before the run parked), ``gib_hours``, ``wake_p50_seconds``, ``wake_seconds`` (in all: from the answer to
    the run having taken it in), ``cost`` (of memory held, wakes' CPU and time that was waited for them) and
    ``would_cost``: the same waits, held in other ways. These compare with each other and not with ``cost``, which has
    also what kept a run after its answer: a paused pool, a full host, a Prefect server that was away.
    """
    groups: dict[tuple[str, str], list[Any]] = {}
    settled_last: dict[tuple[str, str], datetime] = {}  # not when one was closed, which may be later than the answer
    for row in rows:
        groups.setdefault((row.agent or "", row.kind), []).append(row)
        if row.state == WaitState.SETTLED:
            group = (row.run_id, row.group_key)
            settled_last[group] = max(row.settled_at, settled_last.get(group, row.settled_at))
    found = []
    for agent, kind in sorted(groups):
        of = groups[agent, kind]
        woke = [row for row in of if _woke(row) and row.settled_at == settled_last[row.run_id, row.group_key]]
        found.append({"agent": agent, "kind": kind, **_of(of, woke, prices, now)})
    return found


def _woke(row: Any) -> bool:
    """Whether its settling woke a run that had parked, which has gone on; of several the last did."""
    return row.held is not None and row.state == WaitState.SETTLED and row.went_on_at is not None


def _of(rows: Sequence[Any], woke: Sequence[Any], prices: Prices, now: datetime) -> dict[str, Any]:
    lasted = [_lasted(row, now) for row in rows]
    durations = sorted(one.seconds for one in lasted if one.over)
    wakes = [max(0.0, (row.went_on_at - row.settled_at).total_seconds()) for row in woke]
    cold = [seconds for row, seconds in zip(woke, wakes, strict=True) if _was_cold(row)]
    gib_hours = sum(row.gib_seconds for row in rows) / 3600
    paid = gib_hours * prices.gib_hour + sum(wakes) * prices.waiting_second
    return {
        "waits": len(rows),
        "open": sum(row.state == WaitState.OPEN for row in rows),
        "p50_seconds": quantile(durations, 0.5),
        "p90_seconds": quantile(durations, 0.9),
        "held": dict(sorted(Counter(_held(row) for row in rows).items())),
        "gib_hours": gib_hours,
        "wake_p50_seconds": quantile(sorted(wakes), 0.5),
        "wake_seconds": sum(wakes),
        "cost": paid + len(cold) * settings.COLD_WAKE_CPU_SECONDS * prices.cpu_second,
        "would_cost": would_cost(
            [one for row, one in zip(rows, lasted, strict=True) if row.held is not None or one.seconds >= AT_ONCE],
            prices,
            statistics.median(cold) if len(cold) >= ENOUGH else settings.COLD_WAKE_SECONDS,
        ),
    }


def _lasted(row: Any, now: datetime) -> Lasted:
    seconds = max(0.0, ((row.settled_at or now) - row.opened_at).total_seconds())
    return Lasted(row.opened_at, seconds, row.state == WaitState.SETTLED)


def _was_cold(row: Any) -> bool:
    return row.held == Hold.SUSPEND or row.let_go_at is not None


def _held(row: Any) -> str:
    if row.held is None:
        return "none"
    return "let_go" if row.let_go_at is not None else str(row.held)


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """The value that this share of them does not exceed; None of none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def would_cost(history: Sequence[Lasted], prices: Prices, cold_seconds: float) -> dict[str, float]:
    """What the waits of a history that are over would have cost: ``pause`` and ``suspend`` always, fixed lingers,
    ``learnt`` (the policy, learning as it went) and ``foreseen``, by one who knew how long each takes."""
    waits = [one.seconds for one in history if one.over]
    paused = Costs.of(prices, gib=settings.PAUSED_GIB, cold_seconds=0, cold_cpu_seconds=0)
    warm = Costs.of(
        prices, gib=settings.WARM_GIB, cold_seconds=cold_seconds, cold_cpu_seconds=settings.COLD_WAKE_CPU_SECONDS
    )

    def paid(wait: float, limit: float) -> float:
        return warm.rent * wait if wait <= limit else warm.rent * limit + warm.cold

    return {
        "pause": paused.rent * sum(waits),
        "suspend": warm.cold * len(waits),
        **{name: sum(paid(wait, limit) for wait in waits) for name, limit in FIXED.items()},
        "learnt": sum(paid(one.seconds, limit) for one, limit in _relived(history, warm) if one.over),
        "foreseen": sum(min(warm.rent * wait, warm.cold) for wait in waits),
    }


def _relived(history: Sequence[Lasted], costs: Costs) -> Iterable[tuple[Lasted, float]]:
    """Each wait, oldest first, with the linger that the policy would have chosen when it opened."""
    seldom = max(1, len(history) // LEARN)
    limit = costs.break_even
    for at, one in enumerate(history):
        if 0 < costs.break_even < math.inf and at % seldom == 0:
            before = history[max(0, at - settings.LEARN_FROM) : at]
            limit = linger(learnt([_seen(past, one.opened_at) for past in reversed(before)], costs.break_even), costs)
        yield one, limit


def _seen(past: Lasted, at: datetime) -> Past:
    """What was known of a wait at that time."""
    so_far = max(0.0, (at - past.opened_at).total_seconds())
    return Past(past.seconds, past.over) if past.seconds <= so_far else Past(so_far, over=False)
