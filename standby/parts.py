"""Parts of a run, such as a tool of a model: their steps and waits have keys below the part's, counted there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Part:
    """``key`` stands before the keys of the part's own steps and waits. ``around``: the part that it is in."""

    def __init__(self, key: str, around: Part | None = None) -> None:
        self.key = key
        self.around = around
        self.occurrences: Counter[str] = Counter()
        self.barred: Exception | None = None

    def bar(self, why: Exception) -> None:
        """The part goes no further: raises ``Barred``, and so does the next step or wait in it, whatever it does."""
        self.barred = why
        self.check()

    def check(self) -> None:
        """Raise ``Barred`` if this part, or one that it is in, goes no further."""
        if self.barred is not None:
            raise Barred(self)
        if self.around is not None:
            self.around.check()


class Barred(BaseException):
    """Says to whoever runs a part that it must not go on. No ``except Exception`` on the way swallows it."""

    def __init__(self, part: Part) -> None:
        super().__init__(f"{part.key} goes no further: {part.barred}")


current_part: ContextVar[Part | None] = ContextVar("standby_part", default=None)


@contextmanager
def part(key: str) -> Iterator[Part]:
    """What is called here has its keys below ``key``: ``key/name``, ``key/name#2``. In any asyncio task."""
    inside = Part(key, current_part.get())
    token = current_part.set(inside)
    try:
        yield inside
    finally:
        current_part.reset(token)


def counted(name: str, occurrences: Counter[str]) -> str:
    """The key of the next step or wait called ``name``: the name, then ``name#2``, ``name#3`` ..."""
    occurrences[name] += 1
    return name if occurrences[name] == 1 else f"{name}#{occurrences[name]}"
