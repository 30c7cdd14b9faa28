"""What runs, people and outside systems do to a ledger, in one line each."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import text

from standby.ledger import Ledger
from standby.ledger.opening import Group, WaitRow
from standby.ledger.runs import Claim
from standby.ledger.settling import Settled
from standby.ledger.signals import Delivery
from standby.states import Door, Hold, Need, Outcome, RunState, WaitKind

LEASE = timedelta(seconds=20)
ME = "machine/1/1.00"
OTHER = "machine/2/2.00"
HEAD_STARTS = ((0.0, 0.0), (0.03, 0.0), (0.0, 0.03))
"""Seconds that each of two racers waits, beside chance: a close race, and each of the two well before the other."""


async def claim(ledger: Ledger, run: str = "run", *, holder: str = ME, presumed_dead: str | None = None) -> Claim:
    return await ledger.runs.claim(
        run,
        flow="an-agent",
        name=f"name of {run}",
        deployment_id="deployment",
        holder=holder,
        lease=LEASE,
        presumed_dead=presumed_dead,
    )


async def take_over(ledger: Ledger, run: str = "run", *, from_holder: str = ME, holder: str = OTHER) -> int:
    """Claim a run whose holder is known to be dead; the new attempt."""
    taken = await claim(ledger, run, holder=holder, presumed_dead=from_holder)
    assert taken.attempt, f"not taken over: {taken}"
    return taken.attempt


def approval(key: str = "approval", **columns: Any) -> WaitRow:
    return WaitRow(key=key, kind=WaitKind.APPROVAL, reason=f"reason of {key}", **columns)


def signal(key: str = "paid", topic: str = "paid", correlation: str | None = "7", **columns: Any) -> WaitRow:
    return WaitRow(
        key=key, kind=WaitKind.SIGNAL, reason=f"reason of {key}", topic=topic, correlation=correlation, **columns
    )


async def open_group(
    ledger: Ledger, rows: list[WaitRow], *, run: str = "run", attempt: int = 1, need: Need = Need.ONE, key: str = ""
) -> Group:
    """Open waits that must not be fenced. The group's key is that of its first wait unless given."""
    group = await ledger.waits.open(run, attempt, key or rows[0].key, 0, need, rows)
    assert group is not None, "fenced"
    return group


async def answer(
    ledger: Ledger, wait_id: str, text: str = '"yes"', *, actor: str | None = None, door: Door = Door.TERMINAL
) -> Settled:
    settled = await ledger.waits.settle(wait_id, outcome=Outcome.ANSWERED, answer=text, door=door, actor=actor)
    assert settled is not None, "no such wait"
    return settled


async def deliver(
    ledger: Ledger, delivery_id: str, topic: str = "paid", correlation: str | None = "7", payload: str | None = None
) -> Delivery:
    return await ledger.signals.deliver(
        source="bank",
        delivery_id=delivery_id,
        topic=topic,
        correlation=correlation,
        payload=payload if payload is not None else f'"{delivery_id}"',
    )


async def parked(
    ledger: Ledger, rows: list[WaitRow], *, run: str = "run", need: Need = Need.ONE, hold: Hold = Hold.SUSPEND
) -> Group:
    """A run that was claimed, opened these waits and parked on them."""
    attempt = (await claim(ledger, run)).attempt
    group = await open_group(ledger, rows, run=run, attempt=attempt, need=need)
    address = "127.0.0.1:9" if hold is Hold.PAUSE else None
    state = await ledger.runs.park(run, attempt, group.waits[0].group_key, hold, address)
    assert state is RunState.PARKED, state
    return group


async def states_of(ledger: Ledger, run: str = "run") -> dict[str, str]:
    """The state of each of the run's waits, by key."""
    return {wait.key: wait.state for wait in await ledger.waits.of_run(run)}


async def state_of_run(ledger: Ledger, run: str = "run") -> str:
    row = await ledger.runs.get(run)
    assert row is not None
    return str(row.state)


async def waiting_for_a_lock(ledger: Ledger) -> bool:
    """Whether a transaction in the PostgreSQL database waits for another."""
    blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with ledger.database.reading() as connection:
        return bool((await connection.execute(text(blocked))).scalar())
