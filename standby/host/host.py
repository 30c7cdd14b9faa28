"""The host: many agent runs as tasks of one event loop, parked warm between their waits, woken by the ledger.

The ledger lets code run: a claim there, with its attempt number, permits an attempt to execute; what it means for
Prefect follows in order (``parking.following``). The host hears of settled waits at its loopback address, on PostgreSQL
also by its notifications, and looks at the ledger every ``LOOK_SECONDS``, should both be lost.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Any
from uuid import UUID

import httpx
from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Cancelled, Cancelling, Running

from standby import holder, settings
from standby.errors import LedgerUnavailable, UsageError
from standby.host.guest import Guest, Phase
from standby.host.lease import HostLease
from standby.host.placing import Placing
from standby.host.slots import Slots
from standby.host.warmth import Warmth
from standby.keeper import Keeper
from standby.ledger import Ledger
from standby.ledger.runs import Claim
from standby.parking import wake
from standby.parking.following import Following
from standby.pulse import pulse
from standby.runs import AgentRun, Woken
from standby.states import RunState
from standby.wakeups import Ear

log = logging.getLogger("standby.host")

LOOK_SECONDS = 2.0
"""How often the host looks at the ledger for what it has not heard of."""

TAKE_UP_AT_ONCE = 16
"""How many cold runs are on their way from the ledger to their first line at the same time."""

MANY = 10
"""So many runs that are being woken are a storm."""

FINAL_SECONDS = 5.0
"""How long Prefect may take at the end to be told what is left to tell."""

_ENDED = {StateType.COMPLETED: RunState.COMPLETED, StateType.FAILED: RunState.FAILED}


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
        self.holder = holder.this_process()
        self.address = ""
        self.deployments: set[str] = set()
        self.open = False
        self._ledger_url, self._deployments, self._open_client, self._keep = (
            ledger_url,
            deployments,
            open_client,
            keep,
        )
        self._context = contextvars.copy_context()
        # Looks whether Prefect has the run scheduled.
        self.seek: Callable[[str], None] = lambda run_id: None
        self._beginning: set[str] = set()  # on their way to a guest, of whichever origin
        self._apart: set[str] = set()  # deployments whose runs have processes of their own
        self._asked_again: set[str] = set()  # of these, those that the other origin gave, too
        self._wanted: OrderedDict[str, None] = OrderedDict()  # cold runs to take up, in the order they were heard of
        self._something = asyncio.Event()
        self._taking = asyncio.Semaphore(TAKE_UP_AT_ONCE)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._returns: set[asyncio.Task[None]] = set()  # runs on their way back to Prefect
        self._exit = AsyncExitStack()
        self._lease: HostLease | None = None

    @property
    def wanted(self) -> int:
        """How many cold runs wait to be taken up."""
        return len(self._wanted)

    @property
    def leased(self) -> bool:
        """Whether the host's lease is kept."""
        return self._lease is not None and self._lease.alive

    # Its life.

    async def __aenter__(self) -> Host:
        async with AsyncExitStack() as stack:
            ear = await stack.enter_async_context(Ear.open(self.hear))
            self.address = ear.address
            self._lease = lease = HostLease(self.address, self.holder, lost=self.compare_soon)
            await lease.renew(self.ledger)
            stack.push_async_callback(lease.give_up, self.ledger)
            stack.enter_context(pulse.keeping(self._ledger_url, lease))
            self.open = True
            await self.take_back()
            await stack.enter_async_context(self.ledger.notifications.to(self.hear))
            for loop in (lease.beats(), self._take_up_loop(), self._look_loop(), self.warmth.watch()):
                self._start(loop)
            if self._keep:
                self._start(Keeper(self.ledger, self._open_client).run())
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
        self.deployments = await self._deployments()
        for dead, alive in await self.ledger.hosted.warm_holders():
            if not alive or holder.is_dead(dead):
                await self.ledger.hosted.abandon(dead)
        for run in await self.ledger.hosted.orphans(self.deployments):
            if holder.is_dead(run.holder):
                await self.ledger.runs.rescue(run.id, run.attempt, run.holder)
        await self.ledger.hosted.adopt(self.deployments, self.address)
        self._want(await self.ledger.hosted.to_take_up(self.deployments))

    async def leave(self, grace: float) -> None:
        """Take nothing up any more, and let all go within ``grace`` seconds: what is parked is left, and what runs
        goes to its next checkpoint and is left there."""
        self.open = False
        with suppress(LedgerUnavailable):
            await self.ledger.hosted.disown(self.address)
            await self.ledger.hosted.abandon(self.holder)
        running = [guest for guest in self.guests.values() if guest.task is not None]
        for guest in running:
            guest.leave_soon()
            if guest.phase in (Phase.WARM, Phase.WAKING):
                guest.leave()
        tasks = [guest.task for guest in running if guest.task is not None]
        if tasks and grace > 0:
            await asyncio.wait(tasks, timeout=grace)
        for guest in running:
            guest.leave()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # what they leave is given back when they are seen to be over
        with suppress(TimeoutError):
            async with asyncio.timeout(FINAL_SECONDS):
                while self._beginning:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                await asyncio.gather(*self._returns)
                await self.following.drained()

    def _is_waking_many(self) -> bool:
        """Whether a storm of wakes goes on: whose answers have come go on before Prefect is told of those before."""
        if len(self._wanted) >= MANY:
            return True
        waking = sum(1 for guest in self.guests.values() if guest.phase is Phase.WAKING)
        return waking - self.slots.waiting >= MANY

    # What it hears.

    def hear(self, run_id: str | None) -> None:
        """A wait of this run has settled, it is said; or None: something may have been missed."""
        if run_id is None or run_id == "look":
            self._start(self._look())
        elif (guest := self.guests.get(run_id)) is not None:
            guest.nudge(Woken.SETTLED)
        else:
            self._want([run_id])

    def hear_of_state(self, run_id: str, state: State[Any]) -> bool:
        """Prefect says that the run is in this state. True when nothing more need be done about it."""
        guest = self.guests.get(run_id)
        if state.type in (StateType.CANCELLED, StateType.CANCELLING):
            self.cancel_soon(run_id)
            return True
        if guest is None:
            return state.type is not StateType.SCHEDULED
        if state.type is StateType.SCHEDULED:
            guest.nudge(Woken.RESUMED)
        elif state.type is StateType.PAUSED and guest.phase is Phase.RUNNING:
            self._start(guest.suspended_by_somebody(state.id))
        return True

    def compare_soon(self) -> None:
        """The host was away for longer than its lease: others may have taken what it has."""
        log.warning("The host stood still for longer than its lease: others may have what was parked in it.")
        self._start(self._compare())

    async def _look_loop(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self._look()

    async def _look(self) -> None:
        try:
            for run_id in await self.ledger.hosted.warm_and_ready(self.holder):
                if (guest := self.guests.get(run_id)) is not None:
                    guest.nudge(Woken.SETTLED)
                elif run_id not in self._beginning:
                    log.warning("Run %s is said to be warm in this host, and is not here.", run_id)
                    await self.ledger.hosted.abandon_one(run_id, self.holder, f"{self.address}#{run_id}")
            self._want(await self.ledger.hosted.to_take_up(self.deployments))
        except LedgerUnavailable as error:
            log.warning("%s", error)

    async def refresh(self) -> None:
        """New deployments of the pool, and what other hosts have left."""
        self.deployments = await self._deployments() - self._apart
        await self.ledger.hosted.adopt(self.deployments, self.address)
        await self._compare()

    async def _compare(self) -> None:
        """Forget what is another's by now."""
        lingering = {guest: guest.run.attempt for guest in self.guests.values() if guest.run and guest.run.lingering}
        try:
            mine = await self.ledger.hosted.warm_in(self.holder)
            for guest, attempt in lingering.items():
                if mine.get(guest.id) == attempt:
                    continue
                row = await self.ledger.runs.get(guest.id)
                # One that has just gone on here is not parked any more either.
                if row is None or row.holder != self.holder:
                    log.info("Run %s is another's now; it is forgotten here.", guest.name)
                    guest.leave()
        except LedgerUnavailable as error:
            log.warning("%s", error)

    # Taking up what is cold.

    def _want(self, run_ids: list[str]) -> None:
        for run_id in run_ids:
            if run_id not in self.guests:
                self._wanted.setdefault(run_id)
        self._something.set()

    async def _take_up_loop(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            while self._wanted and self.open:
                await self.following.caught_up()
                await self._taking.acquire()
                if not self._wanted:
                    self._taking.release()
                    break
                run_id, _ = self._wanted.popitem(last=False)
                task = self._start(self._take_up(run_id))
                task.add_done_callback(lambda _: self._taking.release())

    def enters(self, run_id: str) -> bool:
        """Whether the caller is to begin the run, and call ``entered`` afterwards: it has no guest, and nobody else is
        about to begin it. The ledger and Prefect may both give the same run."""
        if run_id in self.guests:
            return False
        if run_id in self._beginning:
            self._asked_again.add(run_id)
            return False
        self._beginning.add(run_id)
        return True

    def entered(self, run_id: str, *, begun: bool) -> None:
        """The run was begun or will not be: who was turned away meanwhile is then asked once more."""
        self._beginning.discard(run_id)
        again = run_id in self._asked_again
        self._asked_again.discard(run_id)
        if not begun and again and self.open:
            self._want([run_id])
            self.seek(run_id)

    async def _take_up(self, run_id: str) -> None:
        """Claim a cold run in the ledger and begin an attempt here."""
        if not self.enters(run_id):
            return
        taken: tuple[Claim, Any] | None = None
        begun = within = False
        try:
            await self.slots.enter(run_id)
            within = True
            if not self.open:
                return
            taken = await self.ledger.hosted.claim_ready(run_id, self.deployments, self.holder, settings.LEASE)
            if taken is None:
                return
            flow_run = await self.plain.read_flow_run(UUID(run_id))
            if _is_over(flow_run.state):
                return
            placement = await self.placing.of(flow_run)
            if placement.flow is None:
                log.info("Run %s has a process of its own: %s.", flow_run.name, placement.why)
                await self._does_without(str(flow_run.deployment_id))
            elif self.open:
                self.begin(flow_run, placement.flow, taken[0])
                begun = True
        except LedgerUnavailable as error:
            log.warning("Run %s could not be taken up and is later: %s", run_id, error)
        except ObjectNotFound:
            log.warning("Run %s is not on the Prefect server.", run_id)
        except (httpx.HTTPError, PrefectHTTPStatusError) as error:
            log.warning("Run %s could not be taken up and is later: %s", run_id, error)
        except Exception:
            log.exception("Run %s could not be taken up here.", run_id)
        finally:
            if within and not begun:
                self.slots.leave(run_id)
            self.entered(run_id, begun=begun)
            if not begun and taken is not None:
                self._return(self._give_back(run_id, taken[0].attempt))

    async def give_up(self, run_id: str) -> None:
        """Have a run that Prefect has given to this host, and that has not reached the ledger, given to another."""
        try:
            await wake(self.plain, run_id, presumed_dead=True)
        except (httpx.HTTPError, PrefectHTTPStatusError) as error:
            log.warning("Run %s is woken by the keeper: %s", run_id, error)

    async def _does_without(self, deployment: str) -> None:
        """What runs apart is not for the host to take up, until one of its runs is begun here after all."""
        self._apart.add(deployment)
        self.deployments.discard(deployment)
        await self.ledger.hosted.disown(self.address, deployment)

    async def _give_back(self, run_id: str, attempt: int, run: AgentRun | None = None) -> None:
        """Have the run taken up by whoever Prefect gives it to, unless a thread of ``run`` acts on for it here."""
        try:
            if run is not None:
                await run.no_thread_acts()
            if await self.ledger.hosted.give_back(run_id, attempt, self.holder):
                await wake(self.plain, run_id, presumed_dead=True)
        except (LedgerUnavailable, httpx.HTTPError, PrefectHTTPStatusError) as error:
            log.warning("Run %s is woken by the keeper: %s", run_id, error)

    # Attempts.

    def begin(self, flow_run: FlowRun, flow: Flow[..., Any], claimed: Claim | None = None) -> Guest:
        """Begin an attempt here; its slot is taken."""
        guest = Guest(self, flow_run, flow, claimed)
        self._apart.discard(str(flow_run.deployment_id))
        self.deployments.add(str(flow_run.deployment_id))  # it may be newer than the last look
        self.guests[guest.id] = guest
        guest.task = asyncio.get_running_loop().create_task(
            guest.attend(), name=f"agent run {guest.name} ({guest.id})", context=self._context.copy()
        )
        guest.task.add_done_callback(lambda _: self._over(guest))
        return guest

    def _over(self, guest: Guest) -> None:
        if self.guests.get(guest.id) is guest:
            del self.guests[guest.id]
        self.slots.leave(guest.id)
        if guest.run is not None and guest.run.host_ends and not guest.cancelled:
            self._return(self._give_back(guest.id, guest.run.attempt, guest.run))
        elif guest.claimed is not None:  # it did not get as far as the ledger
            self._return(self._give_back(guest.id, guest.claimed.attempt))
        elif guest.run is None and guest.leaving and not guest.cancelled:
            self._return(self.give_up(guest.id))
        elif guest.missed_a_call:
            self._want([guest.id])
            self.seek(guest.id)

    def _return(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, context=self._context.copy())
        self._returns.add(task)
        task.add_done_callback(self._returns.discard)

    def show_running(self, run_id: str, attempt: int) -> None:
        """Have Prefect show the run as Running, unless somebody has ended it there, or it is not this attempt's now."""

        async def show() -> None:
            try:
                state = (await self.plain.read_flow_run(UUID(run_id))).state
            except ObjectNotFound:
                return
            if state is not None and _is_over(state):
                self._start(self._end(run_id, state))
            elif state is None or not state.is_running():
                # Prefect would let a run that was cancelled go on; the ledger ends it, and its number goes up.
                row = await self.ledger.runs.get(run_id)
                if row is not None and row.attempt == attempt:
                    await self.plain.set_flow_run_state(UUID(run_id), Running())

        self.following.later(run_id, show)

    def cancel_soon(self, run_id: str) -> None:
        """The run was cancelled in Prefect."""
        self._start(self._end(run_id, Cancelled(message="It was cancelled in Prefect.")))

    async def _end(self, run_id: str, state: State[Any]) -> None:
        """End a run that somebody has ended in Prefect: in the ledger, here, and in Prefect if it is left to us."""
        try:
            row = await self.ledger.runs.get(run_id)
            guest = self.guests.get(run_id)
            ours = row is not None and (row.holder == self.holder or row.state in (RunState.PARKED, RunState.READY))
            if guest is None and not ours:
                return
            ended = _ENDED.get(state.type, RunState.CANCELLED)
            await self.ledger.runs.end_from_outside(run_id, ended, f"{state.name} in Prefect: {state.message or ''}")
            if guest is not None:
                guest.cancel()
                if guest.task is not None and guest.task is not asyncio.current_task():
                    await asyncio.wait([guest.task])
                if ended is RunState.CANCELLED:
                    await guest.call_hooks_of(Cancelling())
            if ended is RunState.CANCELLED:
                # After all that was on its way to Prefect: also where that has shown the run as Running once more.
                self.following.later(run_id, lambda: self._show_cancelled(run_id))
        except (LedgerUnavailable, UsageError, httpx.HTTPError, PrefectHTTPStatusError, ObjectNotFound) as error:
            log.warning("The end of run %s in Prefect is followed by the keeper: %s", run_id, error)

    async def _show_cancelled(self, run_id: str) -> None:
        now = (await self.plain.read_flow_run(UUID(run_id))).state
        if now is not None and now.type is not StateType.CANCELLED:
            await self.plain.set_flow_run_state(UUID(run_id), Cancelled(), force=True)

    def _start(self, work: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(work, context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _is_over(state: State[Any] | None) -> bool:
    """Whether somebody has ended the run in Prefect. One that has crashed goes on."""
    return state is not None and (state.is_cancelling() or (state.is_final() and not state.is_crashed()))
