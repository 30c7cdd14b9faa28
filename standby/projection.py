"""Prefect's state of many runs at once."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterIdempotencyKey,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from standby.errors import LedgerUnavailable

BATCH = 200
"""How many runs one call asks about: the Prefect API's own limit."""


UNREAD = (httpx.HTTPError, PrefectHTTPStatusError, ObjectNotFound, ValueError)
"""What a look at Prefect raises that has seen nothing: one call's answer may be a proxy's, such as 404, or 200 with
HTML (which is no JSON, or does not fit: both are a ``ValueError``)."""


async def states_of(
    client: PrefectClient, run_ids: Iterable[str], types: Iterable[StateType] | None = None
) -> dict[str, State[Any]]:
    """Prefect's state of each run it knows, by run id; one call for every ``BATCH`` runs. ``types``: only of
    those whose state is of one of these."""
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types))) if types is not None else None
    left = iter(run_ids)
    states: dict[str, State[Any]] = {}
    while some := [UUID(run_id) for run_id in islice(left, BATCH)]:
        found = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=some), state=state),
            sort=FlowRunSort.ID_DESC,
            limit=BATCH,
        )
        states |= {str(flow_run.id): flow_run.state for flow_run in found if flow_run.state is not None}
    return states


async def runs_of(client: PrefectClient, run_ids: Iterable[str]) -> dict[str, FlowRun]:
    """Prefect's runs, of those of these ids that it knows, by id; one call for every ``BATCH``."""
    left = iter(run_ids)
    found: dict[str, FlowRun] = {}
    while some := [UUID(run_id) for run_id in islice(left, BATCH)]:
        runs = await client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=some)), limit=BATCH)
        found |= {str(flow_run.id): flow_run for flow_run in runs}
    return found


async def runs_by_key(client: PrefectClient, keys: Iterable[str]) -> dict[str, str]:
    """The run that was made under each of these idempotency keys, by key, of those there are."""
    left = iter(keys)
    found: dict[str, str] = {}
    while some := list(islice(left, BATCH)):
        runs = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=some)), limit=BATCH
        )
        found |= {run.idempotency_key: str(run.id) for run in runs if run.idempotency_key is not None}
    return found


async def is_out_of_reach(client: PrefectClient, error: Exception) -> bool:
    """Whether what went wrong for one thing would go wrong for all others, too: the ledger or Prefect is away."""
    if isinstance(error, httpx.TransportError):
        return await client.api_healthcheck() is not None
    return isinstance(error, LedgerUnavailable)


async def not_paused(client: PrefectClient, run_ids: Iterable[str]) -> set[str]:
    """Those of these runs that Prefect knows in another state than paused: few, as a rule, so little is read."""
    left = iter(run_ids)
    found: set[str] = set()
    other = FlowRunFilterState(type=FlowRunFilterStateType(not_any_=[StateType.PAUSED]))
    while some := [UUID(run_id) for run_id in islice(left, BATCH)]:
        runs = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=some), state=other), limit=BATCH
        )
        found |= {str(flow_run.id) for flow_run in runs}
    return found
