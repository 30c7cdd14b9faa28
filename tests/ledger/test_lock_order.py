"""Whoever writes several waits of a run locks the run first: two that lock its waits in another order would block each
other until the database ends one of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import text

from standby import clock
from standby.ledger import Ledger
from standby.ledger.locks import locked_run
from standby.states import Hold, Need
from tests.ledger.acts import approval, parked
from tests.ledger.conftest import Connect
from tests.support.waiting import wait_until

POLL = json.dumps({"function": "a:b", "args": {}, "every": 3600.0, "at_most": 3600.0})

WRITERS: dict[str, Callable[[Ledger], Awaitable[None]]] = {
    "bill": lambda ledger: ledger.holds.bill("run", "a", 1.5, let_go=True),
    "hurry": lambda ledger: ledger.polls.hurry(),
}


@pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("writer", WRITERS)
async def test_a_writer_of_several_waits_gives_way_to_who_has_the_run(
    ledger: Ledger, connect: Connect, writer: str
) -> None:
    polled = [approval(key, poll=POLL) for key in ("a", "b")]
    waits = await parked(ledger, polled, need=Need.ALL, hold=Hold.PAUSE)
    other = await connect()
    async with ledger.database.transaction() as connection:
        # In the order that the writer does not take.
        await locked_run(connection, "run")
        await touch(connection, waits.waits[1].id)
        writing = asyncio.ensure_future(WRITERS[writer](other))
        await wait_until(lambda: waits_for_a_lock(other), shows=lambda: writing)
        await touch(connection, waits.waits[0].id)
    await asyncio.wait_for(writing, 30)
    written = await ledger.waits.of_run("run")
    if writer == "bill":
        assert all(wait.let_go_at is not None for wait in written)
    else:
        assert all(wait.poll_at <= clock.utcnow() for wait in written)


async def touch(connection: object, wait_id: str) -> None:
    await connection.execute(text("UPDATE waits SET refused = 'no' WHERE id = :id"), {"id": wait_id})  # type: ignore[attr-defined]


async def waits_for_a_lock(ledger: Ledger) -> bool:
    rows = await ledger.database.read(
        text("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")  # type: ignore[arg-type]
    )
    return bool(rows)
