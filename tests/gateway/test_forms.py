"""A form is made of whatever JSON Schema a wait has, and what was typed keeps its type."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, SecretStr

from standby.agents.forms import form_of
from standby.gateway.forms import answer_of, fields_of


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Address(BaseModel):
    city: str


class Everything(BaseModel):
    approved: bool
    plain: str
    price: Decimal
    days: int | None = 14
    rate: float = 0.5
    colour: Colour
    size: Literal[1, 2] = 2
    on: date | None = None
    urgent: bool = True
    known: bool | None = None
    address: Address
    tags: list[str] = []
    pin: SecretStr = SecretStr("")
    comment: str = "as agreed"


SCHEMA = json.dumps(Everything.model_json_schema())


def test_each_field_is_of_the_kind_its_type_asks_for() -> None:
    kinds = {field.name: (field.kind, field.typed, field.required) for field in fields_of(SCHEMA)}
    assert kinds == {
        "approved": ("switch", "", True),
        "plain": ("text", "", True),
        "price": ("decimal", "", True),
        "days": ("number", "14", False),
        "rate": ("number", "0.5", False),
        "colour": ("choice", "", True),
        "size": ("choice", "2", False),
        "on": ("date", "", False),
        "urgent": ("check", "true", False),
        "known": ("choice", "", False),
        "address": ("json", "", True),
        "tags": ("json", "[]", False),
        "pin": ("secret", "", False),
        "comment": ("lines", "as agreed", False),
    }


def test_the_arguments_of_a_call_have_room_for_more_than_a_line() -> None:
    for form, name in ((form_of(["send"]), "arguments"), (form_of(["send", "pay"]), "arguments_2")):
        [field] = [one for one in fields_of(json.dumps(form.model_json_schema())) if one.name == name]
        assert (field.kind, field.required) == ("lines", False)
        assert "all of the call's arguments" in field.description


@pytest.mark.parametrize(
    ("name", "typed", "value"),
    [
        ("approved", "true", True),
        ("approved", "maybe", "maybe"),
        ("price", "12.50", 12.5),
        ("price", "12345678901234567890.05", "12345678901234567890.05"),
        ("price", "1,5", "1,5"),
        ("days", "7", 7),
        ("days", "", None),
        ("days", "1e400", "1e400"),
        ("rate", "", ""),
        ("rate", "true", "true"),
        ("colour", '"red"', "red"),
        ("colour", '"green"', '"green"'),
        ("size", "1", 1),
        ("size", "3", "3"),
        ("known", "false", False),
        ("on", "2026-03-01", "2026-03-01"),
        ("address", '{"city": "Ulm"}', {"city": "Ulm"}),
        ("comment", "", ""),
        ("comment", "a\r\nb", "a\nb"),
        ("other", "1", "1"),
    ],
)
def test_what_is_typed_keeps_its_type_or_stays_text_for_the_check_to_refuse(name: str, typed: str, value: Any) -> None:
    text, problems = answer_of(SCHEMA, {name: typed})
    assert (json.loads(text), problems) == ({name: value}, [])


@pytest.mark.parametrize("name", ["plain", "price", "colour", "on", "known", "address"])
def test_what_is_left_empty_is_left_out(name: str) -> None:
    assert answer_of(SCHEMA, {name: ""}) == ("{}", [])


@pytest.mark.parametrize(
    "schema",
    [
        "{}", "true", '{"type": "object"}', '{"type": "object", "properties": {}}',
        '{"type": "object", "properties": {"a": true, "b": false, "c": {}}}',
        '{"type": "object", "properties": {"a": {"$ref": "#/properties/a"}, "b": {"$ref": "#/$defs/none"}}}',
        '{"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"$ref": "#/$defs/a"}}}',
        '{"type": "object", "properties": {"a": {"anyOf": [{"type": "null"}]}, "b": {"anyOf": [true, {}]}}}',
        '{"type": "object", "properties": {"a": {"type": ["string", "null"], "default": 7, "enum": []}}}',
        '{"type": "object", "properties": {"a": {"type": "object", "title": 7, "description": [1]}}, "required": []}',
        '{"type": "array", "items": {"type": "integer"}}', '{"type": "boolean"}', '{"enum": [null, {"a": 1}]}',
    ],
)  # fmt: skip
def test_no_schema_breaks_it(schema: str) -> None:
    """A schema that says little is a field for JSON."""
    fields = fields_of(schema)
    assert fields
    for field in fields:
        text, _ = answer_of(schema, {field.name: "[1]"})
        json.loads(text)


def test_a_field_says_what_it_is_by_its_own_title() -> None:
    class Form(BaseModel):
        where_to: Address
        colour: Colour = Field(title="Which colour", description="Of the car.", default=Colour.RED)

    [where, colour] = fields_of(json.dumps(Form.model_json_schema()))
    assert (where.title, colour.title, colour.description) == ("Where to", "Which colour", "Of the car.")
    assert colour.typed == '"red"'
