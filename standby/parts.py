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
        self.settling: Exception | None = None
        self.cut_off_after: float | None = None  # seconds, by whoever runs it
        self.is_step = False  # the part is one step, and what that returned is all there is to it

    def bar(self, why: Exception) -> None:
        """The part goes no further: raises ``Barred``, and so does the next step or wait in it, whatever it does."""
        self.barred = why
        self.check()

    def settle_only(self, why: Exception, *, is_step: bool) -> None:
        """Whether it may go on is not known yet: it goes only as far as it takes to know whether a step happened that
        was cut off, and is then barred."""
        self.settling, self.is_step = why, is_step

    def before_new(self) -> None:
        """Before anything that is not in the journal yet."""
        if self.settling is not None:
            self.bar(self.settling)
        if self.around is not None:
            self.around.before_new()

    def after_settled(self) -> None:
        """A step that was cut off is known to have happened: what comes after it is new."""
        if self.settling is not None and not self.is_step:
            self.bar(self.settling)
        if self.around is not None:
            self.around.after_settled()

    @property
    def settles(self) -> bool:
        """Whether this part, or one that it is in, only settles what was cut off."""
        return self.settling is not None or (self.around is not None and self.around.settles)

    @property
    def may_be_cut_off(self) -> bool:
        """Whether this part, or one that it is in, has a time limit that its steps know nothing of."""
        return self.cut_off_after is not None or (self.around is not None and self.around.may_be_cut_off)

    def is_around(self, inside: Part | None) -> bool:
        """Whether ``inside`` is this part, or one in it."""
        return inside is self or (inside is not None and self.is_around(inside.around))

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
