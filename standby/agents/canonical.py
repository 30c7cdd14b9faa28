"""One text for one JSON value, after RFC 8785: what an approval is bound to.

Keys are sorted by their UTF-16 code units, there is no white space, and a number that is whole is written as an
integer. Beyond the RFC, integers of any size keep all their digits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

from standby.ledger.text import digest_of

DEEPEST = 100
"""Lists and objects inside each other in the arguments of a call. More cannot be judged, kept and shown for sure."""

_EXACT = 2**53
"""Up to here a float that is whole stands for one integer."""


def canonical(value: Any) -> str:
    """The text of a JSON value. Raises ``ValueError`` for what is none: NaN, infinity, other types."""
    if value is None or isinstance(value, bool | str):
        return json.dumps(value)
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        if not isfinite(value):
            raise ValueError(f"{value} is not a JSON number")
        return str(int(value)) if value.is_integer() and abs(value) <= _EXACT else repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(canonical(item) for item in value)}]"
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("the keys of a JSON object are strings")
        keys = sorted(value, key=lambda key: key.encode("utf-16-be", "surrogatepass"))
        return "{" + ",".join(f"{json.dumps(key)}:{canonical(value[key])}" for key in keys) + "}"
    raise ValueError(f"{type(value).__name__} is not a JSON type")


def is_deeper(value: Any, than: int) -> bool:
    """Whether a JSON value has more than so many lists and objects inside each other."""
    level = [value]
    for _ in range(than):
        level = [inner for one in level for inner in _inside(one)]
    return any(map(_inside, level))


def _inside(value: Any) -> list[Any]:
    return list(value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ())


def digest(value: Any) -> str:
    """The digest of a JSON value: the same for values that are equal as JSON, whatever the order of their keys."""
    return digest_of(canonical(value))
