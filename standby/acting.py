"""Steps that act beside the agent's own task: a run parks when none does, for to park would cut them off."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cached_property
from typing import Any

_looks: ContextVar[bool] = ContextVar("standby_looks", default=False)
"""Whether what acts here belongs to a look at what has changed during a wait."""


class Acting:
    """Of one attempt.

    ``asking``: the tasks beside the own one on whose behalf that may wait: where one ends, it has not to wait any more.
    """

    def __init__(self) -> None:
        self._holds_back = False
        self.asking: set[asyncio.Task[Any]] = set()
        self._keys: set[str] = set()
        self._around: dict[str, bool] = {}  # whether they have acted, by what their keys begin with

    @property
    def held_back(self) -> bool:
        """Whether none may begin here, because the run parks, is parked, or looks at what has changed meanwhile. What
        looks may: the own task waits for it."""
        return self._holds_back and not _looks.get()

    @contextmanager
    def one(self, key: str) -> Iterator[None]:
        """A step, or what comes to be one, acts in the block. It may be named again in it."""
        if key in self._keys:
            yield
            return
        self._keys.add(key)
        try:
            yield
        finally:
            self._keys.discard(key)
            self._around |= {below: True for below in self._around if key.startswith(below)}
            self._tell()

    @contextmanager
    def around(self, below: str) -> Iterator[None]:
        """What is in the block goes on when that has acted whose key begins so, such as the hooks of a tool."""
        self._around[below] = False
        try:
            yield
        finally:
            del self._around[below]
            self._tell()

    @contextmanager
    def halted(self, below: str) -> Iterator[None]:
        """What is around that waits in the block for the own task, and goes on only then."""
        acted = self._around.get(below, False)
        self._around |= {below: False} if acted else {}
        self._tell()
        try:
            yield
        finally:
            if below in self._around:
                self._around[below] = acted

    async def all_out(self, below: str, *, within: float) -> None:
        """Return when nothing of this goes on any more around what has acted, or after ``within`` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while any(acted and key.startswith(below) for key, acted in self._around.items()):
                    await self._change()

    def acts(self, key: str) -> bool:
        return key in self._keys

    def any(self, below: str = "") -> bool:
        """Whether one acts, or one whose key begins so."""
        return any(key.startswith(below) for key in self._keys)

    async def none(self, below: str = "", *, within: float | None = None) -> None:
        """Return when none acts, or none whose key begins so, or after ``within`` seconds (by default never)."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while self.any(below):
                    await self._change()

    @contextmanager
    def holding_back(self) -> Iterator[None]:
        """None begins in the block. It may be entered again in it."""
        if self._holds_back:
            yield
            return
        self._holds_back = True
        try:
            yield
        finally:
            self._holds_back = False
            self._tell()

    @contextmanager
    def looking(self) -> Iterator[None]:
        """None begins in the block but what is called in it, in whatever task."""
        token = _looks.set(True)
        try:
            with self.holding_back():
                yield
        finally:
            _looks.reset(token)

    async def let_on(self) -> None:
        """Return when they may begin."""
        while self.held_back:
            await self._change()

    @cached_property
    def _changed(self) -> asyncio.Event:
        return asyncio.Event()  # few need it, and it takes a kilobyte of each run that is parked warm

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _tell(self) -> None:
        if "_changed" in vars(self):
            self._changed.set()
