"""What may come in at all: text that names something (a topic, a key, a delivery id, a source), and JSON."""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import Annotated

from pydantic import AfterValidator, Field

LONGEST_NAME = 255
"""Characters of a name."""

DEEPEST = 100
"""How deep JSON may be nested. Python's own limit is some hundreds more, and differs with who reads it."""

_TEXT = re.compile(rb'"(?:[^"\\]|\\.?)*+"?', re.DOTALL)
_STEPS = {**dict.fromkeys(b"[{", 1), **dict.fromkeys(b"]}", -1)}
_NO_BRACKETS = bytes(set(range(256)) - set(_STEPS))


def storable(text: str) -> str:
    """The text, if every database takes it. Raises ``ValueError`` for NUL and for halves of surrogate pairs."""
    if "\0" in text:
        raise ValueError("it has a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it has half of a surrogate pair, which is not a character") from None
    return text


Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME), AfterValidator(storable)]


def speakable(body: bytes) -> None:
    """Raise ``ValueError`` for a body that is no JSON, too deep, or has in it what is no character or no number."""
    shallow(body)
    try:
        json.dumps(json.loads(body), ensure_ascii=False, allow_nan=False).encode()
    except RecursionError as error:  # it is in another encoding, where brackets look different
        raise ValueError("it is nested too deeply") from error


def shallow(body: bytes) -> None:
    """Raise ``ValueError`` for a body that, read as JSON in UTF-8, is nested more than ``DEEPEST`` deep."""
    if body.count(b"[") + body.count(b"{") <= DEEPEST:
        return
    brackets = _TEXT.sub(b"", body).translate(None, _NO_BRACKETS)
    if any(map(DEEPEST.__lt__, accumulate(map(_STEPS.__getitem__, brackets)))):
        raise ValueError(f"it is nested more than {DEEPEST} deep")
