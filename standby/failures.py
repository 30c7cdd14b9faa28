"""Errors of steps as JSON and back, so that a replay raises what the first run caught.

Kept: the class, its arguments and those of its attributes that JSON can hold. The class is imported again by its name;
where that fails, or it cannot be made, ``StepFailed`` stands in for it with the same message.
"""

from __future__ import annotations

import importlib
import json
from typing import Any

from standby.errors import StepFailed


def stored(error: Exception) -> str:
    """The error as JSON text."""
    kind = type(error)
    return json.dumps(
        {
            "type": f"{kind.__module__}:{kind.__qualname__}",
            "message": str(error),
            "args": [_plain(argument) for argument in error.args],
            "attributes": {name: _plain(value) for name, value in vars(error).items() if not name.startswith("__")},
        }
    )


def revived(text: str) -> Exception:
    """The error of a JSON text: of the same class where possible, with the same message."""
    data = json.loads(text)
    module, _, qualname = data["type"].partition(":")
    try:
        kind: Any = importlib.import_module(module)
        for part in qualname.split("."):
            kind = getattr(kind, part)
        if not issubclass(kind, Exception):
            raise TypeError(f"{data['type']} is not an exception")
        # Without __init__, which may want other things than what it passed on as arguments.
        error: Exception = kind.__new__(kind, *data["args"])
        error.args = tuple(data["args"])
        vars(error).update(data["attributes"])
        if str(error) == data["message"]:
            return error
    except Exception:
        return StepFailed(data["type"], data["message"])
    return StepFailed(data["type"], data["message"])


def _plain(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return str(value)
    return value
