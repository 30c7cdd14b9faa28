"""What stands in a model does not decide how it is compared: its fields and defaults may be called anything."""

from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, create_model

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


def test_a_set_of_models_is_kept() -> None:
    assert Codec(lambda: set[Frozen]).encode({Frozen()}, "x")[1] == {Frozen()}
