"""Cancelling a run from outside: in Prefect, which tells whoever works on it, and in the ledger."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

from standby import holder
from standby.connect import open_prefect
from standby.errors import UsageError
from standby.ledger import Ledger
from standby.states import ENDED, Door, RunState

CANCEL_SECONDS = 10.0
"""How long Prefect may take to cancel a run."""


async def cancelled(ledger: Ledger, run: Any, by: str, api_url: str | None, door: Door = Door.TERMINAL) -> str:
    """Cancel a run (its ledger row) for ``by``, who came in by ``door``, which both are kept; what became of it, in
    words. Raises ``UsageError`` where it cannot be cancelled, or Prefect does not answer within ``CANCEL_SECONDS``; and
    ``httpx.HTTPError`` where it cannot be reached: nothing is cancelled then.

    One that Prefect does not have, because it was deleted there, is ended in the ledger.
    """
    from standby.parking import cancel

    if RunState(run.state) in ENDED:
        raise UsageError(f"Run {run.name} has ended: it is {run.state}.")
    said, through = f"cancelled by {by}", f"cancelled by {by} through {door}"
    at: datetime | None = None
    after: str | None = None
    if run.deployment_id is None:
        if run.holder is not None and not holder.is_dead(run.holder):
            raise UsageError(f"Run {run.name} was started by hand. Stop its process ({run.holder}), then cancel it.")
    else:
        if api_url is None:
            raise UsageError("No Prefect server is known here, which has to be told. Set PREFECT_API_URL.")
        try:
            async with asyncio.timeout(CANCEL_SECONDS), open_prefect(api_url) as client:
                state = await cancel(client, run.id, through)
        except TimeoutError as error:
            raise UsageError(
                f"The Prefect server at {api_url} does not answer; whether it has cancelled run {run.name} is not "
                "known. Cancel it again when it does."
            ) from error
        if state is None:
            gone = f"; Prefect at {api_url} does not have it"
            said, through = f"{said}{gone}", f"{through}{gone}"
        elif state.is_cancelled() or state.is_cancelling():
            at, after = state.timestamp, str(state.id)
        else:
            raise UsageError(f"Prefect does not cancel run {run.name}: it is {state.name} there.")
    await ledger.runs.end_from_outside(run.id, RunState.CANCELLED, through, at=at, after=after)
    await ledger.runs.cancelled_by(run.id, after, by, door, through)
    return f"is {said}"
