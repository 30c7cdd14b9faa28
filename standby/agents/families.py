"""What agents spend together: an agent, those it starts, and those that these start. Pure.

Each has limits of its own, and what it spends counts to the limits of all above it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import reduce
from operator import add

from standby.agents.budgets import Budget, Spent, exhausted, left_of


@dataclass(frozen=True, slots=True)
class Member:
    """One agent. ``spent``: by itself. ``under_way``: set aside for requests and calls that have not ended."""

    id: str
    run_id: str
    parent: str | None
    limits: Budget
    spent: Spent
    under_way: Spent
    began_at: datetime


@dataclass(frozen=True, slots=True)
class Short:
    """Why there is no room: ``what`` is spent. ``over``: with more than so much on top there would be. ``unknown``: how
    much of it is spent is not known. ``above``: it is the limit of an agent that started this one."""

    what: str
    why: str
    over: float
    unknown: bool = False
    above: bool = False

    @property
    def final(self) -> bool:
        """Whether a person cannot help it by granting this agent more."""
        return self.unknown or self.above

    @property
    def remedy(self) -> str:
        """What helps, in words for who reads the error."""
        scope, run = ("the scope of the agent that started it", "its run") if self.above else ("its scope", "the run")
        if self.unknown:
            known = "whose price is known" if self.what == "money" else "whose provider counts its tokens"
            limit = f"the limit in {self.what}"
            return f"Take {limit} out of {scope} and retry {run}, or start another run with a model {known}."
        at_stop = "finish" if self.above else "finish or ask"
        return f"Raise the limit in {scope} and retry {run}, or let the scope {at_stop} at a stop."


def short_of(budget: Budget, spent: Spent, *, requests: int = 0, tool_calls: int = 0) -> Short | None:
    """Which limit of one agent forbids so many more model requests and tool calls; None if none does."""
    found = exhausted(budget, spent, requests=requests, tool_calls=tool_calls)
    if found is None:
        return None
    what = found.what
    unknown = (what == "money" and spent.unpriced) or (what in ("money", "tokens") and spent.unmeasured)
    return Short(what, found.why, found.over, unknown=bool(unknown))


def short_in(family: Sequence[Member], mine: Member, now: datetime, *, requests: int, tool_calls: int) -> Short | None:
    """Which limit, of the agent ``mine`` or of one above it, forbids so many more. ``mine`` has nothing under way."""
    for one in _upwards(family, mine):
        short = short_of(one.limits, together(family, one, now), requests=requests, tool_calls=tool_calls)
        if short is None:
            continue
        if one is not mine:
            return replace(short, why=f"the agent that started it has no more to spend: {short.why}", above=True)
        others = any(member.parent == mine.id for member in family)
        return replace(short, why=f"{short.why}, with the agents it started") if others else short
    return None


def left_in(family: Sequence[Member], mine: Member, now: datetime, then: Mapping[str, Spent] | None = None) -> Budget:
    """What ``mine`` may hand on. Raises ``UsageError`` when that is not known.

    ``then``: what was spent when it was handed on first, by who has the limit: it is handed on again as it was then.
    """
    spent = spent_in(family, mine, now) if then is None else then
    return reduce(Budget.narrowed, (left_of(one.limits, spent[one.id]) for one in _upwards(family, mine)))


def spent_in(family: Sequence[Member], mine: Member, now: datetime, *, but: Collection[str] = ()) -> dict[str, Spent]:
    """What ``mine`` and each above it have spent, with all below them, by their ids: as if those of ``but`` had not
    begun, nor any below them."""
    left_out = [one for one in family if any(above.id in but for above in _upwards(family, one))]
    rest = [one for one in family if one not in left_out]
    moment = min((one.began_at for one in left_out), default=now)
    return {one.id: together(rest, one, moment) for one in _upwards(family, mine)}


def aside(family: Sequence[Member], requests: int, tool_calls: int) -> Spent:
    """What is set aside for these. A request counts as what those of the family took on average: it is known later."""
    before = reduce(add, (member.spent for member in family))
    many = max(before.requests, 1)
    return Spent(
        requests=requests,
        tool_calls=tool_calls,
        tokens=-(-before.tokens // many) * requests,
        money=before.money / many * requests,
    )


def together(family: Sequence[Member], top: Member, now: datetime) -> Spent:
    """What ``top`` and all below it have spent and set aside; time in all is its own. Time at work in a tool counts
    once: what an agent in it takes is not the tool's (``Meter.others``)."""
    spent = Spent()
    for member in family:
        if not any(one is top for one in _upwards(family, member)):
            continue
        spent += member.spent + member.under_way
    return replace(spent, wall=max(now - top.began_at, timedelta(0)))


def _upwards(family: Sequence[Member], member: Member) -> Iterator[Member]:
    by_id = {one.id: one for one in family}
    at: Member | None = member
    while at is not None:
        yield at
        at = by_id[at.parent] if at.parent is not None else None
