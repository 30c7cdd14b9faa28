"""Players who do one transaction after the other, in an order that dice give."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

Turn = Callable[[], Awaitable[None]]


class Turns:
    """Lets one of the players do one transaction, then another, as the dice say."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._waiting: list[asyncio.Future[None]] = []
        self._still = asyncio.Event()
        self._moving = 0

    async def __call__(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._rests()
        await turn

    def _rests(self) -> None:
        self._moving -= 1
        if not self._moving:
            self._still.set()

    async def play(self, parts: list[Callable[[Turn], Awaitable[None]]]) -> None:
        self._moving = len(parts)
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(part(self)).add_done_callback(lambda _: self._rests())  # type: ignore[arg-type]
            while True:
                await self._still.wait()
                self._still.clear()
                if not self._waiting:
                    return
                self._moving += 1
                self._waiting.pop(self._dice.randrange(len(self._waiting))).set_result(None)
