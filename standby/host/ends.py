"""Following in the host what somebody has done to a run in Prefect: it was cancelled there, or ended by hand."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Cancelled, Cancelling, Running

from standby.errors import LedgerUnavailable, UsageError
from standby.parking import cancelled_before, retried_since
from standby.states import RunState

if TYPE_CHECKING:
    from standby.host.host import Host

log = logging.getLogger("standby.host")

_ENDED = {StateType.COMPLETED: RunState.COMPLETED, StateType.FAILED: RunState.FAILED}


class Ends:
    def __init__(self, host: Host) -> None:
        self._host = host

    def show_running(self, run_id: str, attempt: int) -> None:
        """Have Prefect show the run as Running, unless somebody has ended it there, or it is not this attempt's now."""

        async def show() -> None:
            try:
                state = (await self._host.plain.read_flow_run(UUID(run_id))).state
            except ObjectNotFound:
                return
            if state is not None and is_over(state):
                self._host.start(self._end(run_id, state))
            elif state is None or not state.is_running():
                # Prefect would let a run that was cancelled go on; the ledger ends it, and its number goes up.
                row = await self._host.ledger.runs.get(run_id)
                if row is not None and row.attempt == attempt:
                    await self._host.plain.set_flow_run_state(UUID(run_id), Running())

        self._host.following.later(run_id, show)

    def heed_cancel(self, run_id: str) -> None:
        """The run was woken through Prefect. Whoever cancelled it there just before is not overruled."""

        async def look() -> None:
            try:
                if await cancelled_before(self._host.plain, UUID(run_id)):
                    self.cancel_soon(run_id)
            except (httpx.HTTPError, PrefectHTTPStatusError) as error:
                log.warning("Whether run %s was cancelled as it woke cannot be seen: %s", run_id, error)

        self._host.start(look())

    def cancel_soon(self, run_id: str) -> None:
        """The run was cancelled in Prefect."""
        self._host.start(self._end(run_id, Cancelled(message="It was cancelled in Prefect.")))

    async def _end(self, run_id: str, state: State[Any]) -> None:
        """End a run that somebody has ended in Prefect: in the ledger, here, and in Prefect if it is left to us."""
        try:
            row = await self._host.ledger.runs.get(run_id)
            guest = self._host.guests.get(run_id)
            ours = row is not None and (
                row.holder == self._host.holder or row.state in (RunState.PARKED, RunState.READY)
            )
            if guest is None and not ours:
                return
            if await retried_since(self._host.plain, UUID(run_id), state.timestamp):
                return  # it was heard of late
            ended = _ENDED.get(state.type, RunState.CANCELLED)
            await self._host.ledger.runs.end_from_outside(
                run_id, ended, f"{state.name} in Prefect: {state.message or ''}", at=state.timestamp
            )
            if guest is not None:
                guest.cancel()
                if guest.task is not None and guest.task is not asyncio.current_task():
                    await asyncio.wait([guest.task])
                if ended is RunState.CANCELLED:
                    await guest.call_hooks_of(Cancelling())
            if ended is RunState.CANCELLED:
                # After all that was on its way to Prefect: also where that has shown the run as Running once more.
                self._host.following.later(run_id, lambda: self._show_cancelled(run_id))
        except (LedgerUnavailable, UsageError, httpx.HTTPError, PrefectHTTPStatusError, ObjectNotFound) as error:
            log.warning("The end of run %s in Prefect is followed by the keeper: %s", run_id, error)

    async def _show_cancelled(self, run_id: str) -> None:
        now = (await self._host.plain.read_flow_run(UUID(run_id))).state
        if now is not None and now.type is not StateType.CANCELLED:
            await self._host.plain.set_flow_run_state(UUID(run_id), Cancelled(), force=True)


def is_over(state: State[Any] | None) -> bool:
    """Whether somebody has ended the run in Prefect. One that has crashed goes on."""
    return state is not None and (state.is_cancelling() or (state.is_final() and not state.is_crashed()))
