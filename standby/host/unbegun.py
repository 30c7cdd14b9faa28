"""How Prefect shows a run that its host cannot begin."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State
from prefect.states import Crashed, Failed
from prefect.utilities.engine import propose_state

from standby.confirming import completed
from standby.errors import CodeNotLoaded, UsageError
from standby.ledger import Ledger
from standby.states import RunState


async def show_unbegun(
    ledger: Ledger, client: PrefectClient, run_id: str, error: BaseException, *, refused: bool
) -> None:
    """Show why the run could not be begun. ``refused``: it cannot be, and has failed; but never a run that the ledger
    has as completed, which was to be run again only to be shown so. Anything else is as if a process had died at its
    start, and is tried again.

    Raises as ``propose_state`` does, and ``LedgerUnavailable``.
    """
    told = isinstance(error, UsageError | CodeNotLoaded)
    message = str(error) if told else f"The run could not be begun: {type(error).__name__}: {error}"
    row = await ledger.runs.get(run_id) if refused else None
    if row is not None and row.state == RunState.COMPLETED:
        await client.set_flow_run_state(UUID(run_id), completed(run_id, message), force=True)
        return
    state: State[Any] = (Failed if refused else Crashed)(message=message)
    await propose_state(client, state, flow_run_id=UUID(run_id))
