"""What all sources share: the request as it came, what it turned out to be, and how signatures are compared."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from standby.gateway.names import shallow

EMPTY = "is empty: take it out, or fill it in"
"""What is wrong with a secret that everybody has."""


class Unverified(Exception):
    """Nobody we know has sent this. The message says what is wrong, and nothing about the secret."""


class Malformed(Exception):
    """It is from whom it says, and makes no sense. ``field`` is the header or the part of the body."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field, self.reason = field, reason


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request to verify. ``headers`` have lower-case names. ``tolerance`` is how many seconds a clock may be off."""

    headers: Mapping[str, str]
    body: bytes
    secrets: tuple[str, ...]  # any of them will do: two during a rotation
    now: datetime
    tolerance: float

    def header(self, name: str) -> str:
        """The header's value. Raises ``Unverified`` if it is not there: these carry the signature."""
        value = self.headers.get(name, "")
        if not value:
            raise Unverified(f"the header {name} is missing")
        return value

    def check_age(self, timestamp: str) -> None:
        """Refuse what was signed too long ago, or in the future: it may be a recording. ``timestamp`` is in seconds."""
        try:
            signed = float(timestamp)
            age = abs(self.now.timestamp() - signed)
        except (ValueError, OverflowError):
            raise Unverified("its timestamp is not a number of seconds") from None
        if not age <= self.tolerance:
            raise Unverified(f"its timestamp is {age:.0f} seconds off, and {self.tolerance:g} are allowed")

    def check_hmac(self, message: bytes, given: list[str], algorithm: str = "sha256") -> None:
        """Refuse unless one of the hexadecimal signatures is that of the message with one of the secrets."""
        for secret in self.secrets:
            expected = hmac.new(secret.encode(), message, algorithm).hexdigest().encode()
            # Bytes: compare_digest refuses text that is not ASCII, and signatures are whatever was sent.
            if any(hmac.compare_digest(expected, one.encode("utf-8", "replace")) for one in given):
                return
        raise Unverified("the signature does not match")

    def json(self) -> Any:
        return parsed(self.body)


@dataclass(frozen=True, slots=True)
class Received:
    """A webhook that was verified: its delivery id, its type if it has one, and its JSON.

    All of it is signed, but for what a scheme signs nowhere (GitHub's id and event). ``place``: where the JSON is; what
    is in it is found with that before it, too, unless it is the whole body.
    """

    delivery_id: str
    type: str | None
    data: Any
    place: str = "body"


def parsed(body: bytes) -> Any:
    """The body as JSON. Raises ``Malformed``."""
    try:
        shallow(body)
        return json.loads(body.decode(), parse_constant=_no_constant)
    except ValueError as error:
        raise Malformed("body", f"it is not JSON: {error}") from None


def text_at(data: Any, field: str) -> str | None:
    """The text in a field of an object; None if there is none. Raises ``Malformed`` for anything but text."""
    value = data.get(field) if isinstance(data, dict) else None
    if value is not None and not isinstance(value, str):
        raise Malformed(f"body.{field}", "it is not text")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")
