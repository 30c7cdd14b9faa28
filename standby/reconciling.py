"""Compares the ledger's runs with Prefect's state of them: what ended there, or was resumed or started for nothing.

Beside the keeper's other duties, which do not wait for it: it reads the state of everything that is parked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterTags,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import PrefectHTTPStatusError

from standby import clock, settings
from standby.children import follow_children
from standby.errors import LedgerUnavailable
from standby.ledger import Ledger
from standby.ledger.settling import Settled
from standby.patience import Patience
from standby.projection import BATCH, states_of
from standby.starts import follow_starts
from standby.states import ENDED, Hold, RunState
from standby.waker import Waker

log = logging.getLogger("standby.keeper")

_STARTING = (StateType.PENDING, StateType.RUNNING, StateType.CRASHED)
"""Prefect's states of a run whose process may have died before it reached the ledger."""

ENDED_IN_PREFECT = {
    StateType.COMPLETED: RunState.COMPLETED, StateType.FAILED: RunState.FAILED,
    StateType.CANCELLED: RunState.CANCELLED, StateType.CANCELLING: RunState.CANCELLED,
}  # fmt: skip


async def end_as_prefect_says(ledger: Ledger, run: Any, state: State[Any]) -> None:
    """End the run in the ledger, too, and close its waits. ``run``: its row from before Prefect was asked."""
    ended = ENDED_IN_PREFECT[state.type]
    said = f"{state.name} in Prefect{f': {state.message}' if state.message else ''}"
    if await ledger.runs.end_from_outside(
        run.id, ended, said, attempt=run.attempt, at=state.timestamp, after=str(state.id)
    ):
        log.info("Run %s was ended in Prefect (%s); its waits are closed.", run.id, state.name)


class Reconciler:
    """One comparison at a time, every ``RECONCILE_EVERY``.

    ``client`` opens a Prefect client, ``wake_settled`` wakes the run of a wait that was settled.
    """

    def __init__(
        self,
        ledger: Ledger,
        client: Callable[[], AbstractAsyncContextManager[PrefectClient]],
        patience: Patience,
        waker: Waker,
        wake_settled: Callable[[Settled], Awaitable[None]],
    ) -> None:
        self._ledger, self._client = ledger, client
        self._patience, self._waker, self._wake_settled = patience, waker, wake_settled
        self._last: float | None = None  # monotonic
        self._page = 0  # of runs that are starting or at work, which was looked at last
        self._failing: dict[str, datetime] = {}  # since when, by the id of the start
        self._work: asyncio.Task[None] | None = None

    def tick(self) -> None:
        """Start a comparison if one is due, and wait for nothing of it."""
        if self._work is not None and not self._work.done():
            return
        if self._last is None or monotonic() - self._last >= settings.RECONCILE_EVERY.total_seconds():
            self._last = monotonic()
            self._work = asyncio.create_task(self._compare(), name="standby-reconciler")

    async def finish(self) -> None:
        """Return when the comparison that goes on is done."""
        if self._work is not None:
            await self._work

    async def close(self) -> None:
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)

    async def _compare(self) -> None:
        try:
            async with self._client() as client:
                for part in (self._follow_prefect, self._follow_children, self._follow_starts, self._start_stranded):
                    try:
                        await part(client)
                    except PrefectHTTPStatusError as error:  # of one run; the other parts are of others
                        log.warning("Runs are compared with Prefect's later: %s", error)
                    except (LedgerUnavailable, httpx.HTTPError, OSError, RuntimeError):
                        raise
                    except Exception:
                        log.exception("Runs could not be compared with Prefect's; the other parts are.")
        except (LedgerUnavailable, httpx.HTTPError, OSError, RuntimeError) as error:
            log.warning("Runs are compared with Prefect's later: %s: %s", type(error).__name__, error)
        except Exception:
            log.exception("Runs could not be compared with Prefect's.")

    async def _follow_prefect(self, client: PrefectClient) -> None:
        """Parked runs that ended on Prefect's side, or were resumed there for a process that died at its start."""
        parked = {
            run.id: run
            for run in await self._ledger.runs.all(ended=False)
            if run.deployment_id is not None and run.state in (RunState.PARKED, RunState.READY)
        }
        for run_id, state in (await states_of(client, parked)).items():
            if state.type in ENDED_IN_PREFECT:
                await end_as_prefect_says(self._ledger, parked[run_id], state)
            elif (
                parked[run_id].state == RunState.PARKED
                and _is_shown_wrong(parked[run_id], state)
                and clock.is_over(state.timestamp, _grace(state))
                and self._patience.allows(run_id)
            ):
                log.info("Run %s is parked and %s in Prefect: it is scheduled again.", run_id, state.name)
                self._patience.tried(run_id)
                self._waker.add(run_id, presumed_dead=True)

    async def _follow_children(self, client: PrefectClient) -> None:
        for settled in await follow_children(self._ledger, client, clock.utcnow() - settings.WAKE_GRACE):
            await self._wake_settled(settled)

    async def _follow_starts(self, client: PrefectClient) -> None:
        await follow_starts(self._ledger, client, clock.utcnow() - settings.WAKE_GRACE, self._failing)

    async def _start_stranded(self, client: PrefectClient) -> None:
        """Runs that a worker took, at first or for a retry, and whose process died before it reached the ledger."""
        starting = await self._starting(client, 0)
        if len(starting) == BATCH:
            # The newest each time, and of the others some.
            self._page += 1
            older = await self._starting(client, self._page * BATCH)
            self._page = self._page if len(older) == BATCH else 0
            starting += older
        now = clock.utcnow()
        for flow_run in starting:
            state, run_id = flow_run.state, str(flow_run.id)
            if state is None or not clock.is_over(state.timestamp, _grace(state)) or not self._patience.allows(run_id):
                continue
            if state.type is StateType.CRASHED and now - state.timestamp > 20 * settings.START_GRACE:
                continue  # an old wreck, from before there was a keeper
            run = await self._ledger.runs.get(run_id)
            if run is None or (RunState(run.state) in ENDED and run.confirmed):
                # Why it crashed stands in its state: here it would be said anew for each run and each try.
                how = "it crashed" if state.type is StateType.CRASHED else "its process died"
                log.info("Run %s has not come to its agent, for %s, and is scheduled again.", run_id, how)
                self._patience.tried(run_id)
                self._waker.add(run_id, presumed_dead=True)

    async def _starting(self, client: PrefectClient, after: int) -> list[FlowRun]:
        return await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(_STARTING)))),
            deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=[settings.AGENT_TAG])),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=BATCH,
            offset=after,
        )


def _is_shown_wrong(run: Any, state: State[Any]) -> bool:
    """Whether Prefect has a parked run as one that starts or has crashed, and nobody sees to it: taken up once more,
    it is shown as it is. Of a warm one only a late report of a crash does that; its host, which may be behind, looks
    for the rest.
    """
    if run.holder is None:
        return state.type in _STARTING
    return bool(run.hold == Hold.WARM and state.type is StateType.CRASHED)


def _grace(state: State[Any]) -> timedelta:
    """How long a run may stand in a state on its way to the ledger. One that has crashed is not on its way any more."""
    return settings.WAKE_GRACE if state.type is StateType.CRASHED else settings.START_GRACE
