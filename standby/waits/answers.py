"""Checking an answer where it comes in, before the run that asked for it sees it."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
from pydantic import ValidationError

from standby.errors import AnswerRefused, NotStorable
from standby.states import WaitKind
from standby.values import Codec, problems_of
from standby.waits.least import too_little
from standby.waits.names import imported


def checked_answer(wait: Any, text: str, whole: str = "answer") -> str:
    """The JSON text of an answer as it will be stored, if it fits the wait; else ``AnswerRefused`` names the fields.

    ``whole`` is the field where what is wrong is the answer as a whole.

    ``wait`` is the wait's row. Checked with the Pydantic type where it can be imported here, else with the JSON
    Schema the wait was opened with; the run checks with the type in any case.
    """
    try:
        plain = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise AnswerRefused(wait.key, [(whole, f"it is not JSON: {error}")]) from error
    schema = json.loads(wait.answer_schema or "{}")
    if unknown := unknown_fields(wait, plain):
        raise AnswerRefused(wait.key, unknown)
    found = imported(wait.answer_type)
    codec: Codec[Any] = Codec(lambda: Any if found is None else found)
    try:
        stored, _ = codec.encode(codec.decode(text), "the answer")
    except ValidationError as error:
        raise AnswerRefused(wait.key, problems_of(error, whole)) from error
    except NotStorable as error:
        raise AnswerRefused(wait.key, [(whole, str(error.__cause__))]) from error
    except Exception as error:  # a validator of the form that fails on what it was given
        raise AnswerRefused(wait.key, [(whole, f"{type(error).__name__}: {error}")]) from error
    if little := too_little(schema, json.loads(stored)):
        raise AnswerRefused(wait.key, little)
    if found is not None:
        return stored
    try:
        errors = sorted(jsonschema.Draft202012Validator(schema).iter_errors(plain), key=str)
    except Exception:
        return stored  # a schema that only Pydantic understands: the run checks with the type
    if errors:
        raise AnswerRefused(wait.key, [(".".join(map(str, e.absolute_path)) or whole, e.message) for e in errors])
    return stored


def unknown_fields(wait: Any, plain: Any) -> list[tuple[str, str]]:
    """Fields of an answer that its form does not have, each with what is wrong with it. A misspelt one would be dropped
    in silence, and its default taken."""
    schema = json.loads(wait.answer_schema or "{}")
    closed = "properties" in schema and not schema.get("additionalProperties")
    if wait.kind != WaitKind.APPROVAL or not isinstance(plain, dict) or not closed:
        return []
    return [(str(name), "the form has no such field") for name in plain if name not in schema["properties"]]


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")
