"""What an agent may spend, and what it has spent. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import timedelta
from decimal import Decimal
from math import inf
from operator import add, attrgetter
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from standby.errors import UsageError
from standby.policy import SPAN


class Budget(BaseModel):
    """Upper limits; None is no limit.

    ``steps``: model requests and tool calls. ``tokens``: of input and output, as the provider counts them. ``money``:
    US dollars, by the provider's list prices; where tokens or a price are not known, the agent stops. ``running``: time
    in model requests and tools. ``wall``: time since the agent began, waits included. Tokens and money are known after
    a request: the last one may go over the limit, and there is no other after it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra={"description": "Empty: no limit."})

    steps: int | None = Field(default=None, title="Steps", description="Model requests and tool calls.", ge=0)
    tool_calls: int | None = Field(default=None, title="Tool calls", ge=0)
    tokens: int | None = Field(default=None, title="Tokens", description="Of input and output.", ge=0)
    money: Decimal | None = Field(
        default=None, title="Money (US dollars)", description="Such as 2.50, by the provider's list prices.",
        ge=0, allow_inf_nan=False,
    )  # fmt: skip
    running: timedelta | None = Field(
        default=None, title="Time at work", description=f"In model requests and tools. {SPAN}", ge=timedelta(0)
    )
    wall: timedelta | None = Field(
        default=None, title="Time in all", description=f"Waits included. {SPAN}", ge=timedelta(0)
    )

    def narrowed(self, other: Budget) -> Budget:
        """The lower of the two limits in each."""
        return Budget(**{name: _lower(getattr(self, name), getattr(other, name)) for name in Budget.model_fields})

    def raised(self, more: Budget) -> Budget:
        """With what was granted on top. What has no limit stays without."""
        mine = {name: (getattr(self, name), getattr(more, name)) for name in Budget.model_fields}
        return Budget(**{name: sum_of(a, b) if a is not None and b is not None else a for name, (a, b) in mine.items()})


def sum_of(mine: Any, more: Any) -> Any:
    """Two limits together: at most the longest time there is."""
    try:
        return mine + more
    except OverflowError:
        return timedelta.max


def _lower(mine: Any, other: Any) -> Any:
    return min((limit for limit in (mine, other) if limit is not None), default=None)


@dataclass(frozen=True, slots=True)
class Spent:
    """What an agent has spent so far.

    ``unpriced``: how many of its requests have no known price; ``unmeasured``: of how many the provider did not say how
    many tokens they took.
    """

    requests: int = 0
    tool_calls: int = 0
    tokens: int = 0
    money: Decimal = Decimal(0)
    unpriced: int = 0
    running: timedelta = timedelta(0)
    wall: timedelta = timedelta(0)
    unmeasured: int = 0

    @property
    def steps(self) -> int:
        return self.requests + self.tool_calls

    def __add__(self, other: Spent) -> Spent:
        return Spent(*map(add, _each(self), _each(other)))

    @property
    def said(self) -> str:
        money = f"${self.money.normalize():f}" + (
            f" and {self.unpriced} requests of unknown price" if self.unpriced else ""
        )
        unmeasured = f" and {self.unmeasured} requests of unknown length" if self.unmeasured else ""
        return (
            f"{self.requests} model requests, {self.tool_calls} tool calls, {self.tokens:,} tokens{unmeasured}, "
            f"{money}, {_seconds(self.running)} at work, {_seconds(self.wall)} in all"
        )


_each: Callable[[Spent], tuple[Any, ...]] = attrgetter(*(one.name for one in fields(Spent)))


def _seconds(span: timedelta) -> str:
    return f"{span.total_seconds():.1f} s"


class Exhausted(NamedTuple):
    """Which limit forbids more, and why. ``over``: more than so much on top of it, in its own unit, would not."""

    what: str
    why: str
    over: float


def exhausted(budget: Budget, spent: Spent, *, requests: int = 0, tool_calls: int = 0) -> Exhausted | None:
    """Which limit forbids so many more model requests and tool calls; None if none does."""
    more = requests + tool_calls
    if budget.steps is not None and (over := spent.steps + more - budget.steps) > 0:
        why = f"{spent.steps} of {budget.steps} steps are spent, and {more} more are asked for"
        return Exhausted("steps", why, over - 1)
    if budget.tool_calls is not None and (over := spent.tool_calls + tool_calls - budget.tool_calls) > 0:
        why = f"{spent.tool_calls} of {budget.tool_calls} tool calls are spent, and {tool_calls} more are asked for"
        return Exhausted("tool_calls", why, over - 1)
    if budget.tokens is not None and spent.unmeasured:
        why = "the provider did not say how many tokens a model request took, and there is a limit in tokens"
        return Exhausted("tokens", why, inf)
    if budget.tokens is not None and (over := spent.tokens - budget.tokens) >= 0:
        return Exhausted("tokens", f"{spent.tokens:,} of {budget.tokens:,} tokens are spent", over)
    if budget.money is not None and (spent.unpriced or spent.unmeasured):
        return Exhausted("money", "the price of a model request is not known, and there is a limit in money", inf)
    if budget.money is not None and spent.money >= budget.money:
        return Exhausted("money", f"${spent.money} of ${budget.money} are spent", float(spent.money - budget.money))
    if budget.running is not None and spent.running >= budget.running:
        why = f"{_seconds(spent.running)} of {_seconds(budget.running)} at work are over"
        return Exhausted("running", why, (spent.running - budget.running).total_seconds())
    if budget.wall is not None and spent.wall >= budget.wall:
        why = f"{_seconds(spent.wall)} of {_seconds(budget.wall)} are over"
        return Exhausted("wall", why, (spent.wall - budget.wall).total_seconds())
    return None


def left_of(budget: Budget, spent: Spent) -> Budget:
    """What is left to spend, never below zero. Raises ``UsageError`` when that is not known."""
    if budget.tokens is not None and spent.unmeasured:
        raise UsageError("What is left of the tokens cannot be told: those of a model request are not known.")
    if budget.money is not None and (spent.unpriced or spent.unmeasured):
        raise UsageError("What is left of the money cannot be told: the price of a model request is not known.")
    used: dict[str, Any] = {name: getattr(spent, name) for name in Budget.model_fields}
    limits = {name: getattr(budget, name) for name in Budget.model_fields}
    return Budget(
        **{name: None if limit is None else max(limit - used[name], type(limit)(0)) for name, limit in limits.items()}
    )
