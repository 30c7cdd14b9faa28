"""Text that names something: a topic, a key, a delivery id, a source."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import AfterValidator, Field

LONGEST_NAME = 255
"""Characters of a name."""


def storable(text: str) -> str:
    """The text, if every database takes it. Raises ``ValueError`` for NUL and for halves of surrogate pairs."""
    if "\0" in text:
        raise ValueError("it has a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it has half of a surrogate pair, which is not a character") from None
    return text


def speakable(body: bytes) -> None:
    """Raise ``ValueError`` for a body that is no JSON, or has in it what is no character or no number."""
    try:
        json.dumps(json.loads(body), ensure_ascii=False, allow_nan=False).encode()
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME), AfterValidator(storable)]
