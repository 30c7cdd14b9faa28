"""Ledgers with many open waits: parked runs that wait for a signal each, written at once as if they had got there."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from sqlalchemy import select, text

from benchmarks.work import Reading
from standby import clock
from standby.ledger import Ledger
from standby.ledger.tables import Run, Wait, table_of
from standby.states import Hold, Need, RunState, WaitKind, WaitState

TOPIC = "gate.read"
BATCH = 2_000

runs = table_of(Run)
waits = table_of(Wait)


async def open_waits(ledger: Ledger, prefix: str, count: int) -> None:
    """Park ``count`` runs, each at a wait for a signal with its own key, ``{prefix}{n}``."""
    schema = json.dumps(Reading.model_json_schema())
    for first in range(0, count, BATCH):
        names = [f"{prefix}{number}" for number in range(first, min(first + BATCH, count))]
        async with ledger.database.transaction() as connection:
            await connection.execute(runs.insert(), [_run(name) for name in names])
            await connection.execute(waits.insert(), [_wait(name, schema) for name in names])
    if not ledger.database.sqlite:
        async with ledger.database.transaction() as connection:
            # PostgreSQL does it by itself, some time after so much was written.
            await connection.execute(text("ANALYZE"))


async def settled_at(ledger: Ledger, prefix: str) -> dict[str, float]:
    """When the waits of these keys were settled (seconds since 1970), by key."""
    query = select(waits.c.correlation, waits.c.settled_at).where(
        waits.c.correlation.startswith(prefix), waits.c.state == WaitState.SETTLED
    )
    return {row.correlation: row.settled_at.timestamp() for row in await ledger.database.read(query)}


def _run(name: str) -> dict[str, Any]:
    then = clock.utcnow() - timedelta(hours=1)
    return {
        "id": f"run-{name}", "flow": "gatekeeper", "name": name, "state": RunState.PARKED, "attempt": 1,
        "hold": Hold.SUSPEND, "started_at": then, "parked_at": then, "confirmed": False,
    }  # fmt: skip


def _wait(name: str, schema: str) -> dict[str, Any]:
    then = clock.utcnow() - timedelta(hours=1)
    return {
        "id": f"wait-{name}", "run_id": f"run-{name}", "key": TOPIC, "group_key": TOPIC, "member": 0,
        "need": Need.ONE, "kind": WaitKind.SIGNAL, "reason": f"{TOPIC} for {name}", "topic": TOPIC,
        "correlation": name, "answer_type": "benchmarks.work:Reading", "answer_schema": schema, "has_default": False,
        "state": WaitState.OPEN, "opened_at": then, "announced_at": then,
    }  # fmt: skip
