"""One body, every store: the tests of this folder run on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from standby import clock
from standby.ledger import Ledger

Connect = Callable[[], Awaitable[Ledger]]


@pytest.fixture
async def connect(ledger_url: str) -> AsyncIterator[Connect]:
    """Open the ledger again, with connections of its own, as another process would."""
    opened: list[Ledger] = []

    async def another() -> Ledger:
        ledger = await Ledger.connect(ledger_url)
        opened.append(ledger)
        return ledger

    yield another
    for ledger in opened:
        await ledger.close()


class Watch:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, by: timedelta) -> None:
        self.now += by


@pytest.fixture
def watch() -> Iterator[Watch]:
    watch = Watch()
    clock.set_source(watch)
    yield watch
    clock.set_source(None)
