"""PostgreSQL tells which run is READY; SQLite tells nothing, and nobody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from standby.ledger import Ledger
from standby.ledger.database import Database
from standby.ledger.notifications import Notifications
from standby.states import Hold, Need, RunState
from tests.ledger.acts import answer, approval, claim, open_group, parked
from tests.support.databases import kill_listeners
from tests.support.waiting import wait_until


@pytest.fixture
async def on_postgres(postgres_url: str) -> AsyncIterator[Ledger]:
    opened = await Ledger.connect(postgres_url)
    yield opened
    await opened.close()


async def test_a_run_is_told_of_when_its_group_has_settled(on_postgres: Ledger) -> None:
    """Suspended or paused in its process alike; not while another wait of its group is open."""
    heard: list[str | None] = []
    both = (await parked(on_postgres, [approval("a"), approval("b")], run="both", need=Need.ALL)).waits
    [paused] = (await parked(on_postgres, [approval()], run="paused", hold=Hold.PAUSE)).waits
    async with on_postgres.notifications.to(heard.append):
        await wait_until(lambda: heard == [None])
        await answer(on_postgres, both[0].id)
        await answer(on_postgres, paused.id)
        await answer(on_postgres, both[1].id)
        await wait_until(lambda: heard == [None, "paused", "both"], shows=lambda: heard)


async def test_a_run_that_was_answered_before_it_had_parked_is_told_of(on_postgres: Ledger) -> None:
    """Its process may die before it has woken itself."""
    heard: list[str | None] = []
    attempt = (await claim(on_postgres)).attempt
    [wait] = (await open_group(on_postgres, [approval()], attempt=attempt)).waits
    async with on_postgres.notifications.to(heard.append):
        await wait_until(lambda: heard == [None])
        await answer(on_postgres, wait.id)
        assert await on_postgres.runs.park("run", attempt, wait.group_key, Hold.SUSPEND) is RunState.READY
        await wait_until(lambda: heard == [None, "run"], shows=lambda: heard)


async def test_a_killed_connection_comes_back_and_says_so(on_postgres: Ledger) -> None:
    """Row 46: what was told meanwhile is lost, so all who listen are told to look; then they hear again."""
    heard: list[str | None] = []
    other: list[str | None] = []
    [wait] = (await parked(on_postgres, [approval()])).waits
    async with on_postgres.notifications.to(heard.append), on_postgres.notifications.to(other.append):
        await wait_until(lambda: heard and other)
        assert await kill_listeners(on_postgres) == 1, "one connection for all"
        await wait_until(lambda: heard == other == [None, None], shows=lambda: (heard, other))
        await answer(on_postgres, wait.id)
        await wait_until(lambda: heard == other == [None, None, "run"], shows=lambda: (heard, other))


async def test_a_server_that_is_away_keeps_nobody(on_postgres: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither while a connection is tried for nor when the block ends."""
    away = Notifications(Database("postgresql://nobody@127.0.0.1:1/nowhere"))
    async with asyncio.timeout(5), away.to(lambda _: None):
        await asyncio.sleep(0)
    assert on_postgres.notifications._task is None, "and a listener that nobody has asked for is not there"


async def test_on_sqlite_nobody_listens(sqlite_url: str) -> None:
    ledger = await Ledger.connect(sqlite_url)
    heard: list[str | None] = []
    [wait] = (await parked(ledger, [approval()])).waits
    async with ledger.notifications.to(heard.append):
        assert (await answer(ledger, wait.id)).wake
    assert heard == []
    await ledger.close()
