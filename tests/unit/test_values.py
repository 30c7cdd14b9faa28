"""What a value is on its way to the ledger and back: the same, or refused with its name."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import UUID

import pytest
from pydantic import AliasChoices, BaseModel, Field, ValidationError, field_validator

from standby.errors import NotStorable
from standby.values import Codec


class Line(BaseModel):
    item: str
    price: Decimal


@dataclass
class Order:
    lines: list[Line]
    due: date | None = None


class Size(StrEnum):
    LARGE = "large"


class Point(NamedTuple):
    x: int
    y: float


class Note(BaseModel):
    """Its fields have other names outside."""

    text: str = Field(default="", alias="orderNote")
    item_id: int = Field(default=0, validation_alias=AliasChoices("item_id", "itemId"))


class Scan(BaseModel):
    """Whose bytes its own settings have as text."""

    page: bytes


class Price(BaseModel):
    """In cents, and once more in cents at each reading."""

    gross: int

    @field_validator("gross")
    @classmethod
    def to_cents(cls, gross: int) -> int:
        return gross * 100


class Plain:
    """Nothing Pydantic knows how to store."""


def codec(annotation: Any) -> Codec[Any]:
    return Codec(lambda: annotation)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (None, None),
        (Any, {"a": [1, 2.5, None, True, "é\x00\u2028🙂"]}),
        (int, 10**30),
        (float, -0.0),
        (str, "null"),
        (bytes, b"abc"),
        (bytes, b"%PDF\xff\x00"),
        (list[bytes | None], [b"\xff", None]),
        (Note, Note(orderNote="fragile", item_id=7)),
        (list[Note], [Note(orderNote="", item_id=0)]),
        (set[int], {1, 2}),
        (frozenset[str], frozenset({"a"})),
        (tuple[int, str], (1, "a")),
        (dict[int, str], {1: "a"}),
        (dict[date, Decimal], {date(2026, 3, 1): Decimal("1.10")}),
        (Decimal, Decimal("0.1000000000000000000000000001")),
        (datetime, datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)),
        (timedelta, timedelta(days=3, microseconds=1)),
        (UUID, UUID(int=7)),
        (Path, Path("a/b")),
        (Size, Size.LARGE),
        (Literal["a", "b"], "a"),
        (Point, Point(1, 2.0)),
        (Order, Order([Line(item="tea", price=Decimal("1.10"))], date(2026, 3, 1))),
        (list[Order] | None, [Order([])]),
        (int | str, "1"),
        (int | str, 1),
        (Line | Order, Order([])),
        (float | None, None),
    ],
)
def test_a_value_comes_back_as_it_was(annotation: Any, value: Any) -> None:
    """G1: what the first run goes on with is what a replay reads."""
    text, seen = codec(annotation).encode(value, "step 'x'")
    assert seen == value
    assert type(seen) is type(value)
    assert codec(annotation).decode(text) == value
    assert text.isascii(), "the same bytes in every database"


def test_what_the_annotation_does_not_tell_is_plain_on_the_first_run_too() -> None:
    _, seen = codec(Any).encode(Order([Line(item="tea", price=Decimal("1.10"))]), "step 'x'")
    assert seen == {"lines": [{"item": "tea", "price": "1.10"}], "due": None}


def untold() -> object:
    return Plain()


def endless() -> object:
    loop: list[Any] = []
    loop.append(loop)
    return loop


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (float, lambda: math.nan),
        (float | None, lambda: math.inf),
        (Any, lambda: {"deep": [-math.inf]}),
        (dict[str, Any], lambda: {"n": None, "x": math.nan}),
        (Line, lambda: Line.model_construct(item="tea", price=math.nan)),
        (Decimal, lambda: Decimal("NaN")),
        (Any, lambda: {1: "a", "1": "b"}),
        (dict[int | str, list[Any]], lambda: {"deep": [{True: 1, "true": 2}]}),
        (str, lambda: "half of a pair: \ud83d"),
        (Any, lambda: {"\udc00": 1}),
        (Scan, lambda: Scan(page=b"\xff")),
        (Price, lambda: Price(gross=20)),
        (Any, untold),
        (object, untold),
        (Any, lambda: lambda: 1),
        (Any, endless),
        (int, lambda: "seven"),
        (Order, lambda: {"lines": []}),
        (int | str, lambda: 1.5),
        (Line, lambda: Line.model_construct(item=7)),
        (set[int], lambda: [1, 2]),
    ],
)
def test_what_would_be_lost_on_the_way_is_refused_with_its_name(annotation: Any, value: Callable[[], Any]) -> None:
    """Failure 8."""
    with pytest.raises(NotStorable, match=r"The value of step 'x' cannot be stored as JSON and read back the same"):
        codec(annotation).encode(value(), "step 'x'")


def test_a_type_that_pydantic_does_not_know_is_refused_with_its_name() -> None:
    with pytest.raises(NotStorable, match=r"step 'x'.*Plain"):
        codec(Plain).encode(Plain(), "step 'x'")


def test_the_reason_of_a_refusal_fits_on_one_line() -> None:
    with pytest.raises(NotStorable) as refused:
        codec(Order).encode(Order([Line.model_construct(item=7)]), "step 'x'")
    assert "\n" not in str(refused.value)
    assert "pydantic.dev" not in str(refused.value)


def test_what_comes_from_outside_has_the_names_of_outside() -> None:
    """And what is stored has its own."""
    note = codec(Note).decode('{"orderNote": "fragile", "itemId": 7}')
    assert note == Note(orderNote="fragile", itemId=7)
    assert codec(Note).encode(note, "the answer")[0] == '{"text":"fragile","item_id":7}'


def test_a_stored_value_that_does_not_fit_any_more_says_where() -> None:
    with pytest.raises(ValidationError, match="price"):
        codec(Line).decode('{"item": "tea"}')


def test_a_codec_is_built_when_it_is_used() -> None:
    """Declaring a step costs nothing, and its types may be defined further down."""
    built = []

    def annotation() -> Any:
        built.append(int)
        return int

    late = Codec(annotation)
    assert built == []
    assert late.encode(1, "x") == ("1", 1)
    assert late.decode("2") == 2
    assert built == [int]


def test_the_schema_of_what_has_none_is_empty() -> None:
    assert codec(Any).schema() == {}
    assert codec(Callable[[], int]).schema() == {}
    assert codec(Line).schema()["properties"]["item"] == {"title": "Item", "type": "string"}
