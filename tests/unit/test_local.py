"""Whether a command has the parameters of a run that Prefect knows."""

from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from standby import agent
from standby.local import same_parameters


@dataclass
class Order:
    tags: set[str] = field(default_factory=set)


class Plan(BaseModel):
    days: frozenset[date]


@agent
async def typed(
    tags: set[str] | None = None,
    prices: dict[int, str] | None = None,
    order: Order | None = None,
    plans: list[Plan] | None = None,
    amount: Decimal = Decimal(0),
) -> None: ...


@agent
async def untyped(what, more=None):  # type: ignore[no-untyped-def]
    ...


SOME = {"tags": None, "prices": None, "order": None, "plans": None, "amount": "0"}


@pytest.mark.parametrize(
    ("flow", "known", "given", "same"),
    [
        (typed, SOME | {"tags": ["b", "a"]}, SOME | {"tags": {"a", "b"}}, True),
        (typed, SOME | {"tags": ["b", "a"]}, SOME | {"tags": {"a", "c"}}, False),
        (typed, SOME | {"prices": {"1": "a", "2": "b"}}, SOME | {"prices": {2: "b", 1: "a"}}, True),
        (typed, SOME | {"prices": {"1": "a"}}, SOME | {"prices": {2: "a"}}, False),
        (typed, SOME | {"order": {"tags": ["x", "y"]}}, SOME | {"order": Order({"y", "x"})}, True),
        (
            typed,
            SOME | {"plans": [{"days": ["2026-03-02", "2026-03-01"]}]},
            SOME | {"plans": [Plan(days=frozenset({date(2026, 3, 1), date(2026, 3, 2)}))]},
            True,
        ),
        (typed, SOME | {"amount": 1.5}, SOME | {"amount": Decimal("1.50")}, True),
        (typed, SOME, {**SOME, "tags": set()}, False),
        (typed, {"tags": None}, SOME, False),
        (typed, SOME | {"prices": "of an older type"}, SOME | {"prices": {1: "a"}}, False),
        (untyped, {"what": {"1": [1]}, "more": None}, {"what": {1: (1,)}, "more": None}, True),
        (untyped, {"what": "<object>", "more": 1}, {"what": 1, "more": 1}, False),
    ],
)
def test_parameters_are_compared_as_what_the_agent_takes_them_for(
    flow: Any, known: dict[str, Any], given: dict[str, Any], same: bool
) -> None:
    """Prefect has them as JSON, with sets as lists in the order of that process."""
    assert same_parameters(flow, known, given) is same
