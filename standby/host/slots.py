"""How many agents of a host run at the same time. Those that wait for their turn go on in the order they came."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable


class Slots:
    """``limit``: None for any number."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._when_free: Callable[[], None] | None = None
        self._taken: set[str] = set()
        self._turns: OrderedDict[str, asyncio.Future[None]] = OrderedDict()

    @property
    def taken(self) -> int:
        return len(self._taken)

    @property
    def waiting(self) -> int:
        return len(self._turns)

    @property
    def free(self) -> bool:
        return self.limit is None or (len(self._taken) < self.limit and not self._turns)

    async def enter(self, name: str) -> None:
        """Return when it is this one's turn."""
        if name in self._taken:
            return
        if self.free:
            self._taken.add(name)
            return
        turn = self._turns[name] = asyncio.get_running_loop().create_future()
        try:
            await turn
        except asyncio.CancelledError:
            if self._turns.pop(name, None) is None:
                self.leave(name)  # it was its turn in this very moment
            raise

    def leave(self, name: str) -> None:
        self._taken.discard(name)
        while self._turns and (self.limit is None or len(self._taken) < self.limit):
            next_one, turn = self._turns.popitem(last=False)
            if not turn.done():
                self._taken.add(next_one)
                turn.set_result(None)
        if self._when_free is not None and self.free:
            call, self._when_free = self._when_free, None
            call()

    def when_free(self, call: Callable[[], None]) -> None:
        """Call this once, when there is room again for somebody who does not wait here."""
        self._when_free = call
