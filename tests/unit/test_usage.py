"""The usage of many requests at once is what pydantic-ai makes of one after the other."""

from __future__ import annotations

from copy import copy
from decimal import Decimal

from pydantic_ai.usage import RequestUsage, RunUsage

from standby.agents.costs import Usage, added, usage_of


def test_the_usage_of_many_requests_is_what_adding_each_comes_to() -> None:
    of_a_provider = RequestUsage(input_tokens=7)
    of_a_provider.__dict__["web_searches"] = 2
    usages = [
        RequestUsage(input_tokens=3, output_tokens=4, details={"reasoning": 5}),
        RequestUsage(),
        RequestUsage(cache_read_tokens=1, cost=Decimal("0.25"), details={"reasoning": 1, "cached": 9}),
        RequestUsage(input_audio_tokens=2, cost=Decimal("0.5")),
        of_a_provider,
        of_a_provider,
    ]
    one_by_one = RunUsage()
    for usage in usages:
        one_by_one.incr(usage)
    at_once = RunUsage()
    at_once.incr(usage_of(usages))
    assert at_once.__dict__ == one_by_one.__dict__
    assert at_once.__dict__["web_searches"] == 4


def test_a_cost_of_nothing_is_known_and_no_request_has_none() -> None:
    assert usage_of([]).cost is None
    assert usage_of([RequestUsage(cost=Decimal(0))]).cost == 0
    assert RunUsage() == RunUsage() + usage_of([])


def test_requests_without_a_price_are_counted_beside_those_that_have_one() -> None:
    usage, before = Usage(), Usage()
    for one in (RequestUsage(input_tokens=1, cost=Decimal(1)), RequestUsage(input_tokens=1), RunUsage(), Usage()):
        usage.incr(one)
    assert added(before, usage)["unpriced"] == 1
    of_two = Usage()
    of_two.incr(RunUsage(requests=2, input_tokens=5))
    usage.incr(of_two)
    usage.incr(RequestUsage(cost=Decimal(0)))
    assert added(before, usage)["unpriced"] == added(before, copy(usage))["unpriced"] == 3
    assert (usage.cost, usage.requests, usage.input_tokens) == (1, 2, 7)


def test_tokens_that_are_written_into_a_usage_without_any_price_have_none() -> None:
    usage = Usage()
    usage.input_tokens += 5
    assert added(Usage(), usage)["unpriced"] == 1
