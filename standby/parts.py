"""Parts of a run, such as a tool of a model: their steps and waits have keys below the part's, counted there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Part:
    """``key`` stands before the keys of the part's own steps and waits."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.occurrences: Counter[str] = Counter()


current_part: ContextVar[Part | None] = ContextVar("standby_part", default=None)


@contextmanager
def part(key: str) -> Iterator[None]:
    """What is called here has its keys below ``key``: ``key/name``, ``key/name#2``. In any asyncio task."""
    token = current_part.set(Part(key))
    try:
        yield
    finally:
        current_part.reset(token)


def counted(name: str, occurrences: Counter[str]) -> str:
    """The key of the next step or wait called ``name``: the name, then ``name#2``, ``name#3`` ..."""
    occurrences[name] += 1
    return name if occurrences[name] == 1 else f"{name}#{occurrences[name]}"
