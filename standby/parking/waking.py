"""Having runs taken up again, and ended, in Prefect."""

from __future__ import annotations

import logging
from typing import Any
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas import OrchestrationResult
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Cancelling, Scheduled

from standby import clock
from standby.believing import careful
from standby.errors import LedgerUnavailable
from standby.projection import runs_of
from standby.runs import AgentRun
from standby.wakeups import call

log = logging.getLogger("standby.parking")


async def wake(client: PrefectClient, run_id: str, *, presumed_dead: bool = False) -> State | None:
    """Have a worker take the run up again, if Prefect's state of it allows; the state it was found in, None if gone.

    Paused, suspended or crashed runs are scheduled. Running and pending ones only when ``presumed_dead``: what ran
    them is known to be gone. Ended runs and scheduled ones are left alone (unless they were woken for a time that the
    clock, set back since, has yet to reach).
    """
    client = careful(client)
    # So a run that is gone is no error, which a proxy's might be.
    if (flow_run := (await runs_of(client, [run_id])).get(run_id)) is None:
        return None
    state = flow_run.state
    if state is None or flow_run.deployment_id is None:
        return state
    stuck = {StateType.RUNNING, StateType.PENDING} if presumed_dead else set()
    planned = state.state_details.scheduled_time
    # Woken before the clock was set back, it would not be taken up before the clock is there again.
    ahead = state.name == "Resuming" and planned is not None and planned > clock.utcnow() + clock.AHEAD
    if state.type in {StateType.PAUSED, StateType.CRASHED} | stuck or ahead:
        result: OrchestrationResult[Any] = await client.set_flow_run_state(
            UUID(run_id), Scheduled(name="Resuming", scheduled_time=clock.utcnow())
        )
        if result.status is not SetStateStatus.ACCEPT:
            log.info("Run %s was not scheduled: %s", run_id, result.details)
    return state


async def wake_parents(run: AgentRun) -> None:
    """Wake the runs that waited for this one, which has ended; what fails here the keeper does."""
    try:
        parents = await run.ledger.children.parents_to_wake(run.id)
        if not parents:
            return
        async with get_client() as client:
            for parent in parents:
                if parent.wake_address is None or not call(parent.wake_address):
                    await wake(careful(client), parent.id)
    except (LedgerUnavailable, httpx.HTTPError, PrefectHTTPStatusError) as error:
        log.warning("The runs that waited for run %s could not be woken now, the keeper will: %s", run.id, error)


async def cancel(client: PrefectClient, run_id: str, message: str) -> State | None:
    """Have Prefect cancel the run; its state then, None if it is gone. One that has ended is left alone."""
    client = careful(client)
    if (flow_run := (await runs_of(client, [run_id])).get(run_id)) is None:
        return None
    state = flow_run.state
    if state is not None and (state.is_final() or state.is_cancelling()):
        return state
    result: OrchestrationResult[Any] = await client.set_flow_run_state(UUID(run_id), Cancelling(message=message))
    if result.status is not SetStateStatus.ACCEPT:
        log.info("Run %s was not cancelled as was asked: %s", run_id, result.details)
    return (await client.read_flow_run(UUID(run_id))).state
