"""Confirms that Prefect shows how runs have ended in the ledger, and has it do so where who was to tell it has not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Cancelled, Completed, Failed, Scheduled

from standby import clock
from standby.ledger import Ledger
from standby.parking import retried_since
from standby.patience import Patience
from standby.projection import states_of
from standby.reconciling import ENDED_IN_PREFECT
from standby.states import RunState
from standby.waker import Waker

log = logging.getLogger("standby.keeper")

CONFIRM_AFTER = timedelta(seconds=5)
"""How long a run that ended has for telling Prefect before the keeper looks whether it did."""

CANCELLED_WITHIN = timedelta(seconds=30)
"""How long a run may be Cancelling in Prefect, while what runs it ends and its hooks are called, before the keeper says
how it has ended."""


SHOWN_AS = {
    RunState.COMPLETED: StateType.COMPLETED, RunState.FAILED: StateType.FAILED, RunState.CANCELLED: StateType.CANCELLED,
}  # fmt: skip
"""How Prefect shows the ledger's ends."""

FAILURES = (StateType.FAILED, StateType.CRASHED)

TO_BE_SHOWN = "It has completed, and is to be shown so."
"""What the state says by which a completed run is run again to be shown so."""

TRIES = 3
"""So many attempts that were to show that their run has completed, and failed or crashed: none will, and it is shown
without its result."""


def completed(run_id: str, why: str) -> State[Any]:
    """The state of a run that has completed in the ledger and, for this reason, cannot be run again to show it."""
    return Completed(
        message=f"It has completed: `standby show {run_id}` has its result, which it could not be run again to show "
        f"here. Why not: {why}"
    )


class Confirming:
    """``being_told``: whether somebody in this process still tells Prefect of this run, which is then left to it."""

    def __init__(
        self, ledger: Ledger, patience: Patience, waker: Waker, being_told: Callable[[str], bool] = lambda run_id: False
    ) -> None:
        self._ledger, self._patience, self._waker, self._being_told = ledger, patience, waker, being_told

    async def tick(self, client: PrefectClient) -> None:
        """Look at the runs whose end Prefect has not been seen to know."""
        ended = await self._ledger.runs.unconfirmed(clock.utcnow() - CONFIRM_AFTER)
        ended = [run for run in ended if not self._being_told(run.id)]
        # A run without a deployment may be on another server, and nobody could run it again.
        confirmed = [run.id for run in ended if run.deployment_id is None]
        deployed = [run for run in ended if run.deployment_id is not None]
        states = await states_of(client, [run.id for run in deployed])
        for run in deployed:
            try:
                if await self._is_shown(client, run, states.get(run.id)):
                    confirmed.append(run.id)
            except httpx.TransportError:
                raise
            except (PrefectHTTPStatusError, ObjectNotFound) as error:  # of this run alone
                log.warning("That run %s ended as %s is told Prefect later: %s", run.id, run.state, error)
        if confirmed:
            await self._ledger.runs.confirm(confirmed)

    async def _is_shown(self, client: PrefectClient, run: Any, state: State[Any] | None) -> bool:
        """Whether Prefect shows the run (its row) as it has ended, or need not. If not, it will."""
        if state is None or state.type is SHOWN_AS[RunState(run.state)]:
            return True
        if state.type is StateType.CANCELLING and not clock.is_over(state.timestamp, CANCELLED_WITHIN):
            return False
        if run.state != RunState.COMPLETED:
            # Never by running it again, unless somebody wants that: it would try the step again that failed.
            if not await retried_since(client, UUID(run.id), run.ended_after, run.ended_at):
                log.info("Prefect is told that run %s ended as %s; it was %s there.", run.id, run.state, state.name)
                shown = Failed if run.state == RunState.FAILED else Cancelled
                await client.set_flow_run_state(UUID(run.id), shown(message=run.error), force=True)
            return True
        if self._patience.allows(run.id):
            self._patience.tried(run.id)
            if state.type in FAILURES and await _failed_tries(client, run) >= TRIES:
                log.warning("Run %s has completed, and cannot be run again to be shown so: %s", run.id, state.message)
                shown_as = completed(run.id, state.message or str(state.name))
                await client.set_flow_run_state(UUID(run.id), shown_as, force=True)
                return True
            if state.type in ENDED_IN_PREFECT:
                log.info("Run %s has completed, and is run again to be shown so, not as %s.", run.id, state.name)
                # By a name that says that its cancel does not stand.
                again: State[Any] = Scheduled(message=TO_BE_SHOWN)
                await client.set_flow_run_state(UUID(run.id), again, force=True)
            else:
                self._waker.add(run.id, presumed_dead=True)
        return False


async def _failed_tries(client: PrefectClient, run: Any) -> int:
    """How many attempts have failed or crashed since the run has ended in the ledger."""
    history = await client.read_flow_run_states(UUID(run.id))
    ids = [str(state.id) for state in history]
    first = ids.index(run.ended_after) + 1 if run.ended_after in ids else 0
    return sum(state.type in FAILURES and (first > 0 or state.timestamp > run.ended_at) for state in history[first:])
