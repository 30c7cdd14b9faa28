"""Following in the host what somebody has done to a run in Prefect: it was cancelled there, or ended by hand."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling, Running

from standby.errors import LedgerUnavailable, UsageError
from standby.parking import cancelled_before, stands_since
from standby.projection import UNREAD, states_of
from standby.states import ENDED, RunState

if TYPE_CHECKING:
    from standby.host.guest import Guest
    from standby.host.host import Host

log = logging.getLogger("standby.host")

_ENDED = {StateType.COMPLETED: RunState.COMPLETED, StateType.FAILED: RunState.FAILED}


LOOKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds after each look whether Prefect has a state that it has told of, which it does before it is so."""


class Ends:
    def __init__(self, host: Host) -> None:
        self._host = host

    def show_running(self, run_id: str, attempt: int, *, yet: bool = False) -> None:
        """Have Prefect show the run as Running, unless somebody has ended it there, or it is not this attempt's now.
        ``yet``: nor if it does not run any more."""

        async def show() -> None:
            try:
                state = (await self._host.plain.read_flow_run(UUID(run_id))).state
            except ObjectNotFound:
                if await states_of(self._host.plain, [run_id]):
                    raise  # it was not Prefect that said so
                return
            if state is not None and is_over(state):
                self.end_soon(run_id, state)
            elif state is None or not state.is_running():
                # Prefect would let a run that was cancelled go on; the ledger ends it, and its number goes up.
                row = await self._host.ledger.runs.get(run_id)
                if row is not None and row.attempt == attempt and (row.state == RunState.RUNNING or not yet):
                    await self._host.plain.set_flow_run_state(UUID(run_id), Running())

        self._host.following.later(run_id, show, surely=True)

    def heed_cancel(self, run_id: str) -> None:
        """The run was woken through Prefect. Whoever cancelled it there just before is not overruled."""

        async def look() -> None:
            try:
                if await cancelled_before(self._host.plain, UUID(run_id)):
                    self.cancel_soon(run_id)
            except UNREAD as error:
                log.warning("Whether run %s was cancelled as it woke cannot be seen: %s", run_id, error)

        self._host.start(look())

    def cancel_soon(self, run_id: str) -> None:
        """The run was cancelled in Prefect, it is said, and not by which state."""
        self._host.returns.start(self._end(run_id, None))

    def look_soon(self, run_id: str) -> None:
        """Prefect would not let the run wait, for somebody has ended it there."""

        async def look() -> None:
            try:
                state = (await self._host.plain.read_flow_run(UUID(run_id))).state
            except UNREAD as error:
                log.warning("How run %s was ended in Prefect is seen by the keeper: %s", run_id, error)
                return
            await self._end(run_id, state if is_over(state) else None)

        self._host.returns.start(look())

    def end_soon(self, run_id: str, state: State[Any]) -> None:
        """The run was ended in Prefect by this state, it is said: perhaps late, and perhaps before it is so."""
        self._host.returns.start(self._end(run_id, state))

    async def _standing(self, run_id: str, state: State[Any] | None) -> State[Any] | None:
        """By which state Prefect has the run ended, if it is so and nobody has retried it since."""
        if state is None:
            return await cancelled_before(self._host.plain, UUID(run_id))
        for pause in LOOKS:
            if (stands := await stands_since(self._host.plain, UUID(run_id), state.id)) is not None:
                return state if stands else None
            await asyncio.sleep(pause)
        return None

    async def _end(self, run_id: str, state: State[Any] | None) -> None:
        """End a run that somebody has ended in Prefect: in the ledger, here, and in Prefect if it is left to us."""
        guest = self._host.guests.get(run_id)
        try:
            while True:
                row = await self._host.ledger.runs.get(run_id)
                ours = row is not None and (
                    row.holder == self._host.holder or row.state in (RunState.PARKED, RunState.READY)
                )
                told = await self._standing(run_id, state) if guest is not None or ours else None
                if told is None:
                    return
                ended = _ENDED.get(told.type, RunState.CANCELLED)
                said = f"{told.name} in Prefect{f': {told.message}' if told.message else ''}"
                if row is None and guest is not None and not guest.cancelled:
                    guest.cancel()
                    await guest.stopped()  # it may be about to claim the run, or just have done so
                    continue
                if row is None or RunState(row.state) in ENDED:
                    if row is not None and row.state != ended and not _retries(guest, row):
                        return  # before that, and Prefect is told of it by its attempt or the keeper
                    break
                if await self._host.ledger.runs.end_from_outside(
                    run_id, ended, said, attempt=row.attempt, at=told.timestamp, after=str(told.id)
                ):
                    break  # else it has gone on meanwhile, perhaps for a retry
            if guest is not None:
                guest.cancel()
                await guest.stopped()
                if ended is RunState.CANCELLED:
                    await guest.call_hooks_of(Cancelling())
            if ended is RunState.CANCELLED:
                # After all that was on its way to Prefect: also where that has shown the run as Running once more.
                self._host.following.later(run_id, lambda: self._show_cancelled(run_id))
        except (LedgerUnavailable, UsageError, *UNREAD) as error:
            log.warning("The end of run %s in Prefect is followed by the keeper: %s", run_id, error)

    async def _show_cancelled(self, run_id: str) -> None:
        now = (await self._host.plain.read_flow_run(UUID(run_id))).state
        if now is None or now.type is StateType.CANCELLED:
            return
        if await cancelled_before(self._host.plain, UUID(run_id)):
            await self._host.plain.set_flow_run_state(UUID(run_id), Cancelled(), force=True)


def _retries(guest: Guest | None, row: Any) -> bool:
    """Whether the run has ended in an attempt before, and this one has not claimed it yet."""
    return guest is not None and guest.run is None and row.state != RunState.COMPLETED


def is_over(state: State[Any] | None) -> bool:
    """Whether somebody has ended the run in Prefect. One that has crashed goes on."""
    return state is not None and (state.is_cancelling() or (state.is_final() and not state.is_crashed()))
