"""What a host says of an agent that goes on though it was cancelled."""

from __future__ import annotations

from standby.errors import LedgerUnavailable
from standby.ledger import Ledger
from standby.states import ENDED, RunState

FORSAKEN = (
    "Run %s (%s) goes on though it was cancelled%s: its code catches asyncio.CancelledError. The host goes on, or "
    "ends, without it: it has no place here any more, and none of its steps acts. What it does itself it does until "
    "the host's process ends: let its code end when it is cancelled, and start the host again."
)


async def why_lost(ledger: Ledger, run_id: str) -> str:
    """Why this attempt has the run no more, as the ledger says; empty where it cannot be asked."""
    try:
        row = await ledger.runs.get(run_id)
    except LedgerUnavailable:
        return ""
    if row is not None and RunState(row.state) in ENDED:
        return f", for the run is {row.state} by now"
    return ", for it is another's by now"
