"""The keeper: fires deadlines, rescues runs whose process died, wakes what was missed, announces open waits.

Run any number of keepers; a lease lets one work at a time. Everything it does is safe to do twice: the ledger's
transactions decide, and Prefect is told afterwards. Nothing here is lost when it dies, only late: a due deadline fires
and a dead process on the same machine is noticed within a tick (one second) of a working keeper; a dead process on
another machine when its lease ends; a missed wake after ``WAKE_GRACE``, or where the ledger tells of it after the head
start of who should have woken the run (``missed.HEAD_START``); a run stuck in starting after ``START_GRACE``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterTags,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Failed

from standby import clock, holder, settings
from standby.children import follow_children
from standby.errors import AnswerRefused, LedgerUnavailable
from standby.event_door import EventDoor
from standby.events import announce
from standby.ledger import Ledger
from standby.ledger.settling import Settled
from standby.missed import Missed
from standby.notices import Notifier
from standby.parking import answer_in_prefect, wake
from standby.patience import Patience
from standby.policy import Policy
from standby.polling import Poller
from standby.projection import BATCH, states_of
from standby.starts import follow_starts
from standby.states import ENDED, NOBODY_ANSWERS, Door, Need, Outcome, RunState, WaitState
from standby.waits import checked_answer
from standby.wakeups import call

log = logging.getLogger("standby.keeper")

LEASE = timedelta(seconds=5)
"""How long a keeper that died keeps the others from taking over."""

CONFIRM_AFTER = timedelta(seconds=5)
"""How long a run that ended has for telling Prefect before the keeper looks whether it did."""

_STARTING = (StateType.PENDING, StateType.RUNNING, StateType.CRASHED)
"""Prefect's states of a run whose process may have died before it reached the ledger."""

_ENDED = {StateType.COMPLETED: RunState.COMPLETED, StateType.FAILED: RunState.FAILED,
          StateType.CANCELLED: RunState.CANCELLED, StateType.CANCELLING: RunState.CANCELLED}  # fmt: skip


class Keeper:
    """``client`` opens a Prefect client, as ``prefect.get_client`` does."""

    def __init__(self, ledger: Ledger, client: Callable[[], AbstractAsyncContextManager[PrefectClient]]) -> None:
        self.ledger = ledger
        self._client = client
        self._me = f"{holder.this_process()}/{uuid4().hex[:8]}"
        self._notifier = Notifier(ledger, client)
        self._poller = Poller(ledger, self._wake_settled)
        self._last_reconcile: datetime | None = None
        self._patience = Patience()
        self._missed = Missed(ledger, self._patience)
        self._events = EventDoor(ledger, client, self._wake_settled)

    async def run(self) -> None:
        """Keep until cancelled. What fails is logged and tried again at the next tick."""
        try:
            async with self._missed.listening():
                await self._keep()
        finally:
            await self._notifier.close()
            await self._poller.close()
            await self._events.close()
            try:
                await self.ledger.leases.give_up("keeper", self._me)
            except LedgerUnavailable as error:
                log.warning("%s", error)

    async def _keep(self) -> None:
        while True:
            try:
                async with self._client() as client:
                    while True:
                        await self._until_next_round(client, at_work=await self._round(client, listen=True))
            except (LedgerUnavailable, httpx.HTTPError, PrefectHTTPStatusError, OSError, RuntimeError) as error:
                log.warning("The keeper could not finish its round: %s: %s", type(error).__name__, error)
            except Exception:
                log.exception("The keeper could not finish its round.")
            await asyncio.sleep(settings.KEEPER_TICK.total_seconds())

    async def _until_next_round(self, client: PrefectClient, *, at_work: bool) -> None:
        """Wait for the next tick, and wake meanwhile whom the ledger has told of."""
        if not at_work:
            await asyncio.sleep(settings.KEEPER_TICK.total_seconds())
            return
        end = monotonic() + settings.KEEPER_TICK.total_seconds()
        while (left := end - monotonic()) > 0:
            await self._missed.until_due(left)
            await self._missed.wake_heard(client)

    async def tick(self) -> bool:
        """One round, and all that it starts. False when another keeper is at work."""
        async with self._client() as client:
            worked = await self._round(client)
        await self._notifier.finish()
        await self._poller.finish()
        return worked

    async def _round(self, client: PrefectClient, *, listen: bool = False) -> bool:
        """``listen``: there will be another one soon, and events are heard until then."""
        if not await self.ledger.leases.take("keeper", self._me, LEASE):
            self._missed.forget()
            await self._events.close()
            return False
        await self.ledger.signals.expire()
        for run_id in await self._fire_deadlines(client):
            await wake(client, run_id)
        for wait_id, run_id in await self.ledger.chases.due():
            await self.ledger.chases.chase(wait_id, run_id)
        await self._notifier.tick()
        await self._poller.tick()
        await self._announce(client)
        await self._rescue(client)
        await self._wake_missed(client)
        await self._confirm_ends(client)
        now = clock.utcnow()
        if self._last_reconcile is None or now - self._last_reconcile >= settings.RECONCILE_EVERY:
            self._last_reconcile = now
            await self._follow_prefect(client)
            for settled in await follow_children(self.ledger, client, now - settings.WAKE_GRACE):
                await self._wake_settled(settled)
            await follow_starts(self.ledger, client, now - settings.WAKE_GRACE)
            await self._start_stranded(client)
        await self._events.tick(client, listen=listen)
        return True

    async def _wake_settled(self, settled: Settled) -> None:
        if settled.wake_address is not None and call(settled.wake_address):
            return
        try:
            async with self._client() as client:
                await wake(client, settled.wait.run_id)
        except (httpx.HTTPError, PrefectHTTPStatusError, RuntimeError) as error:
            log.warning("Run %s could not be woken now and is later: %s", settled.wait.run_id, error)

    async def _fire_deadlines(self, client: PrefectClient) -> list[str]:
        """Settle the waits that are due. Returns the runs to wake.

        An answer that Prefect took before the deadline fired, and which the run has not read yet, is the answer; also
        one to another wait of the group, where one is enough.
        """
        woken = []
        due = await self.ledger.waits.due()
        states = await states_of(client, {wait.run_id for wait in due})
        for wait in due:
            state = states.get(wait.run_id)
            settled = None
            if state is not None and state.type is not StateType.PAUSED:
                group = (await self.ledger.waits.group(wait.run_id, wait.group_key)).waits
                for one in group if wait.need == Need.ANY else [wait]:
                    if settled is None and one.kind not in NOBODY_ANSWERS and one.state == WaitState.OPEN:
                        settled = await self._settle_from_prefect(client, one)
            settled = settled or await self.ledger.waits.expire(wait)
            if settled is None or not settled.wake:
                continue
            if settled.wake_address is None or not call(settled.wake_address):
                woken.append(wait.run_id)
        return woken

    async def _settle_from_prefect(self, client: PrefectClient, wait: Any) -> Settled | None:
        if wait.policy is not None and Policy.model_validate_json(wait.policy).names_people:
            return None  # the run refuses it when it wakes: Prefect does not say who answered
        text = await answer_in_prefect(client, wait)
        if text is None:
            return None
        try:
            answer = checked_answer(wait, text)
        except AnswerRefused as refused:
            log.info("%s", refused)
            return None
        return await self.ledger.waits.settle(wait.id, outcome=Outcome.ANSWERED, answer=answer, door=Door.PREFECT)

    async def _announce(self, client: PrefectClient) -> None:
        """Tell Prefect's event feed of the waits that opened, at least once each."""
        if waits := await self.ledger.waits.unannounced():
            await announce(client, waits)
            await self.ledger.waits.announced(waits)

    async def _rescue(self, client: PrefectClient) -> None:
        """Runs whose attempt is dead: fence it off, and have the run taken up again."""
        now = clock.utcnow()
        for host, alive in await self.ledger.hosted.warm_holders():
            if not alive or holder.is_dead(host):
                count = await self.ledger.hosted.abandon(host)
                log.info("%s runs that were parked warm in %s, which is gone, are parked cold.", count, host)
        for run in await self.ledger.runs.held():
            dead = run.holder is None or run.lease_expires_at <= now or holder.is_dead(run.holder)
            if not dead or run.deployment_id is None or not self._patience.allows(run.id):
                continue
            state = await self._prefect_state(client, run)
            if state is None or state.type is StateType.SCHEDULED:
                continue  # gone (the doctor names it), or about to be taken up
            if state.type is StateType.PAUSED and run.state == RunState.RUNNING and run.holder is None:
                continue  # somebody pressed Pause in Prefect; the run goes on when they resume it
            rescued = await self.ledger.runs.rescue(run.id, run.attempt, run.holder)
            if rescued is RunState.READY:
                log.info("Run %s is rescued: %s is dead.", run.id, run.holder or "its process")
                self._patience.tried(run.id)
                await wake(client, run.id, presumed_dead=True)

    async def _wake_missed(self, client: PrefectClient) -> None:
        """Runs whose wait has settled, and which nobody has taken up."""
        now = clock.utcnow()
        for run in await self.ledger.runs.ready_since(now - settings.WAKE_GRACE):
            if run.deployment_id is None or not self._patience.allows(run.id):
                continue
            self._patience.tried(run.id)
            state = await self._prefect_state(client, run)
            if state is None:
                continue
            stuck = (
                state.type in (StateType.PENDING, StateType.RUNNING) and now - state.timestamp > settings.START_GRACE
            )
            await wake(client, run.id, presumed_dead=stuck)

    async def _confirm_ends(self, client: PrefectClient) -> None:
        """Runs that ended in the ledger: Prefect must come to know, or the process died in between."""
        now = clock.utcnow()
        ended = await self.ledger.runs.unconfirmed(now - CONFIRM_AFTER)
        # A run without a deployment may be on another server, and nobody could run it again.
        confirmed = [run.id for run in ended if run.deployment_id is None]
        deployed = [run for run in ended if run.deployment_id is not None]
        states = await states_of(client, [run.id for run in deployed])
        for run in deployed:
            state = states.get(run.id)
            if state is None or state.type in _ENDED:
                confirmed.append(run.id)
            elif run.state == RunState.FAILED:
                # Never by running it again: that would try the step again that failed.
                if state.timestamp <= run.ended_at:
                    log.info("Prefect is told that run %s failed: its process died before it could.", run.id)
                    await client.set_flow_run_state(UUID(run.id), Failed(message=run.error), force=True)
                confirmed.append(run.id)  # a later state shows that Prefect knew: somebody retries the run
            elif self._patience.allows(run.id):
                self._patience.tried(run.id)
                await wake(client, run.id, presumed_dead=True)
        if confirmed:
            await self.ledger.runs.confirm(confirmed)

    async def _follow_prefect(self, client: PrefectClient) -> None:
        """Parked runs that ended on Prefect's side, or were resumed there for a process that died at its start."""
        parked = {
            run.id: run
            for run in await self.ledger.runs.all(ended=False)
            if run.deployment_id is not None and run.state in (RunState.PARKED, RunState.READY)
        }
        now = clock.utcnow()
        for run_id, state in (await states_of(client, parked)).items():
            if state.type in _ENDED:
                await self._end_as_prefect_says(run_id, state)
            elif (
                parked[run_id].state == RunState.PARKED
                and parked[run_id].holder is None
                and state.type in _STARTING
                and now - state.timestamp > _grace(state)
                and self._patience.allows(run_id)
            ):
                log.info("Run %s was resumed and not reached: its process died. It is scheduled again.", run_id)
                self._patience.tried(run_id)
                await wake(client, run_id, presumed_dead=True)

    async def _start_stranded(self, client: PrefectClient) -> None:
        """Runs that a worker took, at first or for a retry, and whose process died before it reached the ledger."""
        starting = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(_STARTING)))),
            deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=[settings.AGENT_TAG])),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=BATCH,
        )
        now = clock.utcnow()
        for flow_run in starting:
            state, run_id = flow_run.state, str(flow_run.id)
            if state is None or now - state.timestamp <= _grace(state) or not self._patience.allows(run_id):
                continue
            if state.type is StateType.CRASHED and now - state.timestamp > 20 * settings.START_GRACE:
                continue  # an old wreck, from before there was a keeper
            run = await self.ledger.runs.get(run_id)
            if run is None or (RunState(run.state) in ENDED and run.confirmed):
                log.info("Run %s never started: its process died. It is scheduled again.", run_id)
                self._patience.tried(run_id)
                await wake(client, run_id, presumed_dead=True)

    async def _prefect_state(self, client: PrefectClient, run: Any) -> State[Any] | None:
        """Prefect's state of a run that is not ended in the ledger; None when it is gone or has ended there."""
        state = (await states_of(client, [run.id])).get(run.id)
        if state is not None and state.type in _ENDED:
            await self._end_as_prefect_says(run.id, state)
            return None
        return state

    async def _end_as_prefect_says(self, run_id: str, state: State[Any]) -> None:
        ended = _ENDED[state.type]
        if await self.ledger.runs.end_from_outside(run_id, ended, f"{state.name} in Prefect: {state.message or ''}"):
            log.info("Run %s was ended in Prefect (%s); its waits are closed.", run_id, state.name)


def _grace(state: State[Any]) -> timedelta:
    """How long a run may stand in a state on its way to the ledger. One that has crashed is not on its way any more."""
    return settings.WAKE_GRACE if state.type is StateType.CRASHED else settings.START_GRACE
