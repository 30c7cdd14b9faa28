"""A wait's JSON Schema as an HTML form, and what was typed into it as the answer's JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from standby.gateway.names import shallow

WHOLE = "answer"
"""The one field of a form that is no object."""

SWITCH = "approved"
"""The field that the buttons Approve and Reject fill in."""


@dataclass(frozen=True)
class Field:
    """One field. ``kind``: check, choice, date, decimal, json, lines, number, secret, switch or text.

    ``typed`` is what stands in it at first; ``choices`` are pairs of JSON text and what is shown.
    """

    name: str
    title: str
    description: str
    kind: str
    required: bool
    nullable: bool
    typed: str
    choices: tuple[tuple[str, str], ...] = ()

    def value(self, typed: str) -> Any:
        """What was typed as a value; as text where it is no such value, so that the check says what is wrong.

        Raises ``ValueError`` for JSON that is none, and ``KeyError`` for a field that is left out.
        """
        if typed == "" and self.kind != "switch":
            if typed != self.typed or self.required:
                if self.nullable:
                    return None
                if not self.required:
                    return ""  # somebody emptied what stood in it
            raise KeyError(self.name)
        if self.kind in ("check", "switch"):
            return {"true": True, "false": False}.get(typed, typed)
        if self.kind == "choice":
            return json.loads(typed) if typed in dict(self.choices) else typed
        if self.kind in ("number", "decimal"):
            return _number(typed)
        return _json(typed) if self.kind == "json" else typed.replace("\r\n", "\n")


def fields_of(text: str | None) -> list[Field]:
    """The fields of a JSON Schema (its text), in order."""
    schema = _schema(text)
    if not _is_form(schema):
        return [_field(WHOLE, schema, schema, required=True)]
    required = schema.get("required", [])
    return [_field(name, part, schema, required=name in required) for name, part in schema["properties"].items()]


def answer_of(text: str | None, given: Mapping[str, str]) -> tuple[str, list[tuple[str, str]]]:
    """The JSON text of the answer, and what is wrong with it as far as it is not JSON: ``(field, reason)``.

    What the form has no field for is part of it: the check refuses it by name.
    """
    fields = fields_of(text)
    made: dict[str, Any] = {name: typed for name, typed in given.items() if name not in {one.name for one in fields}}
    problems = []
    for field in fields:
        try:
            if field.name in given:
                made[field.name] = field.value(given[field.name])
        except KeyError:
            pass
        except ValueError as error:
            problems.append((field.name, f"it is not JSON: {error}"))
    whole = made if _is_form(_schema(text)) else made.get(WHOLE)
    return json.dumps(whole, allow_nan=False), problems


def _schema(text: str | None) -> dict[str, Any]:
    schema = json.loads(text or "{}")
    return schema if isinstance(schema, dict) else {}


def _is_form(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "object" and bool(schema.get("properties"))


def _field(name: str, part: Any, root: dict[str, Any], *, required: bool) -> Field:
    part = part if isinstance(part, dict) else {}
    meant, nullable = _meant(part, root)
    told = meant | part
    default = told.get("default")
    kind, choices = _kind(name, meant, optional=nullable or not (required or "default" in told))
    return Field(
        name=name,
        title=str(part.get("title") or name.replace("_", " ").capitalize()),
        description=str(told.get("description") or ""),
        kind=kind,
        required=required,
        nullable=nullable,
        typed=_typed(kind, default),
        choices=choices,
    )


def _meant(part: dict[str, Any], root: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The schema behind references and behind "or null"; and whether null is one of its values."""
    nullable = False
    for _ in range(20):  # as deep as anybody nests; a reference to itself is left as it is
        if isinstance(ref := part.get("$ref"), str) and ref.startswith("#/$defs/"):
            part = root.get("$defs", {}).get(ref.removeprefix("#/$defs/"), {})
        elif isinstance(kinds := part.get("type"), list):
            part = {**part, "type": None, "anyOf": [{**part, "type": kind} for kind in kinds]}
        elif len(whole := part.get("allOf") or []) == 1:
            part = whole[0]
        elif parts := part.get("anyOf") or part.get("oneOf"):
            left = [one for one in parts if isinstance(one, dict) and one.get("type") != "null"]
            nullable = nullable or len(left) < len(parts)
            if {one.get("type") for one in left} == {"number", "string"} and len(left) == 2:
                return {"type": "decimal"}, nullable  # as Pydantic has it
            if len(left) != 1:
                return {}, nullable
            part = left[0]
        else:
            break
    return part, nullable


def _kind(name: str, schema: dict[str, Any], *, optional: bool) -> tuple[str, tuple[tuple[str, str], ...]]:
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else None)
    if values:
        return "choice", tuple((json.dumps(value), value if isinstance(value, str) else json.dumps(value))
                               for value in values)  # fmt: skip
    kind = schema.get("type")
    if kind == "boolean":
        if name == SWITCH and not optional:
            return "switch", ()
        return ("choice", (("true", "yes"), ("false", "no"))) if optional else ("check", ())
    if kind in ("integer", "number"):
        return "number", ()
    if kind == "decimal":
        return "decimal", ()
    if kind == "string":
        if schema.get("format") in ("date", "password"):
            return {"date": "date", "password": "secret"}[schema["format"]], ()
        long = name == "comment" or schema.get("contentMediaType") == "application/json"
        return ("lines" if long else "text"), ()
    return "json", ()


def _typed(kind: str, default: Any) -> str:
    if default is None:
        return "false" if kind == "check" else ""
    if kind == "json":
        return json.dumps(default, indent=2, ensure_ascii=False)
    if kind == "choice" or not isinstance(default, str):
        return json.dumps(default)
    return default


def _number(typed: str) -> Any:
    """The number, if JSON has it to the last digit; a decimal field takes others as text."""
    try:
        value = json.loads(typed, parse_constant=str)
        exact = not isinstance(value, bool) and Decimal(repr(value)) == Decimal(typed.strip())
    except (ValueError, ArithmeticError, RecursionError):
        return typed
    return value if exact else typed


def _json(typed: str) -> Any:
    shallow(typed.encode("utf-8", "replace"))
    value = json.loads(typed)
    json.dumps(value, allow_nan=False)
    return value
