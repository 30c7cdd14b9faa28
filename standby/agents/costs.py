"""What a call of a tool costs beside its own time: what it adds to the usage of the agent, and the tools it calls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass
from decimal import Decimal
from time import monotonic
from typing import Any

from pydantic_ai.messages import ModelResponse
from pydantic_ai.usage import RequestUsage, RunUsage

_meter: ContextVar[Meter | None] = ContextVar("standby_meter", default=None)


@dataclass(repr=False, init=False, eq=False)
class Usage(RunUsage):
    """The usage of an agent. A sum does not say whether a part of it has no price, so those that have none are counted
    when they are added: also answers that were rejected, and those of agents in tools that are given this usage."""

    unpriced_requests: int = 0

    def incr(self, incr_usage: RunUsage | RequestUsage) -> None:
        super().incr(incr_usage)  # with what another one of these has counted
        known = incr_usage.cost is not None or bool(getattr(incr_usage, "unpriced_requests", 0))
        if not known and (incr_usage.requests or incr_usage.total_tokens):
            self.unpriced_requests += max(incr_usage.requests, 1)


def added(before: RunUsage, now: RunUsage) -> dict[str, Any]:
    """What came to a usage, as fields of ``Counted``."""
    requests, tokens = now.requests - before.requests, now.total_tokens - before.total_tokens
    unpriced: int = getattr(now, "unpriced_requests", 0) - getattr(before, "unpriced_requests", 0)
    return {
        "requests": max(requests, 0),
        "tokens": max(tokens, 0),
        "money": max((now.cost or Decimal(0)) - (before.cost or Decimal(0)), Decimal(0)),
        "unpriced": max(unpriced, int((requests > 0 or tokens > 0) and now.cost is None)),
        "unmeasured": max(now.unmeasured_requests - before.unmeasured_requests, 0),
    }


def billed_in(answer: ModelResponse, *, was_sent: bool) -> list[RequestUsage]:
    """Of an answer, and of those before it that were rejected. Where no request was sent, as a hook has answered, what
    says nothing was not paid for."""
    usages = [answer.usage, *(one.usage for one in answer.failed_attempts or () if one.usage is not None)]
    return [one for one in usages if was_sent or one.has_values() or one.unmeasured_requests]


def unmeasured_in(usage: RequestUsage) -> int:
    """How many requests of a response have no usage. One that says nothing at all has none, either."""
    return usage.unmeasured_requests or int(usage.total_tokens == 0)


def usage_of(usages: Iterable[RequestUsage]) -> RequestUsage:
    """What ``incr`` with each of them comes to: one look at each, where there are hundreds."""
    counted: defaultdict[str, Any] = defaultdict(int)
    details: defaultdict[str, Any] = defaultdict(int)
    for usage in usages:
        for name, one in vars(usage).items():
            if isinstance(one, int | float | Decimal):
                counted[name] += one
        for name, one in usage.details.items():
            if isinstance(one, int | float):
                details[name] += one
    total = RequestUsage()
    for name, number in counted.items():
        setattr(total, name, number)
    total.details = dict(details)
    return total


def called_within() -> None:
    """The tool that is under way, if one is, calls another."""
    meter = _meter.get()
    if meter is not None:
        meter.inner += 1


def under_way() -> Meter | None:
    """Of the tool in which this is called, if it is in one."""
    return _meter.get()


@dataclass
class Mark:
    """Up to where the usage of an agent has been counted. Tools that run side by side share it: what one adds may be
    counted as another's, and all of it is counted once."""

    usage: RunUsage

    @classmethod
    def at(cls, usage: RunUsage) -> Mark:
        return cls(copy(usage))


class Meter:
    """Of one call. ``inner``: how many other tools it has called. ``others``: seconds at work of agents in it, which
    count as theirs. ``waited``: for how many seconds the run has."""

    def __init__(self, mark: Mark, usage: RunUsage) -> None:
        self._mark, self._usage = mark, usage
        self._told = 0.0  # up to which moment of work
        self.inner = 0
        self.others = 0.0
        self.waited: Callable[[], float] = float

    @contextmanager
    def running(self) -> Iterator[None]:
        self._told = self._at_work()
        token = _meter.set(self)
        try:
            yield
        finally:
            _meter.reset(token)

    def _at_work(self) -> float:
        return monotonic() - self.waited()

    def costs(self) -> dict[str, Any]:
        """As fields of ``Counted``. What is told here is not told again."""
        before, now = self._mark.usage, self._usage
        self._mark.usage = copy(now)
        began, self._told = self._told, self._at_work()
        inner, self.inner = self.inner, 0
        others, self.others = self.others, 0.0
        return {
            "seconds": round(max(self._told - began - others, 0.0), 6),
            "inner": inner,
            **added(before, now),
        }
