"""Agents that agents start: each is started once for its wait, and its end is the wait's answer."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from datetime import datetime
from typing import Any, TypeGuard, cast
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import AwaitingRetry, Cancelling

from standby.believing import Careful, careful
from standby.errors import UsageError
from standby.faults import reach
from standby.ledger import Ledger
from standby.ledger.settling import Settled
from standby.projection import is_out_of_reach, runs_by_key, states_of
from standby.states import ENDED, RunState, WaitKind, WaitState

log = logging.getLogger("standby.children")

DELETED = "It was deleted in Prefect."

_ENDED = {StateType.COMPLETED: RunState.COMPLETED, StateType.FAILED: RunState.FAILED,
          StateType.CANCELLED: RunState.CANCELLED}  # fmt: skip


async def start_children(ledger: Ledger, waits: Iterable[Any], client: PrefectClient) -> list[Settled]:
    """Start the agents that these waits (ledger rows) are for, unless they are; what has settled by that.

    Raises ``UsageError`` when there is no such deployment.
    """
    client = careful(client)
    settled = []
    for wait in waits:
        if wait.kind != WaitKind.AGENT or wait.state != WaitState.OPEN:
            continue
        run_id = await _still_there(ledger, client, wait) or await _start(client, wait)
        reach("child.created")
        if (made := await ledger.children.started(wait, run_id)) is not None:
            settled.append(made)
    return settled


async def _still_there(ledger: Ledger, client: Careful, wait: Any) -> str | None:
    """The run that the wait has; not one that was cancelled with the wait when that was closed, and which is open
    again. One that has failed is retried."""
    if wait.child_run_id is None or wait.opening == 1:
        return cast(str | None, wait.child_run_id)
    child = UUID(wait.child_run_id)
    state = (await states_of(client, [wait.child_run_id])).get(wait.child_run_id)  # a run that is gone is no error
    if state is None or state.type in (StateType.CANCELLED, StateType.CANCELLING):
        await ledger.children.let_go_of(wait)
        return None
    if state.type is StateType.FAILED and not await _was_retried(client, wait):
        log.info("Run %s is retried, as the one that waits for it was.", child)
        await client.set_flow_run_state(child, AwaitingRetry(message=_for(wait)))
    return str(child)


def _for(wait: Any) -> str:
    return f"Retried for run {wait.run_id}, which waits for it ({wait.id}-{wait.opening})."


def _has_ended(state: State[Any] | None) -> TypeGuard[State[Any]]:
    return state is not None and state.type in _ENDED


async def _is_parked(ledger: Ledger, run_id: str) -> bool:
    run = await ledger.runs.get(run_id)
    return run is not None and run.state == RunState.PARKED


def _key(wait: Any) -> str:
    return f"{wait.id}-{wait.opening}"


async def _was_retried(client: Careful, wait: Any) -> bool:
    """Whether the wait's agent, which had failed, was retried for this opening of the wait."""
    return any(state.message == _for(wait) for state in await client.read_flow_run_states(UUID(wait.child_run_id)))


async def _start(client: Careful, wait: Any) -> str:
    """Once for each opening of the wait, however often this is called: Prefect keeps the key."""
    child = json.loads(wait.child)
    try:
        deployment = await client.read_deployment_by_name(child["deployment"])
    except ObjectNotFound as error:
        raise UsageError(
            f"There is no deployment {child['deployment']!r} to start. `prefect deployment ls` lists them."
        ) from error
    try:
        flow_run = await client.create_flow_run_from_deployment(
            deployment.id, parameters=child["parameters"], idempotency_key=_key(wait)
        )
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in (409, 422):
            raise
        raise UsageError(f"{child['deployment']} does not take these parameters: {_detail(error)}") from error
    return str(flow_run.id)


def _detail(error: PrefectHTTPStatusError) -> str:
    try:
        return str(error.response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return error.response.text


async def follow_children(ledger: Ledger, client: PrefectClient, unstarted_since: datetime) -> list[Settled]:
    """What a process that died left undone: start, settle by Prefect's word, cancel what nobody waits for any more."""
    client = careful(client)
    settled = []
    for wait in await ledger.children.unstarted(unstarted_since):
        try:
            settled += await start_children(ledger, [wait], client)
        except Exception as error:  # the others are not kept from theirs
            if await is_out_of_reach(client, error):
                raise
            log.warning("The agent that run %s waits for is not started: %s", wait.run_id, error)
    awaited = await ledger.children.awaited()
    # Before Prefect is asked: what ended before a wait opened again is about to be retried by the attempt there.
    at_work = {wait.run_id for wait in awaited if wait.opening > 1 and not await _is_parked(ledger, wait.run_id)}
    states = await states_of(client, {wait.child_run_id for wait in awaited})
    for wait in awaited:
        run, state = await ledger.runs.get(wait.child_run_id), states.get(wait.child_run_id)
        if state is None and run is None:
            settled += await ledger.children.ended_elsewhere(wait.child_run_id, RunState.CANCELLED, None, DELETED)
        elif state is None and run is not None and RunState(run.state) not in ENDED:
            # Nobody can take it up. Its parent is told by the same, and woken as one whose wake was missed.
            await ledger.runs.end_from_outside(run.id, RunState.CANCELLED, DELETED, attempt=run.attempt)
        elif run is not None:
            # It tells its parent itself, unless it ended in the moment in which the parent wrote down that it is its.
            if RunState(run.state) in ENDED and (made := await ledger.children.started(wait, run.id)) is not None:
                settled.append(made)
            elif _has_ended(state) and run.attempt == wait.child_attempt and wait.run_id not in at_work:
                # Retried, it has not come to the ledger.
                ended = _ENDED[state.type]
                settled += await ledger.children.ended_elsewhere(run.id, ended, None, state.message)
        elif _has_ended(state) and wait.run_id not in at_work:
            # A flow that is no agent, or never got as far as the ledger.
            ended = _ENDED[state.type]
            settled += await ledger.children.ended_elsewhere(wait.child_run_id, ended, None, state.message)
    await _cancel_abandoned(ledger, client)
    return settled


async def _cancel_abandoned(ledger: Ledger, client: Careful) -> None:
    abandoned = await ledger.children.abandoned()
    unknown = {_key(wait): wait for wait in abandoned if wait.child_run_id is None}
    made = await runs_by_key(client, unknown)
    for key, wait in unknown.items():
        if key in made:
            # Whoever has made it died before the ledger knew. It is cancelled at the next look.
            await ledger.children.started(wait, made[key])
        else:
            await ledger.children.let_go(wait.id)
    states = await states_of(client, {wait.child_run_id for wait in abandoned if wait.child_run_id is not None})
    for wait in abandoned:
        if wait.child_run_id is None:
            continue
        seen = states.get(wait.child_run_id)
        if seen is None or seen.is_final():
            await ledger.children.let_go(wait.id)
        elif seen.type is not StateType.CANCELLING:
            now = await ledger.waits.get(wait.id)
            if now is None or now.state == WaitState.OPEN:
                continue  # its parent was retried, and waits for it again
            log.info("Run %s is cancelled: nobody waits for it any more.", wait.child_run_id)
            try:
                await client.set_flow_run_state(UUID(wait.child_run_id), Cancelling())
            except (ObjectNotFound, PrefectHTTPStatusError) as error:
                log.warning("Run %s cannot be cancelled now: %s", wait.child_run_id, error)
