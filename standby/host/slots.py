"""How many agents of a host run at the same time. Those that wait for their turn go on in the order they came."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable


class Slots:
    """``limit``: None for any number."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._taken: set[str] = set()
        self._turns: OrderedDict[str, Callable[[], None]] = OrderedDict()

    @property
    def taken(self) -> int:
        return len(self._taken)

    @property
    def waiting(self) -> int:
        return len(self._turns)

    @property
    def free(self) -> int:
        """How many more could be in, where that has a limit; else 0."""
        return 0 if self.limit is None or self._turns else self.limit - len(self._taken)

    def awaits(self, name: str) -> bool:
        """Whether this one waits for its turn."""
        return name in self._turns

    def ask(self, name: str, turn: Callable[[], None]) -> bool:
        """Whether this one is in. If not it waits for its turn, and ``turn`` is called when it is in."""
        if name in self._taken:
            return True
        if self.limit is None or (len(self._taken) < self.limit and not self._turns):
            self._taken.add(name)
            return True
        self._turns.setdefault(name, turn)
        return False

    async def enter(self, name: str) -> None:
        """Return when it is this one's turn."""
        turn = asyncio.get_running_loop().create_future()

        def comes() -> None:
            if not turn.done():  # it may just have been cancelled
                turn.set_result(None)

        if self.ask(name, comes):
            return
        try:
            await turn
        except asyncio.CancelledError:
            self.leave(name)  # or its turn, which may have come in this very moment
            raise

    def leave(self, name: str) -> None:
        """It is not in any more, and does not wait to be."""
        self._taken.discard(name)
        self._turns.pop(name, None)
        while self._turns and (self.limit is None or len(self._taken) < self.limit):
            next_one, turn = self._turns.popitem(last=False)
            self._taken.add(next_one)
            turn()

    def hand_over(self, name: str, other: str) -> None:
        """Who is in gives its slot to another."""
        self._taken.discard(name)
        self._taken.add(other)
