"""Where in the journal steps and waits stand: their keys and positions."""

from __future__ import annotations

from typing import NamedTuple

from standby.errors import UsageError

LONGEST_KEY = 500
"""Characters: an index of PostgreSQL takes some 2,700 bytes."""


class Place(NamedTuple):
    """Where in the journal a step or wait stands: its key, and its position unless it is in a racing branch."""

    key: str
    position: int | None


def question_on(key: str, attempt: int) -> str:
    """Key of the wait that asks a person whether the ``once`` step ``key`` happened in this attempt."""
    return f"{key}?{attempt}"


def is_question(key: str) -> bool:
    """Whether this is the key of such a wait."""
    return "?" in key


def check_key(key: str) -> None:
    """Refuse a name or explicit key that the journal's own marks (``#2``, ``/member``, ``?question``) would confuse, or
    that no database takes."""
    if not key or set("#/?") & set(key):
        raise UsageError(f"The key or name {key!r} will not do: it must not be empty or have '#', '/' or '?' in it.")
    if len(key) > LONGEST_KEY:
        raise UsageError(f"The key or name {key[:40]!r}... is {len(key)} long. {LONGEST_KEY} characters are the most.")
    check_text(key, f"The key or name {key!r}")


def check_text(text: str, what: str) -> None:
    """Refuse what cannot be stored: NUL, and half of a surrogate pair, which is no character."""
    if "\0" in text:
        raise UsageError(f"{what} has a NUL character, which cannot be stored. Remove it.")
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise UsageError(f"{what} has half of a surrogate pair, which is no character. Remove it.")
