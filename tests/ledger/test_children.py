"""Waits for other runs in the ledger: an end is never lost, whichever is written first."""

import asyncio
import json
from typing import Any

from standby.ledger import Ledger
from standby.ledger.opening import WaitRow
from standby.states import RunState, WaitKind, WaitState

from .acts import claim, parked
from .conftest import Connect

CHILD = json.dumps({"deployment": "a/b", "parameters": {}, "if_closed": "cancel"})


async def waiting(ledger: Ledger, run: str = "parent") -> Any:
    """A parent that is parked at a wait for a run that is not known yet."""
    row = WaitRow(key="child", kind=WaitKind.AGENT, reason="the child", child=CHILD)
    return (await parked(ledger, [row], run=run)).waits[0]


async def test_an_end_before_the_parent_has_written_down_whose_it_is_counts(ledger: Ledger) -> None:
    wait = await waiting(ledger)
    await claim(ledger, "child")
    await ledger.runs.end("child", 1, RunState.COMPLETED, result="7")
    made = await ledger.children.started(wait, "child")
    assert made is not None
    assert (made.won, made.wake) == (True, True)
    assert json.loads(made.wait.answer) == {"run_id": "child", "state": "completed", "result": 7, "error": None}
    assert await ledger.children.started(wait, "child") is None, "and once"


async def test_an_end_that_meets_the_note_whose_it_is_is_told_at_the_latest_by_the_keeper(connect: Connect) -> None:
    first, second = await connect(), await connect()
    for number in range(20):
        child, parent = f"child {number}", f"parent {number}"
        wait = await waiting(first, parent)
        await claim(second, child)
        await asyncio.gather(
            first.children.started(wait, child), second.runs.end(child, 1, RunState.COMPLETED, result="7")
        )
        await first.children.started(wait, child)
        after = await first.waits.get(wait.id)
        assert after is not None
        assert after.state == WaitState.SETTLED
