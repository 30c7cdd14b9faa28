"""Errors of steps as JSON and back, so that a replay raises what the first run caught.

Kept: the class, its arguments, notes and attributes, those that are plain values as what they were, others as text. The
class is imported again by its name; where that fails, or it cannot be made, a ``StepFailed`` stands in for it with the
same message, which is an error of the nearest class above it, too, that can be. Some classes keep what they know
elsewhere: those of ``_WAYS`` are taken apart and made in a way of their own.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

import httpx
from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from standby.errors import StepFailed

TAG = "standby"
"""The key of a JSON object that stands for a value which JSON has not."""

BODY_CHARS = 10_000
"""Characters that are kept of the body of an HTTP response."""


def stored(error: Exception) -> str:
    """The error as JSON text."""
    return json.dumps(_taken_apart(error))


def revived(text: str) -> Exception:
    """The error of a JSON text: of the same class where possible, with the same message."""
    return _made(json.loads(text))


def _taken_apart(error: Exception) -> dict[str, Any]:
    kind = type(error)
    attributes = {name: value for name, value in vars(error).items() if not name.startswith("__")}
    data: dict[str, Any] = {"type": f"{kind.__module__}:{kind.__qualname__}", "message": _said(error)}
    for base, way in _WAYS.items():
        if isinstance(error, base):
            data["way"] = way.apart(error)
            attributes = {name: value for name, value in attributes.items() if name not in way.attributes}
    above = kind.__mro__[: kind.__mro__.index(Exception)]
    return data | {
        "bases": [f"{base.__module__}:{base.__qualname__}" for base in above if issubclass(base, Exception)],
        "args": [_plain(argument) for argument in error.args],
        "attributes": {name: _plain(value) for name, value in attributes.items()},
        "notes": [_text_of(note) for note in getattr(error, "__notes__", ())],
    }


def _made(data: dict[str, Any]) -> Exception:
    error = _made_as(data["type"], data)
    for base in data.get("bases", ()):
        if error is not None:
            break
        error = _made_as(base, data, stands_in=True)
    if error is None:
        error = StepFailed(data["type"], data["message"])
    for note in data.get("notes", ()):
        error.add_note(note)
    return error


def _made_as(name: str, data: dict[str, Any], *, stands_in: bool = False) -> Exception | None:
    """The error, as one of the class of this name, or as one that stands in for it; None if that cannot be."""
    try:
        kind = _imported(name)
        if not issubclass(kind, Exception):
            raise TypeError(f"{name} is not an exception")
        if stands_in:
            kind = _stand_in(data["type"], kind)
        args = tuple(map(_value, data["args"]))
        way = next((way for base, way in _WAYS.items() if issubclass(kind, base)), None)
        if "way" in data and way is not None:
            error = way.make(kind, args, data["way"])
        else:
            # Without __init__, which may want other things than what it passed on as arguments.
            error = kind.__new__(kind, *args)
            error.args = args
        if stands_in:
            error.kind, error.said = data["type"], data["message"]
        vars(error).update({name: _value(value) for name, value in data["attributes"].items()})
        made: Exception | None = error if way is not None or str(error) == data["message"] else None
    except Exception:
        return None
    return made


@lru_cache(maxsize=128)
def _stand_in(name: str, base: type[Exception]) -> type[StepFailed]:
    """A class that is caught where ``base`` is, with the last part of the name."""

    class StandIn(StepFailed, base):  # type: ignore[misc, valid-type]
        __slots__ = ("said",)

        def __str__(self) -> str:
            return str(self.said)

    StandIn.__name__ = StandIn.__qualname__ = name.rpartition(".")[2].rpartition(":")[2]
    return StandIn


def _said(error: Exception) -> str:
    try:
        return str(error)
    except Exception as worse:
        return f"{type(error).__name__}, which cannot say what is wrong: {type(worse).__name__}"


def _imported(name: str) -> Any:
    module, _, qualname = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


# Values.

_AS_TEXT: dict[str, tuple[type, Callable[[Any], str], Callable[[str], Any]]] = {
    "datetime": (datetime, datetime.isoformat, datetime.fromisoformat),
    "date": (date, date.isoformat, date.fromisoformat),
    "time": (time, time.isoformat, time.fromisoformat),
    "timedelta": (timedelta, lambda span: f"{span.days} {span.seconds} {span.microseconds}",
                  lambda text: timedelta(*map(int, text.split()))),
    "Decimal": (Decimal, str, Decimal),
    "UUID": (UUID, str, UUID),
    "bytes": (bytes, bytes.hex, bytes.fromhex),
}  # fmt: skip


def _plain(value: Any) -> Any:
    """A value as JSON has it; what is no plain value as its text."""
    try:
        found = _tagged(value)
        json.dumps(found, allow_nan=False)
    except Exception:
        return _text_of(value)
    return found


def _tagged(value: Any) -> Any:
    kind = type(value)
    if value is None or kind in (str, bool, int, float):
        return value
    if kind is list:
        return [_tagged(one) for one in value]
    if kind in (tuple, set, frozenset):
        return {TAG: kind.__name__, "of": [_tagged(one) for one in value]}
    if kind is dict and TAG not in value and all(type(name) is str for name in value):
        return {name: _tagged(one) for name, one in value.items()}
    for name, (known, to_text, _) in _AS_TEXT.items():
        if kind is known:
            return {TAG: name, "of": to_text(value)}
    if isinstance(value, Enum):
        name = f"{kind.__module__}:{kind.__qualname__}"
        if _imported(name) is kind:
            return {TAG: "enum", "of": [name, value.name]}
    return _text_of(value)


def _value(plain: Any) -> Any:
    if isinstance(plain, list):
        return [_value(one) for one in plain]
    if not isinstance(plain, dict):
        return plain
    if TAG not in plain:
        return {name: _value(one) for name, one in plain.items()}
    kind, of = plain[TAG], plain["of"]
    if kind in _AS_TEXT:
        return _AS_TEXT[kind][2](of)
    if kind == "enum":
        return _imported(of[0])[of[1]]
    return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](map(_value, of))


def _text_of(value: Any) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"


# Classes that keep what they know elsewhere than in their arguments and attributes.


class _Way(NamedTuple):
    """``apart``: what is kept of an error as JSON; ``make``: it again, of a class, its arguments and that."""

    apart: Callable[[Any], Any]
    make: Callable[[Any, tuple[Any, ...], Any], Any]
    attributes: tuple[str, ...] = ()


def _make_os_error(kind: Any, args: tuple[Any, ...], files: list[str | None]) -> Any:
    first, second = files
    given = args if first is None else (*args, first, None, second)
    error = kind.__new__(kind, *given)
    # Which has set them already, unless the class has an __init__ of its own.
    OSError.__init__(error, *given)
    if first is None:
        error.args = args
    return error


def _make_unicode_error(kind: Any, args: tuple[Any, ...], _: None) -> Any:
    error = kind.__new__(kind, *args)
    built_in = next(base for base in kind.__mro__ if base.__module__ == "builtins")
    built_in.__init__(error, *args)
    error.args = args
    return error


def _apart_from_http(error: httpx.HTTPStatusError) -> Any:
    request, response = error.request, error.response
    try:
        body = response.text[:BODY_CHARS]
    except httpx.StreamError:
        body = ""
    return [request.method, str(request.url), response.status_code, body]


def _make_http(kind: Any, args: tuple[Any, ...], kept: list[Any]) -> Any:
    request = httpx.Request(kept[0], kept[1])
    error = kind.__new__(kind)
    error.args, error.request = args, request
    error.response = httpx.Response(kept[2], request=request, text=kept[3])
    return error


def _make_validation(_kind: Any, _args: tuple[Any, ...], kept: list[Any]) -> Any:
    title, errors = kept
    try:
        return ValidationError.from_exception_data(title, [_detail(one) for one in errors])
    except Exception:  # of kinds that only their validators know, or from another Pydantic
        own = [{**one, "type": PydanticCustomError(one["type"], "{said}", {"said": one["msg"]})} for one in errors]
        return ValidationError.from_exception_data(title, [_detail(one) for one in own])


def _detail(one: dict[str, Any]) -> InitErrorDetails:
    detail = InitErrorDetails(type=one["type"], loc=tuple(one["loc"]), input=_value(one["input"]))
    raised = {"value_error": ValueError, "assertion_error": AssertionError}.get(one["type"])
    if raised is not None:
        detail["ctx"] = {"error": raised(one["msg"].partition(", ")[2])}
    elif one["ctx"] and isinstance(one["type"], str):
        detail["ctx"] = _value(one["ctx"])
    return detail


def _apart_from_validation(error: ValidationError) -> Any:
    found = error.errors(include_url=False)
    return [error.title, [
        {"type": one["type"], "loc": list(one["loc"]), "msg": one["msg"], "input": _plain(one["input"]),
         "ctx": _plain(one.get("ctx", {}))}
        for one in found
    ]]  # fmt: skip


def _make_group(kind: Any, args: tuple[Any, ...], kept: list[Any]) -> Any:
    return kind(kept[0], [_made(one) for one in kept[1]])


_WAYS: dict[type[Exception], _Way] = {
    OSError: _Way(
        lambda error: [None if name is None else _text_of(name) for name in (error.filename, error.filename2)],
        _make_os_error,
    ),
    UnicodeError: _Way(lambda error: None, _make_unicode_error),
    httpx.HTTPStatusError: _Way(_apart_from_http, _make_http, ("request", "response", "_request")),
    ValidationError: _Way(_apart_from_validation, _make_validation),
    ExceptionGroup: _Way(lambda error: [error.message, [_taken_apart(one) for one in error.exceptions]], _make_group),
}
