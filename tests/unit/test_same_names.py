"""What stands in a model does not decide how it is compared: its fields and defaults may be called anything."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, create_model

from standby.errors import NotStorable
from standby.values import Codec


class Told(BaseModel):
    kind: Literal["told"] = "told"


class Tool(BaseModel):
    name: str
    parameters: dict[str, Any] = Field(default={"type": {"ref": ["a"]}, "choices": [1], "ref": {"cls": 1}})


@pytest.mark.parametrize(
    "name", ["type", "ref", "cls", "choices", "schema_ref", "schema_", "fields", "items", "default", "metadata"]
)
def test_a_field_may_have_any_name(name: str) -> None:
    for annotation, value in ((str, "a"), (list[int], [1]), (int | str, 1)):
        model: Any = create_model("Named", **{name: (annotation, ...)})
        made = model(**{name: value})
        for whole in (model, model | Told, dict[str, model]):
            stored = {"a": made} if whole == dict[str, model] else made
            assert Codec(lambda whole=whole: whole).encode(stored, "x")[1] == stored


@pytest.mark.parametrize("annotation", [Tool, Tool | int, list[Tool | Told]])
def test_a_default_may_look_like_a_schema(annotation: Any) -> None:
    value: Any = [Tool(name="a")] if annotation == list[Tool | Told] else Tool(name="a")
    assert Codec(lambda: annotation).encode(value, "x")[1] == value


class Frozen(BaseModel, frozen=True):
    type: int = 1


class Iced(BaseModel, frozen=True):
    ref: dict[int, float | None] = Field(default={1: None}, frozen=True)

    def __hash__(self) -> int:
        return 1


@dataclass(frozen=True)
class Place:
    type: str


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (set[Frozen], {Frozen()}),
        (set[Frozen | Place], {Frozen(), Place("a")}),
        (list[frozenset[Place]], [frozenset({Place("a"), Place("b")})]),
        (set[Iced | int], {Iced(), 3}),
    ],
)
def test_a_set_of_models_is_kept(annotation: Any, value: Any) -> None:
    assert Codec(lambda: annotation).encode(value, "x")[1] == value


class Colder(Frozen, frozen=True):
    """An object of a subclass, of which Pydantic says that none is equal to one of its base."""

    by: int = 1


@pytest.mark.timeout(20)
def test_a_large_set_is_not_compared_each_with_each() -> None:
    assert len(Codec(lambda: set[Frozen]).encode({Colder(type=number) for number in range(3000)}, "x")[1]) == 3000


@pytest.mark.parametrize("ref", [{1: math.nan}, {1: 2.5, 2: math.inf}])
def test_what_is_lost_in_a_set_of_models_is_refused(ref: dict[int, float | None]) -> None:
    with pytest.raises(NotStorable):
        Codec(lambda: set[Iced | int]).encode({Iced(ref=ref)}, "x")
    with pytest.raises(NotStorable):
        Codec(lambda: Any).encode({Iced(ref=ref)}, "x")
