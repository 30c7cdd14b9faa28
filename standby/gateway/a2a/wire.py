"""The protocol's messages from and to plain values, in its JSON."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.json_format import Error as NotJson  # type: ignore[import-untyped]
from google.protobuf.json_format import MessageToDict, ParseDict

__all__ = ["NotJson", "made", "plain"]

M = TypeVar("M")


def made(kind: type[M], value: Any) -> M:
    """A message of this kind with what the value says. Raises ``NotJson``."""
    message: M = ParseDict(value, kind())
    return message


def plain(message: Any) -> Any:
    """What the message says; all its numbers are floating. Raises ``NotJson``."""
    return MessageToDict(message)
