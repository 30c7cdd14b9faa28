"""The host: many agent runs as tasks of one event loop, parked warm between their waits, woken by the ledger.

The ledger lets code run: a claim there, with its attempt number, permits an attempt to execute; what it means for
Prefect follows in order (``parking.following``). The host hears of settled waits at its loopback address, on PostgreSQL
also by its notifications, and looks at the ledger every ``LOOK_SECONDS``, should both be lost.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any

from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType

from standby import clock, holder, settings
from standby.errors import LedgerUnavailable
from standby.host.calling_over import CallingOver
from standby.host.ends import Ends, is_over
from standby.host.guest import Guest, Phase
from standby.host.intake import Intake
from standby.host.lasting import lasting
from standby.host.lease import HostLease
from standby.host.placing import Placing
from standby.host.returns import Returns
from standby.host.slots import Slots
from standby.host.tidying import tidy
from standby.host.warmth import Warmth
from standby.hosting import Woken
from standby.keeper import Keeper
from standby.ledger import Ledger
from standby.ledger.runs import Claim
from standby.parking import is_paused_by_somebody, wake
from standby.parking.following import Following
from standby.projection import UNREAD, states_of
from standby.pulse import pulse
from standby.wakeups import Ear

log = logging.getLogger("standby.host")

LOOK_SECONDS = 2.0
"""How often the host looks at the ledger for what it has not heard of."""

AT_WORK = (StateType.PENDING, StateType.RUNNING)
"""Prefect's states of a run that somebody works on, or is about to."""

MANY = 10
"""So many runs that are being woken are a storm."""

FINAL_SECONDS = 5.0
"""How long Prefect may take at the end to be told what is left to tell."""


class Host:
    """``async with Host(...)`` hosts until the block ends. ``client`` is open, and ``open_client`` opens another.

    ``limit``: how many agents may run at the same time (None: any number); those that are parked are not counted.
    """

    def __init__(
        self,
        ledger: Ledger,
        ledger_url: str,
        client: PrefectClient,
        placing: Placing,
        *,
        deployments: Callable[[], Awaitable[set[str]]],
        open_client: Callable[[], PrefectClient],
        limit: int | None = None,
        keep: bool = True,
    ) -> None:
        self.ledger, self.plain, self.client, self.placing = ledger, client, client, placing
        self.guests: dict[str, Guest] = {}
        self.slots = Slots(limit)
        self.following = Following(self._is_waking_many)
        self.warmth = Warmth(ledger, lambda: (guest for guest in self.guests.values() if guest.phase is Phase.WARM))
        self.intake, self.returns, self.ends = Intake(self), Returns(self), Ends(self)
        self.calling_over = CallingOver(self)
        self.holder = holder.this_process()
        self.address = ""
        self.deployments: set[str] = set()
        self.open = False
        self.bound = False  # Prefect's queue says who goes on (``bounds``)
        self.over = 0  # attempts that have come to their end
        self.ledger_url, self._deployments, self._open_client, self._keep = (
            ledger_url,
            deployments,
            open_client,
            keep,
        )
        self._context = contextvars.copy_context()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._exit = AsyncExitStack()
        self._lease: HostLease | None = None

    @property
    def leased(self) -> bool:
        """Whether the host's lease is kept."""
        return self._lease is not None and self._lease.alive

    # Its life.

    async def __aenter__(self) -> Host:
        async with AsyncExitStack() as stack:
            ear = await stack.enter_async_context(Ear.open(self.hear))
            self.address = ear.address
            limited = self.slots.limit is not None
            self._lease = lease = HostLease(self.address, self.holder, lost=self.compare_soon, limited=limited)
            await lease.renew(self.ledger)
            stack.push_async_callback(lease.give_up, self.ledger)
            stack.enter_context(pulse.keeping(self.ledger_url, lease))
            self.open = True
            await self.take_back()
            await stack.enter_async_context(self.ledger.notifications.to(self.hear))
            for loop, undone in (
                (lease.beats, "The host's lease is not renewed"),
                (self.intake.loop, "Cold runs are not taken up"),
                (self._look_loop, "Nobody looks for what this host has not heard of"),
                (self.warmth.watch, "No run is let go to free memory"),
                (partial(tidy, self), "The memory of attempts that are over is not given back"),
            ):
                self.start(lasting(loop, undone))
            if self._keep:
                self.start(Keeper(self.ledger, self._open_client, self.following.tells_of).run())
            self._exit = stack.pop_all()
        return self

    async def __aexit__(self, *_: Any) -> None:
        self.open = False
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.leave(grace=0.0)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.warmth.close()
        await self.following.close()
        await self._exit.aclose()

    async def take_back(self) -> None:
        """At the start: what this machine's dead processes have left, and cold runs that no host listens for."""
        served = await self._deployments()
        self.deployments = set() if self.bound else served
        for host, _ in await self.ledger.hosted.warm_holders():
            if holder.is_dead(host):  # by its lease alone only the keeper tells, which sees the clock
                await self.ledger.hosted.abandon(host)
        for run in await self.ledger.hosted.orphans(served):
            if holder.is_dead(run.holder):
                await self.ledger.runs.rescue(run.id, run.attempt, run.holder)
        await self.ledger.hosted.adopt(self.deployments, self.address)
        self.intake.want(await self.ledger.hosted.to_take_up(self.deployments))

    async def leave(self, grace: float) -> None:
        """Take nothing up any more, and let all go within ``grace`` seconds: what is parked is left, and what runs
        goes to its next checkpoint and is left there."""
        self.open = False
        self.intake.stop()
        await self.calling_over.end()
        with suppress(LedgerUnavailable):
            await self.ledger.hosted.disown(self.address)
            await self.ledger.hosted.abandon(self.holder)
        running = [guest for guest in self.guests.values() if guest.task is not None and not guest.forsaken]
        for guest in running:
            guest.leave_soon()
            if guest.phase in (Phase.WARM, Phase.PAUSED, Phase.WAKING):
                guest.leave()
        tasks = [guest.task for guest in running if guest.task is not None]
        if tasks and grace > 0:
            await asyncio.wait(tasks, timeout=grace)
        for guest in running:
            guest.leave()
        await asyncio.gather(*(guest.stopped() for guest in running))
        await asyncio.sleep(0)  # what they leave is given back when they are seen to be over
        with suppress(TimeoutError):
            async with asyncio.timeout(FINAL_SECONDS):
                while self.intake.beginning:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                await self.returns.made()
                await self.following.drained()

    def _is_waking_many(self) -> bool:
        """Whether a storm of wakes goes on: whose answers have come go on before Prefect is told of those before."""
        if self.intake.unplaced >= MANY:
            return True
        waking = [guest for guest in self.guests.values() if guest.phase is Phase.WAKING]
        return sum(1 for guest in waking if not (guest.queued or self.slots.awaits(guest.id))) >= MANY

    def cold_address(self, run_id: str) -> str | None:
        """Where this host hears that a cold run is to go on; None where Prefect's queue says who does."""
        return None if self.bound else f"{self.address}#{run_id}"

    @property
    def is_calm(self) -> bool:
        """Whether all that is here is parked, and Prefect knows of it."""
        idle = not self.intake.beginning and not self.intake.unplaced and not self.following.behind
        return idle and not any(guest.busy for guest in self.guests.values())

    # What it hears.

    def hear(self, run_id: str | None) -> None:
        """A wait of this run has settled, it is said; or None: something may have been missed."""
        if run_id is None or run_id == "look":
            self.start(self._look())
        elif (guest := self.guests.get(run_id)) is not None:
            guest.nudge(Woken.SETTLED)
        else:
            self.intake.want([run_id])

    def hear_of_state(self, run_id: str, state: State[Any]) -> bool:
        """Prefect says that the run is in this state. True when nothing more need be done about it."""
        guest = self.guests.get(run_id)
        if state.type in (StateType.CANCELLED, StateType.CANCELLING) or (
            guest is not None and guest.is_ended_by(state)
        ):
            self.ends.end_soon(run_id, state)
            return True
        if guest is None or (self.bound and state.type is StateType.SCHEDULED):
            return state.type is not StateType.SCHEDULED
        if state.type is StateType.SCHEDULED:
            guest.nudge(Woken.RESUMED)
        elif state.type is StateType.PAUSED and guest.phase is Phase.RUNNING:
            self.start(guest.suspended_by_somebody(state.id))
        return True

    def compare_soon(self) -> None:
        """The host's lease ran out: others may have taken what it has."""
        self.start(self._compare())

    async def _look_loop(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self._look()

    async def _look(self) -> None:
        try:
            for run_id in await self.ledger.hosted.warm_and_ready(self.holder):
                if (guest := self.guests.get(run_id)) is not None:
                    guest.nudge(Woken.SETTLED)
                elif run_id not in self.intake.beginning:
                    log.warning("Run %s is said to be warm in this host, and is not here.", run_id)
                    await self.ledger.hosted.abandon_one(run_id, self.holder, self.cold_address(run_id))
            self.intake.want(await self.ledger.hosted.to_take_up(self.deployments))
            if self.slots.waiting:
                await self._compare()  # another may have called some of them over
            else:
                self.calling_over.begin()
        except LedgerUnavailable as error:
            log.warning("%s", error)
        except Exception:
            log.exception("The host looks again in %g s for what it has not heard of, and could not.", LOOK_SECONDS)

    async def refresh(self) -> None:
        """New deployments of the pool, what other hosts have left, and whatever was not heard."""
        if self.bound:
            self.deployments = set()
            await self.ledger.hosted.disown(self.address)
        else:
            self.deployments = await self._deployments() - self.intake.apart
            await self.ledger.hosted.adopt(self.deployments, self.address)
        await self._compare()
        self.compare_with_prefect_soon()

    def compare_with_prefect_soon(self) -> None:
        """Prefect's events may have been missed."""
        self.start(self._look_at_prefect())

    async def _look_at_prefect(self) -> None:
        """What was ended in Prefect while its events did not come, which the keeper does for what is parked; and
        what is parked here and shown as at work, for Prefect could not be told or somebody has set it so; and the other
        way round."""
        at_work = [guest.id for guest in self.guests.values() if guest.phase is not Phase.WARM]
        parked = {guest.id: guest.run.attempt for guest in self.guests.values() if guest.run and not guest.busy}
        try:
            for run_id, state in (await states_of(self.plain, at_work)).items():
                if is_over(state):
                    self.hear_of_state(run_id, state)
                elif state.type is StateType.PAUSED and not is_paused_by_somebody(state):
                    self._show_at_work(run_id)
            for run_id, state in (await states_of(self.plain, parked, AT_WORK)).items():
                if clock.is_over(state.timestamp, settings.START_GRACE):  # else somebody may be taking it up
                    self.following.later(run_id, partial(self._show_parked, run_id, parked[run_id]))
        except UNREAD as error:
            log.warning("Whether agents are in Prefect as they are here cannot be seen for now: %s", error)

    def _show_at_work(self, run_id: str) -> None:
        guest = self.guests.get(run_id)
        if guest is not None and guest.run is not None and guest.phase is Phase.RUNNING:
            self.ends.show_running(run_id, guest.run.attempt, yet=True)

    async def _show_parked(self, run_id: str, attempt: int) -> None:
        """Have the run go on, unless it has: it finds its wait open, parks again, and is shown so, under a key that
        Prefect has not seen yet."""
        guest = self.guests.get(run_id)
        if guest is not None and guest.phase is Phase.WARM and guest.run is not None and guest.run.attempt == attempt:
            log.warning("Run %s is parked and Prefect shows it as at work: it is woken to be shown again.", guest.name)
            await wake(self.plain, run_id, presumed_dead=True)

    async def _compare(self) -> None:
        """Forget what is another's by now, and give up what nobody here has."""
        lingering = {guest: guest.run.attempt for guest in self.guests.values() if guest.run and guest.run.lingering}
        try:
            mine = await self.ledger.hosted.warm_in(self.holder)
            for guest, attempt in lingering.items():
                if mine.get(guest.id) == attempt:
                    continue
                row = await self.ledger.runs.get(guest.id)
                # One that has just gone on here is not parked any more either, and may be over by now.
                still = guest.run is not None and guest.run.lingering and guest.run.attempt == attempt
                if still and (row is None or row.holder != self.holder):
                    log.info("Run %s is another's now; it is forgotten here.", guest.name)
                    guest.leave()
                    guest.lost()
            for run_id in mine:
                # The answer to its park was lost, and its attempt has ended.
                if run_id not in self.guests and run_id not in self.intake.beginning:
                    log.warning("Run %s is said to be warm in this host, and is not here.", run_id)
                    await self.ledger.hosted.abandon_one(run_id, self.holder, self.cold_address(run_id))
        except LedgerUnavailable as error:
            log.warning("%s", error)

    # Attempts.

    def begin(self, flow_run: FlowRun, flow: Flow[..., Any], claimed: Claim | None = None) -> Guest:
        """Begin an attempt here; its slot is taken."""
        guest = Guest(self, flow_run, flow, claimed)
        self.intake.apart.discard(str(flow_run.deployment_id))
        if not self.bound:
            self.deployments.add(str(flow_run.deployment_id))  # it may be newer than the last look
        self.guests[guest.id] = guest
        guest.task = asyncio.get_running_loop().create_task(
            guest.attend(), name=f"agent run {guest.name} ({guest.id})", context=self._context.copy()
        )
        guest.task.add_done_callback(lambda _: self._over(guest))
        return guest

    def forsake(self, guest: Guest) -> None:
        """It goes on though it was cancelled. Where its run is to go on, it does when this process is dead."""
        if guest.cancelled or guest.is_lost:
            self._over(guest)
        guest.forsaken = True

    def _over(self, guest: Guest) -> None:
        if guest.forsaken:
            return
        if self.guests.get(guest.id) is guest:
            del self.guests[guest.id]
        self.over += 1
        self.slots.leave(guest.id)
        if guest.run is not None and guest.run.host_ends and not guest.cancelled:
            self.returns.start(self.returns.give_back(guest.id, guest.run.attempt, guest.run))
        elif guest.claimed is not None:  # it did not get as far as the ledger
            self.returns.start(self.returns.give_back(guest.id, guest.claimed.attempt))
        elif guest.run is None and guest.leaving and not guest.cancelled:
            self.returns.start(self.returns.give_up(guest.id))
        elif guest.missed_a_call or guest.cancelled:  # which may be retried by now
            self.intake.want([guest.id])
            self.intake.seek(guest.id)

    def start(self, work: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(work, context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            what = getattr(task.get_coro(), "__qualname__", task.get_name())
            log.error("The host has left off in the midst of %s, which is not done by now.", what, exc_info=error)
