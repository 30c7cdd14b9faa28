"""What the hold policy costs beside the best linger, a clairvoyant, a plain minimiser and fixed lingers.

Costs are expected ones, computed and not measured: for each distribution, what a wait costs with the linger that the
policy chose after so many waits drawn from it, over what it costs with the best linger for that distribution. A mean
over 200 draws, over break-even times of 0.1 to 10 medians and, for fixed lingers, over medians of 5 s, 5 min and 5 h
(the recorded history has its own median, 8.5 h). Seeded: the same on every machine, whatever its load.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from random import Random

from rich.table import Table

from benchmarks.durations import RECORDED, Durations, all_durations, neighbours, recorded_waits
from standby.hold import Costs, linger
from standby.outlook import Past, learnt
from standby.settings import LEARN_FROM

NAME = "hold"
DRAWS = 200
RATIOS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Break-even times, in medians."""
MEDIANS = (5.0, 300.0, 18_000.0)
FIXED = {"0": 0.0, "5 s": 5.0, "60 s": 60.0, "15 min": 900.0, "for ever": math.inf}
RELEARN_EVERY = 5
"""In the recorded order the policy learns from the latest waits after so many of them."""

Chooser = Callable[[Sequence[float], float], float]
"""The linger after these waits, the newest last, and with this break-even time."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a way to choose lingers costs on one distribution.

    ``beside_best``: over the best linger for it, mean; ``worst``: the worst mean of one break-even time (and median);
    ``beside_clairvoyant``: over one who knows how long each wait takes, the worst of them.
    """

    benchmark: str
    waits: str
    linger: str
    beside_best: float
    worst: float
    beside_clairvoyant: float

    def as_json(self) -> str:
        return json.dumps({key: round(value, 4) if isinstance(value, float) else value
                           for key, value in asdict(self).items()})  # fmt: skip


def policy(waits: Sequence[float], break_even: float) -> float:
    outlook = learnt([Past(seconds) for seconds in reversed(waits)], break_even)
    return linger(outlook, Costs(rent=1.0, cold=break_even))


def plain(waits: Sequence[float], break_even: float) -> float:
    """The linger that would have been cheapest for the waits themselves."""

    def cost(limit: float) -> float:
        return sum(wait if wait <= limit else limit + break_even for wait in waits)

    return min((0.0, *sorted(waits)), key=cost)


def costs() -> Iterator[Cost]:
    for durations in all_durations():
        cells = [ratio * durations.median for ratio in RATIOS]
        yield _of(durations, "no history", [(b, durations.cost(policy([], b), b)) for b in cells])
        for chooser, name in ((policy, "after {}"), (plain, "plain, after {}")):
            for count in (10, 50):
                yield _of(durations, name.format(count), [(b, _learning(durations, chooser, count, b)) for b in cells])
        medians = (durations.median,) if durations.name == RECORDED else MEDIANS
        for name, fixed in FIXED.items():
            scaled = [fixed * durations.median / median for median in medians]
            yield _of(durations, name, [(b, durations.cost(limit, b)) for b in cells for limit in scaled])
        if durations.name == RECORDED:
            following = replace(durations, several=neighbours)
            for count in (10, 50):
                learning = [(b, _learning(following, policy, count, b)) for b in cells]
                yield _of(durations, f"after {count} that followed each other", learning)
            yield _in_order(durations, cells)
        elif durations.name == "lognormal":
            for change, count in ((30, 10), (30, 50), (1 / 30, 10), (1 / 30, 50)):
                name = f"after {count}, 100 before were {'30 times longer' if change > 1 else '30 times shorter'}"
                yield _of(durations, name, [(b, _learning(durations, policy, count, b, before=change)) for b in cells])


def _of(durations: Durations, name: str, cells: list[tuple[float, float]]) -> Cost:
    """``cells``: break-even times, and what a wait costs with them."""
    best = {b: durations.best(b) for b, _ in cells}
    beside = [cost / best[b] for b, cost in cells]
    clairvoyant = max(cost / durations.clairvoyant(b) for b, cost in cells)
    return Cost(NAME, durations.name, name, statistics.mean(beside), max(beside), clairvoyant)


def _learning(
    durations: Durations, choose: Chooser, count: int, break_even: float, before: float | None = None
) -> float:
    """What a wait costs after ``count`` waits, mean; ``before`` them, there were 100 that took so many times longer."""
    dice = Random(f"{durations.name} {count}")
    found = []
    for _ in range(DRAWS if before is None else DRAWS // 10):
        old = [] if before is None else [before * wait for wait in durations.several(dice, 100)]
        limit = choose([*old, *durations.several(dice, count)], break_even)
        found.append(durations.cost(limit, break_even))
    return statistics.mean(found)


def _in_order(durations: Durations, cells: Sequence[float]) -> Cost:
    """The recorded history as it went, from the first wait on, beside the best linger in hindsight."""
    waits = recorded_waits()
    paid = []
    for b in cells:
        total, limit = 0.0, b
        for at, wait in enumerate(waits):
            if at % RELEARN_EVERY == 0:
                limit = policy(waits[max(0, at - LEARN_FROM) : at], b)
            total += wait if wait <= limit else limit + b
        paid.append((b, total / len(waits)))
    return _of(durations, f"learning from the first to the last of {len(waits):,}", paid)


def table(found: Sequence[Cost]) -> list[Table]:
    """One row for each way to choose, one column for each distribution; and what only one distribution has."""
    names = list(dict.fromkeys(cost.waits for cost in found))
    by_way: dict[str, dict[str, Cost]] = {}
    for cost in found:
        by_way.setdefault(cost.linger, {})[cost.waits] = cost
    whole = Table(title="hold: cost beside the best linger, mean (worst)", title_justify="left")
    for heading in ("linger", *names, "overall", "beside clairvoyant, worst"):
        whole.add_column(heading, justify="left" if heading == "linger" else "right")
    more = Table(title="and in time", title_justify="left")
    for heading in ("waits", "linger", "beside best", "worst"):
        more.add_column(heading, justify="left" if heading in ("waits", "linger") else "right")
    for way, of in by_way.items():
        if len(of) == len(names):
            overall = statistics.mean(cost.beside_best for cost in of.values())
            clairvoyant = max(cost.beside_clairvoyant for cost in of.values())
            cells = [f"{of[name].beside_best:.3f} ({of[name].worst:.2f})" for name in names]
            whole.add_row(way, *cells, f"{overall:.3f}", f"{clairvoyant:.2f}")
        else:
            for cost in of.values():
                more.add_row(cost.waits, way, f"{cost.beside_best:.3f}", f"{cost.worst:.2f}")
    return [whole, more]
