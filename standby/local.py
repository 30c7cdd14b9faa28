"""Run an agent in this very process, without a deployment: for trying things, scripts and notebooks."""

from __future__ import annotations

import json
import os
from typing import Any, get_type_hints

from prefect import Flow, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import Abort
from prefect.flow_engine import run_flow_async
from prefect.settings import (
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)
from prefect.utilities.callables import get_call_parameters
from pydantic import ValidationError

from standby import holder
from standby.checkpoints import load_store, shared_ledger
from standby.errors import NotStorable, RunStopped
from standby.pulse import pulse
from standby.states import RunState
from standby.values import Codec


async def run_here(agent: Flow[..., Any], **parameters: Any) -> Any:
    """Run the agent with these parameters here and return its result; it waits in Prefect's own pause.

    If an earlier process that did the same was killed on the way, or stopped, its run goes on from its checkpoints.
    Without ``PREFECT_API_URL`` Prefect starts a temporary server; its data, and the ledger, are kept. Raises
    ``RunStopped`` when this attempt ends before the run does, as when the ledger or Prefect cannot be reached any more.
    """
    os.environ.setdefault("DO_NOT_TRACK", "1")
    # Prefect gives its temporary server 20 seconds, which a slow machine needs for the imports alone.
    patience = max(120, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value())
    with temporary_settings(
        {PREFECT_SERVER_ANALYTICS_ENABLED: False, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: patience}
    ):
        async with get_client():  # one temporary server for all that follows
            # Prefect has the run with the values of those that are left out, too.
            all_of_them = get_call_parameters(agent.fn, (), parameters)
            found = await _interrupted(agent, all_of_them)
            try:
                if found is not None:
                    return await run_flow_async(agent, flow_run=found, parameters=parameters)
                return await agent(**parameters)
            except Abort as stop:
                raise RunStopped(f"{str(stop).rstrip('.')}.") from None


async def _interrupted(agent: Flow[..., Any], parameters: dict[str, Any]) -> FlowRun | None:
    """The latest run of this agent with these parameters that was left before its end, if there is one."""
    unfinished = [StateType.PAUSED, StateType.RUNNING, StateType.CRASHED]
    async with get_client() as client:
        candidates = await client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[agent.name])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=unfinished))),
            sort=FlowRunSort.START_TIME_DESC,
            limit=200,
        )
        by_hand = [run for run in candidates if run.deployment_id is None]
        same = [run for run in by_hand if same_parameters(agent, run.parameters, parameters)]
        if not same:
            return None
        store = await load_store(str(client.api_url))
    async with shared_ledger(store.resolved_url()) as ledger:
        for flow_run in same:
            run = await ledger.runs.get(str(flow_run.id))
            if run is None or run.state in (RunState.FAILED, RunState.CANCELLED):
                continue
            # One that has completed, and whose end Prefect has not heard of, has its result to give.
            if run.state == RunState.COMPLETED or run.holder is None or _is_left(run.id, run.holder):
                return flow_run
    return None


def same_parameters(agent: Flow[..., Any], known: dict[str, Any], given: dict[str, Any]) -> bool:
    """Whether the parameters of a run, as Prefect has them, are those given here: as JSON, or as what the agent's
    annotations make of both. A set has another order in each process."""
    mine = agent.serialize_parameters(given)
    return known.keys() == mine.keys() and all(_same(agent, name, known[name], mine[name]) for name in known)


def _same(agent: Flow[..., Any], name: str, one: Any, other: Any) -> bool:
    texts = [json.dumps(json.loads(json.dumps(value)), sort_keys=True) for value in (one, other)]
    if texts[0] == texts[1]:
        return True
    codec: Codec[Any] = Codec(lambda: get_type_hints(agent.fn, include_extras=True).get(name, Any))
    try:
        codec.check(f"parameter {name!r}")
        read = [codec.decode(text) for text in texts]
    except (NotStorable, ValidationError):
        return False
    return bool(read[0] == read[1])


def _is_left(run_id: str, held_by: str) -> bool:
    """Whether nobody works on the run any more: its process is dead, or this one, which has stopped without a word."""
    return holder.is_dead(held_by) or (held_by == holder.this_process() and not pulse.holds(run_id))
