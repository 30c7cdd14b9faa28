"""Prefect on behalf of a run that is about to wait: the client, and what is asked of it before the run parks."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import Abort, PrefectHTTPStatusError
from prefect.states import Cancelled

from standby.believing import Careful, careful
from standby.children import start_children
from standby.faults import reach
from standby.ledger.opening import Group
from standby.parking.following import is_busy
from standby.runs import AgentRun

log = logging.getLogger("standby.parking")

_NO_RETRY = ("Resuming", "Late", "AwaitingConcurrencySlot")
"""Names of scheduled states that a run comes to without a person who wants to have it run again."""


@asynccontextmanager
async def prefect_for(run_id: str) -> AsyncIterator[Careful]:
    """Prefect, on behalf of a run that is about to wait.

    The client has tried for about a minute when it gives up. That must not fail the run: the attempt ends (``Abort``)
    with its waits open in the ledger, and the keeper has the run taken up again when Prefect is back.
    """
    try:
        async with get_client() as client:
            yield careful(client)
    except (httpx.RequestError, PrefectHTTPStatusError) as error:
        if not is_busy(error):
            raise
        log.warning("Prefect cannot be reached, so run %s stops here until it can: %s", run_id, error)
        raise Abort(f"Prefect cannot be reached: {error}") from error


async def start_awaited(run: AgentRun, group: Group) -> None:
    """Start the agents that the group waits for. Raises ``UsageError`` when there is no such deployment."""
    async with prefect_for(run.id) as client:
        reach("child.starting")
        await start_children(run.ledger, group.waits, client)
        reach("child.started")


async def asked_again_since(run_id: UUID, ended_after: str | None, ended_at: datetime) -> bool:
    """Whether somebody has had the run started again since it ended, as Retry does."""
    async with prefect_for(str(run_id)) as client:
        return await retried_since(client, run_id, ended_after, ended_at)


async def cancel_was_overruled(run_id: UUID) -> bool:
    """Whether the run was cancelled and then begun all the same, by who woke it or was starting its process: Prefect
    lets a cancelled run be scheduled and begun."""
    async with prefect_for(str(run_id)) as client:
        return await cancelled_before(client, run_id) is not None


async def show_cancelled(run_id: UUID, why: str) -> None:
    """Have Prefect show a run as cancelled that it had begun all the same."""
    async with prefect_for(str(run_id)) as client:
        await client.set_flow_run_state(run_id, Cancelled(message=why), force=True)


async def has_run(run_id: UUID) -> bool:
    """Whether an attempt of the run was there before this one."""
    async with prefect_for(str(run_id)) as client:
        seen = [state.type for state in await client.read_flow_run_states(run_id)]
    return StateType.PAUSED in seen or seen.count(StateType.RUNNING) > 1


async def retried_since(
    client: PrefectClient, run_id: UUID, ended_after: str | None, ended_at: datetime, *, but: str | None = None
) -> bool:
    """The same, of a Prefect that is at hand. A wake schedules a run, too, and is no retry; nor is what has the message
    ``but``.

    Prefect's clock and the ledger's need not agree: the time counts only where Prefect does not know the state.
    """
    history = await careful(client).read_flow_run_states(run_id)
    history = [state for state in history if but is None or state.message != but]
    ids = [str(state.id) for state in history]
    if ended_after in ids:
        return any(map(_is_retry, history[ids.index(ended_after) + 1 :]))
    return any(_is_retry(state) and state.timestamp > ended_at for state in history)


async def stands_since(client: PrefectClient, run_id: UUID, state_id: UUID) -> bool | None:
    """Whether nobody has had the run started again since it came to this state; None if it has not come to it."""
    history = await careful(client).read_flow_run_states(run_id)
    ids = [state.id for state in history]
    if state_id not in ids:
        return None
    return not any(map(_is_retry, history[ids.index(state_id) + 1 :]))


async def cancelled_before(client: PrefectClient, run_id: UUID) -> State[Any] | None:
    """The state by which the run was cancelled, if nobody has retried it since."""
    cancelled = None
    for state in await careful(client).read_flow_run_states(run_id):
        if state.type in (StateType.CANCELLED, StateType.CANCELLING):
            cancelled = state
        elif _is_retry(state):
            cancelled = None
    return cancelled


def _is_retry(state: State[Any]) -> bool:
    return state.type is StateType.SCHEDULED and is_retry(state.name)


def is_retry(name: str | None) -> bool:
    """Whether a scheduled state of this name says that somebody wants to have the run run again."""
    return name not in _NO_RETRY
