"""What a run that is retried waits for once more: that which ended it."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from standby import clock
from standby.ledger.children import try_again
from standby.ledger.notices import notify
from standby.ledger.tables import Decision, Wait, table_of
from standby.ledger.votes import next_chase
from standby.states import NoticeKind, Outcome, RunState, Verdict, WaitKind, WaitState

waits = table_of(Wait)
decisions = table_of(Decision)

RETRIED = "the run failed for it and was retried"


async def wait_again(connection: AsyncConnection, run_id: str, key: str) -> None:
    """Open the waits of the group that raised the error which ended the run: those for agents that failed, and those
    that timed out, which get a new deadline. In the transaction that claims the run for its retry."""
    settled = await connection.execute(
        select(waits).where(waits.c.run_id == run_id, waits.c.group_key == key, waits.c.state == WaitState.SETTLED)
    )
    found = [wait for wait in settled.all() if _raised(wait)]
    if not found:
        return
    ids, now = [wait.id for wait in found], clock.utcnow()
    await try_again(connection, ids)
    for wait in found:
        await connection.execute(
            update(waits)
            .where(waits.c.id == wait.id)
            .values(
                state=WaitState.OPEN,
                outcome=None,
                answer=None,
                settled_at=None,
                deadline=None,
                opening=wait.opening + 1,
                announced_at=None,
                chased=0,
                chase_at=next_chase(wait.policy, now, 0),
            )
        )
    await connection.execute(
        update(decisions)
        .where(decisions.c.wait_id.in_(ids), decisions.c.verdict == Verdict.WON)
        .values(verdict=Verdict.REFUSED, note=RETRIED)
    )
    await notify(connection, found, NoticeKind.OPENED)


def _raised(wait: Row[Any]) -> bool:
    if wait.outcome == Outcome.TIMED_OUT:
        return True
    return bool(wait.kind == WaitKind.AGENT and json.loads(wait.answer)["state"] != RunState.COMPLETED)
