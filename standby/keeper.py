"""The keeper: fires deadlines, rescues runs whose process died, wakes what was missed, announces open waits.

Run any number of keepers; a lease lets one work at a time. Everything it does is safe to do twice: the ledger's
transactions decide, and Prefect is told afterwards. Nothing here is lost when it dies, only late: a due deadline fires
and a dead process on the same machine is noticed within a tick (one second) of a working keeper; a dead process on
another machine when its lease ends; a missed wake after ``WAKE_GRACE``, or where the ledger tells of it after the head
start of who should have woken the run (``missed.HEAD_START``); a run stuck in starting after ``START_GRACE``.

Many at once are late by what they take: the ledger settles some thousands of deadlines a second, whatever Prefect does,
and Prefect takes some thirty wakes a second, the oldest first (``waker.py``).

Deadlines are times of the clock, and hold when it is set. For the rest the keeper trusts no time that lies ahead of the
clock: a lease that is not renewed for its length is over, whatever it says (``stillness.py``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from time import monotonic
from typing import Any
from uuid import uuid4

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import PrefectHTTPStatusError

from standby import clock, holder, settings
from standby.confirming import Confirming
from standby.connect import only_server
from standby.errors import AnswerRefused, LedgerUnavailable
from standby.event_door import EventDoor
from standby.events import announce
from standby.ledger import Ledger
from standby.ledger.database import in_the_way
from standby.ledger.deadlines import TOGETHER
from standby.ledger.settling import Settled
from standby.missed import Missed
from standby.notices import Notifier
from standby.parking import answer_in_prefect, is_paused_by_somebody, wake
from standby.patience import Patience
from standby.policy import Policy
from standby.polling import Poller
from standby.projection import not_paused, states_of
from standby.pulse import pulse
from standby.pushes import Pusher
from standby.reconciling import ENDED_IN_PREFECT, Reconciler, end_as_prefect_says
from standby.states import NOBODY_ANSWERS, Door, Need, Outcome, RunState, WaitState
from standby.stillness import ClockSteps, Stillness
from standby.waits import checked_answer
from standby.waker import Waker
from standby.wakeups import call

log = logging.getLogger("standby.keeper")

LEASE = timedelta(seconds=5)
"""How long a keeper that died keeps the others from taking over."""

LOOKED_FOR = 1000
"""Deadlines that are looked for at a time."""


class Keeper:
    """``client`` opens a Prefect client, as ``prefect.get_client`` does. ``being_told``: whether somebody in this
    process still tells Prefect of this run, which is then left to it."""

    def __init__(
        self,
        ledger: Ledger,
        client: Callable[[], AbstractAsyncContextManager[PrefectClient]],
        being_told: Callable[[str], bool] = lambda run_id: False,
    ) -> None:
        self.ledger = ledger
        self._client = client
        self._me = f"{holder.this_process()}/{uuid4().hex[:8]}"
        self._notifier = Notifier(ledger, client)
        self._poller = Poller(ledger, self._wake_settled)
        self._pusher = Pusher(ledger)
        self._lease_taken = 0.0  # monotonic
        self._clock_steps = ClockSteps()
        self._spared = False  # the last round has left somebody alone whose lease has ended
        self._still = Stillness()
        self._patience = Patience()
        self._waker = Waker(client, wake)
        self._reconciler = Reconciler(ledger, client, self._patience, self._waker, self._wake_settled)
        self._confirming = Confirming(ledger, self._patience, self._waker, being_told)
        self._missed = Missed(ledger, self._patience, self._waker)
        self._events = EventDoor(ledger, client, self._wake_settled)

    async def run(self) -> None:
        """Keep until cancelled. What fails is logged and tried again at the next tick.

        Raises ``UsageError`` for a gateway's address that is none."""
        settings.gateway_url()
        try:
            async with self._missed.listening():
                await self._keep()
        finally:
            await self._reconciler.close()
            await self._waker.close()
            await self._notifier.close()
            await self._poller.close()
            await self._pusher.close()
            await self._events.close()
            try:
                await self.ledger.leases.give_up("keeper", self._me)
            except LedgerUnavailable as error:
                log.warning("%s", error)

    async def _keep(self) -> None:
        while True:
            try:
                async with self._client() as client:
                    with only_server(str(client.api_url)):
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
            with only_server(str(client.api_url)):
                try:
                    return await self._round(client)
                finally:
                    await self._notifier.finish()
                    await self._poller.finish()
                    await self._pusher.finish()
                    await self._reconciler.finish()
                    await self._waker.finish()

    async def once(self) -> bool:
        """As ``tick``, where no keeper stays: if the lease of some attempt or host has ended, it also waits whether
        they renew it, ``2 * RENEW_EVERY``, and rescues the runs of those that do not."""
        worked = await self.tick()
        if worked and self._spared:
            await asyncio.sleep(2 * settings.RENEW_EVERY.total_seconds())
            await self.tick()
        return worked

    async def _round(self, client: PrefectClient, *, listen: bool = False) -> bool:
        """``listen``: there will be another one soon, and events are heard until then."""
        if not await self._keep_lease():
            self._missed.forget()
            self._waker.forget()
            await self._reconciler.close()
            await self._events.close()
            return False
        await self._see_the_clock()
        self._reconciler.tick()
        await self._each(
            self.ledger.signals.expire,
            lambda: self._fire_deadlines(client),
            self._chase,
            self._notifier.tick,
            self._poller.tick,
            self._pusher.tick,
            lambda: self._announce(client),
            lambda: self._rescue(client),
            lambda: self._wake_missed(client),
            lambda: self._missed.wake_heard(client),
            lambda: self._confirming.tick(client),
            lambda: self._events.tick(client, listen=listen),
        )
        return True

    async def _each(self, *duties: Callable[[], Awaitable[object]]) -> None:
        """Do them one after the other: what goes wrong with one keeps nobody from the next. Raises what went wrong with
        the first of them when all were tried; at once when the ledger is away."""
        first: Exception | None = None
        for duty in duties:
            try:
                await duty()
            except Exception as error:
                if isinstance(error, LedgerUnavailable) and not in_the_way(error):
                    raise
                if first is None:
                    first = error
                elif not isinstance(error, httpx.TransportError):  # which would be said again and again
                    log.warning("Nor could the keeper do this: %s: %s", type(error).__name__, error)
        if first is not None:
            raise first

    async def _chase(self) -> None:
        for wait_id, run_id in await self.ledger.chases.due():
            try:
                await self.ledger.chases.chase(wait_id, run_id)
            except LedgerUnavailable:
                raise
            except Exception:  # such as a newer version's policy; the others are not kept from theirs
                log.exception("Nobody is reminded of wait %s: its policy cannot be followed.", wait_id)

    async def _keep_lease(self) -> bool:
        """Take the lease, or renew it before it ends. False when another keeper has it."""
        if monotonic() - self._lease_taken < LEASE.total_seconds() / 5:
            return True
        taken = await self.ledger.leases.take("keeper", self._me, LEASE)
        self._lease_taken = monotonic() if taken else 0.0
        return taken

    async def _see_the_clock(self) -> None:
        step = self._clock_steps.look()
        if step:
            log.warning("The clock was set %s by %.0f s.", "back" if step < 0 else "forward", abs(step))
        if step < 0:
            await self.ledger.polls.hurry()

    async def _wake_settled(self, settled: Settled) -> None:
        if settled.wake_address is None or not call(settled.wake_address):
            self._waker.add(settled.wait.run_id)

    async def _fire_deadlines(self, client: PrefectClient) -> None:
        """Settle the waits that are due, and have their runs woken."""
        while due := await self.ledger.waits.due(LOOKED_FOR):
            settled_any = False
            moved_on = await not_paused(client, {wait.run_id for wait in due})
            unread = set()
            for wait in due:
                if wait.run_id not in moved_on:
                    continue
                try:
                    settled = await self._take_in_time(client, wait)
                except (LedgerUnavailable, httpx.TransportError):
                    raise
                except Exception:  # the deadlines of the others fire
                    log.exception("Whether wait %s was answered in time cannot be read, and it stays open.", wait.id)
                    unread.add(wait.id)
                    continue
                if settled is not None:
                    await self._wake_settled(settled)
                    settled_any |= settled.won
            over = [wait for wait in due if wait.id not in unread]
            for first in range(0, len(over), TOGETHER):
                fired = await self.ledger.deadlines.fire(over[first : first + TOGETHER])
                settled_any |= fired.settled > 0
                for run_id, address in fired.woken:
                    if address is None or not call(address):
                        self._waker.add(run_id)
            if len(due) < LOOKED_FOR or not settled_any or not await self._keep_lease():
                return

    async def _take_in_time(self, client: PrefectClient, wait: Any) -> Settled | None:
        """An answer that Prefect took before the deadline fired, and which the run has not read yet, is the answer;
        also one to another wait of the group, where one is enough."""
        group = (await self.ledger.waits.group(wait.run_id, wait.group_key)).waits
        for one in group if wait.need == Need.ANY else [wait]:
            if one.kind not in NOBODY_ANSWERS and one.state == WaitState.OPEN:
                settled = await self._settle_from_prefect(client, one)
                if settled is not None:
                    return settled
        return None

    async def _settle_from_prefect(self, client: PrefectClient, wait: Any) -> Settled | None:
        if wait.policy is not None and Policy.model_validate_json(wait.policy).names_people:
            return None  # the run refuses it when it wakes: Prefect does not say who answered
        found = await answer_in_prefect(client, wait)
        if found is None:
            return None
        text, given_at = found
        try:
            answer = checked_answer(wait, text)
        except AnswerRefused as refused:
            log.info("%s", refused)
            return None
        return await self.ledger.waits.settle(
            wait.id, outcome=Outcome.ANSWERED, answer=answer, door=Door.PREFECT, given_at=given_at
        )

    async def _announce(self, client: PrefectClient) -> None:
        """Tell Prefect's event feed of the waits that opened, at least once each."""
        if waits := await self.ledger.waits.unannounced():
            await announce(client, waits)
            await self.ledger.waits.announced(waits)

    async def _rescue(self, client: PrefectClient) -> None:
        """Runs whose attempt is dead: fence it off, and have the run taken up again."""
        self._spared = False
        for host, alive in await self.ledger.hosted.warm_holders():
            if host == holder.this_process():
                continue  # it lives, whatever its lease says, and sees what others have taken when it renews that
            if holder.is_dead(host) or not (alive or self._may_renew()):
                count = await self.ledger.hosted.abandon(host)
                log.info("%s runs that were parked warm are parked cold: %s.", count, _fate(host))
        held = await self.ledger.runs.held()
        self._still.keep({run.id for run in held})
        dead = [run for run in held if self._is_dead(run) and run.deployment_id and self._patience.allows(run.id)]
        states = await self._prefect_states(client, dead)
        for run in dead:
            state = states.get(run.id)
            if state is None or state.type is StateType.SCHEDULED:
                continue  # gone (the doctor names it), or about to be taken up
            if run.state == RunState.RUNNING and run.holder is None and is_paused_by_somebody(state):
                continue  # it goes on when they resume it
            rescued = await self.ledger.runs.rescue(run.id, run.attempt, run.holder)
            if rescued is RunState.READY:
                log.info("Run %s is rescued: %s.", run.id, _fate(run.holder))
                self._patience.tried(run.id)
                self._waker.add(run.id, presumed_dead=True)

    def _is_dead(self, run: Any) -> bool:
        """Whether nothing works on the run any more: seen on this machine, else by the lease.

        Who works renews it, whatever the clocks say here and there: a lease that has ended by this one is over if
        it was not renewed either while we looked, and one that nobody has renewed for its length is, whatever it says.
        An attempt at work in this process is alive: it renews its lease when the ledger is back, as this one looks.
        """
        if run.holder is None or holder.is_dead(run.holder):
            return True
        if run.holder == holder.this_process() and pulse.holds(run.id, run.attempt):
            return False
        still = self._still.seconds(run.id, (run.attempt, run.lease_expires_at))
        if run.lease_expires_at <= clock.utcnow():
            looked = still >= 2 * settings.RENEW_EVERY.total_seconds()
            self._spared |= not looked
            return looked
        return still > settings.LEASE.total_seconds()

    def _may_renew(self) -> bool:
        """Whether whose lease has ended by the clock may be at work: the clock was set forward, and they have not
        renewed it since."""
        spared = self._clock_steps.may_have_gone_forward(2 * settings.RENEW_EVERY)
        self._spared |= spared
        return spared

    async def _wake_missed(self, client: PrefectClient) -> None:
        """Runs whose wait has settled, and which nobody has taken up."""
        missed = [
            run
            for run in await self.ledger.runs.ready_since(clock.utcnow() - settings.WAKE_GRACE)
            if run.deployment_id is not None
            and run.id not in self._waker
            and self._patience.allows(run.id)
            and not self._is_queued_in_a_host(run)
        ]
        for run in missed:
            self._patience.tried(run.id)
        for run_id, state in (await self._prefect_states(client, missed)).items():
            starting = state.type in (StateType.PENDING, StateType.RUNNING)
            self._waker.add(run_id, presumed_dead=starting and clock.is_over(state.timestamp, settings.START_GRACE))

    def _is_queued_in_a_host(self, run: Any) -> bool:
        """Whether a living host of this machine has it among those it takes up, and is told of it once more."""
        if run.wake_address is None or clock.is_over(run.ready_at, settings.HOST_GRACE):
            return False
        return call(run.wake_address)

    async def _prefect_states(self, client: PrefectClient, runs: Collection[Any]) -> dict[str, State[Any]]:
        """Prefect's states of runs that have not ended in the ledger, without those gone or ended there."""
        rows = {run.id: run for run in runs}
        states = await states_of(client, rows)
        for run_id, state in states.items():
            if state.type in ENDED_IN_PREFECT:
                await end_as_prefect_says(self.ledger, rows[run_id], state)
        return {run_id: state for run_id, state in states.items() if state.type not in ENDED_IN_PREFECT}


def _fate(whose: str | None) -> str:
    """What is known of who held a run: one whose lease ran out may live, and not reach the ledger."""
    if whose is None:
        return "its process is dead"
    return f"{whose} is dead" if holder.is_dead(whose) else f"{whose} has not renewed its lease"
