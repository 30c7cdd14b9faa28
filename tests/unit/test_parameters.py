"""A host checks the parameters of its runs by one model for all of them, and as Prefect would."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from prefect.exceptions import ParameterTypeError
from pydantic import BaseModel

from standby import agent
from standby.host import parameters
from standby.host.parameters import check_quickly


class Order(BaseModel):
    item: str
    count: int = 1


async def _some(where: Path, order: Order, *, day: date | None = None, more: list[int] | None = None) -> None: ...


GOOD: list[dict[str, Any]] = [
    {"where": "here", "order": {"item": "pen"}},
    {"where": "here", "order": {"item": "pen", "count": "3"}, "day": "2026-03-01", "more": [1, "2"]},
    {"where": Path("here"), "order": Order(item="pen")},  # as a default is
]
BAD: list[dict[str, Any]] = [
    {"where": "here", "order": {}},
    {"where": 7, "order": {"item": "pen"}, "day": "some day"},
]


@pytest.mark.parametrize("given", GOOD)
def test_parameters_are_what_prefect_makes_of_them(given: dict[str, Any]) -> None:
    stock, quick = agent(_some), agent(_some)
    check_quickly(quick)
    for _ in range(2):
        assert quick.validate_parameters(given) == stock.validate_parameters(given)


@pytest.mark.parametrize("given", BAD)
def test_what_does_not_fit_is_refused_in_the_words_of_prefect(given: dict[str, Any]) -> None:
    stock, quick = agent(_some), agent(_some)
    check_quickly(quick)
    with pytest.raises(ParameterTypeError) as its:
        stock.validate_parameters(given)
    with pytest.raises(ParameterTypeError) as ours:
        quick.validate_parameters(given)
    assert str(ours.value) == str(its.value)


def test_a_reference_to_a_block_is_left_to_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = agent(_some)
    monkeypatch.setattr(quick, "validate_parameters", lambda given: {"by": "Prefect"})
    check_quickly(quick)
    given = {"where": "here", "order": {"item": ["pen", {"$ref": {"block_document_id": "some"}}]}}
    assert quick.validate_parameters(given) == {"by": "Prefect"}


def test_the_model_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    real = parameters.ValidatedFunction
    monkeypatch.setattr(parameters, "ValidatedFunction", lambda *a, **k: made.append(a) or real(*a, **k))
    quick = agent(_some)
    check_quickly(quick)
    for _ in range(3):
        quick.validate_parameters(GOOD[0])
    assert len(made) == 1


def test_what_an_attempt_does_to_its_parameters_stays_its_own() -> None:
    quick = agent(_some)
    check_quickly(quick)
    first = quick.validate_parameters(GOOD[1])
    first["more"].append(3)
    assert quick.validate_parameters(GOOD[1])["more"] == [1, 2]
