"""One attempt in a host: what the host is to it (``runs.Hosting``), from its begin to its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import (
    Abort,
    ParameterBindError,
    ParameterTypeError,
    Pause,
    PrefectHTTPStatusError,
    SignatureMismatchError,
)

from standby import settings
from standby.errors import UsageError
from standby.host.client import RunClient, RunClientContext
from standby.host.engine import HostedEngine
from standby.host.forsaken import FORSAKEN, why_lost
from standby.host.unbegun import show_unbegun
from standby.hosting import Woken, current_hosting
from standby.ledger.opening import Group
from standby.ledger.runs import Claim
from standby.parking import is_paused_by_somebody, show_suspended, wake
from standby.projection import UNREAD
from standby.runs import AgentRun
from standby.stops import Fenced

if TYPE_CHECKING:
    from standby.host.host import Host

log = logging.getLogger("standby.host")

LOOKS = (0.01, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Seconds before each look whether Prefect has the run scheduled: it tells of that a hundredth before it is so."""


class Overtaken(Exception):
    """The run has gone on since it parked: that need not be shown any more."""


class Phase(StrEnum):
    BEGINNING = "beginning"
    RUNNING = "running"
    WARM = "warm"
    PAUSED = "paused"  # in Prefect's own pause
    WAKING = "waking"  # it may go on, and waits for its turn
    OVER = "over"


class Guest:
    """``claimed``: the claim of a run that the ledger has READY; None for one that Prefect has scheduled."""

    def __init__(self, host: Host, flow_run: FlowRun, flow: Flow[..., Any], claimed: Claim | None = None) -> None:
        self.host, self.id, self.name, self.flow = host, str(flow_run.id), flow_run.name, flow
        self.claimed = claimed
        self.address = f"{host.address}#{self.id}"
        self.phase = Phase.BEGINNING
        self.run: AgentRun | None = None
        self.task: asyncio.Task[None] | None = None
        self.cancelled = False  # in Prefect
        self.is_lost = False  # another has taken it over, or somebody has ended it in the ledger
        self.shown_states: set[UUID | None] = set()  # that this attempt has set in Prefect itself
        self._flow_run: FlowRun | None = flow_run
        self._deployment_id = flow_run.deployment_id
        self._engine: HostedEngine | None = None
        self._client: RunClient | None = None
        self._woken = asyncio.Event()
        self.queued = False  # it waits for that
        self._why = Woken.SETTLED
        self._called: Woken | None = None  # while it was not parked, or about to go
        self.leaving = self.left_parked = self.fenced = False  # the last two: how it ended
        self.forsaken = False  # it did not end, and the host goes on without it
        self._unfit: UsageError | None = None
        self._suspended: asyncio.Future[State[Any]] | None = None

    @cached_property
    def _given(self) -> asyncio.Event:
        """By Prefect's queue."""
        return asyncio.Event()

    async def attend(self) -> None:
        """The attempt, from its begin to its end. Never raises but when it is cancelled."""
        flow_run, self._flow_run = self._flow_run, None
        assert flow_run is not None
        here, mine = self.host, self.claimed
        ahead = partial(self._begun, mine.attempt, flow_run.state) if mine is not None else None
        self._client = RunClient.of(here.client, here.following, here.ledger, flow_run, ahead, ended=self._ends)
        current_hosting.set(self)
        try:
            with RunClientContext(self._client):
                self._engine = HostedEngine(self.flow, flow_run, self._client)
                del flow_run
                await self._engine.execute()
        except Pause:
            self.left_parked = True
            log.info("Run %s is parked.", self.name)
        except Abort as stop:
            self.fenced = isinstance(stop, Fenced)
            log.info("%s", stop)
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:  # also a hook's sys.exit(), which would end the host
            if self.run is None and isinstance(error, ParameterBindError | ParameterTypeError | SignatureMismatchError):
                self._refuse(error)
            else:
                log.exception("Run %s could not be executed: %s", self.name, error)
                if self.run is None and self.claimed is None:
                    self._show_unbegun(error, refused=False)
        finally:
            self.phase = Phase.OVER

    def _ends(self) -> None:
        """The agent's function is over: its slot is for who can go on, however long Prefect takes to be told."""
        self.phase = Phase.OVER
        if not self.forsaken:  # else another guest of the run may have the slot
            self.host.slots.leave(self.id)

    # What the run asks of its host.

    def begins(self, run: AgentRun) -> None:
        self.run, self.claimed = run, None
        run.host_ends = self.leaving
        self.phase = Phase.RUNNING

    async def linger_seconds(self, waits: list[Any]) -> float | None:
        if self.flow.timeout_seconds is not None:
            return 0  # its clock would go on
        return await self.host.warmth.linger_seconds(self, waits)

    def bill(self, key: str, *, let_go: bool) -> None:
        self.host.warmth.bill(self, key, let_go=let_go)

    def parks(self, group: Group) -> None:
        run, client = self.run, self._client
        assert run is not None
        assert client is not None
        self._woken.clear()
        if self._called is Woken.RESUMED:  # Prefect did not show it as parked yet: it was resumed from something before
            self._called = None
        self._rests()
        attempt = run.attempt

        async def show() -> State[Any]:
            row = await self.host.ledger.runs.get(self.id)
            if row is None or row.attempt != attempt:
                raise Overtaken  # by itself or, where this process was frozen, by another
            return await show_suspended(self.host.plain, run, group, attempt)

        self._suspended = self.host.following.later(self.id, show, parks=True)
        self._suspended.add_done_callback(self._is_shown)

    def _is_shown(self, suspended: asyncio.Future[State[Any]]) -> None:
        if suspended.cancelled():
            return
        error = suspended.exception()
        if isinstance(error, Overtaken):
            pass
        elif isinstance(error, UsageError):
            self._unfit = error
            self._woken.set()
        elif isinstance(error, Abort):
            self.host.ends.look_soon(self.id)
        elif error is not None:
            log.error("Prefect could not be told that run %s is parked: %s", self.name, error)
        else:
            self.shown_states.add(suspended.result().id)

    async def until_woken(self, seconds: float | None) -> Woken:
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return Woken.EVICTED
        if self._unfit is not None:
            raise self._unfit
        why, self._why = self._why, Woken.SETTLED
        self._woken.clear()
        if why is not Woken.EVICTED:
            await self.enters()
        return why

    @asynccontextmanager
    async def pausing(self) -> AsyncIterator[None]:
        self.phase = Phase.PAUSED
        self.host.slots.leave(self.id)
        if self.leaving:
            self.leave()  # as all that pause when the host ends
        try:
            yield
            # By Prefect's queue it is not asked: what pauses in its process goes on so under a stock worker, too.
            self.phase = Phase.WAKING
            await self.host.slots.enter(self.id)
        finally:
            self.phase = Phase.RUNNING

    @property
    def cold_address(self) -> str | None:
        return self.host.cold_address(self.id)

    async def enters(self) -> None:
        self.phase = Phase.WAKING
        if self.host.bound and not self._given.is_set():
            await self._is_given()
        await self.host.slots.enter(self.id)

    async def _is_given(self) -> None:
        """Have Prefect schedule the run, and return when its queue gives it."""
        self.queued = True
        try:
            # This attempt has the run, whatever Prefect still shows it as.
            schedule = partial(wake, self.host.plain, self.id, presumed_dead=True)
            if await self.host.following.later(self.id, schedule) is None:
                return  # it was deleted there: nobody would ever give it
            await self._given.wait()
        except (httpx.HTTPError, PrefectHTTPStatusError) as error:
            log.warning("Run %s cannot be scheduled now, and the keeper has it scheduled: %s", self.name, error)
            await self._given.wait()
        finally:
            self.queued = False

    def given(self) -> None:
        """Prefect's queue says that it may go on."""
        if self.phase in (Phase.WARM, Phase.WAKING):
            self._given.set()
        self.nudge(Woken.RESUMED)

    def lingers_on(self) -> None:
        self._rests()

    def _rests(self) -> None:
        """It is parked warm, and what it was called for meanwhile is heard now."""
        self.phase = Phase.WARM
        self.host.slots.leave(self.id)
        called, self._called = self._called, None
        if called is not Woken.RESUMED:
            self._given.clear()
        if called is not None:
            self.nudge(called)

    async def is_resumed(self) -> bool:
        for pause in LOOKS:
            await asyncio.sleep(pause)
            try:
                state = (await self.host.plain.read_flow_run(UUID(self.id))).state
            except UNREAD as error:
                log.warning("Whether run %s was resumed cannot be seen: %s", self.name, error)
                continue
            if state is not None and state.type is StateType.SCHEDULED:
                self.host.ends.heed_cancel(self.id)
                return True
        return False

    async def shown(self) -> State[Any] | Woken | None:
        drained = asyncio.ensure_future(self.host.following.drained(self.id))
        called = asyncio.ensure_future(self._woken.wait())
        try:
            await asyncio.wait([drained, called], return_when=asyncio.FIRST_COMPLETED)
        finally:
            drained.cancel()
            called.cancel()
        if self._woken.is_set() and self._why is not Woken.EVICTED:
            why, self._why = self._why, Woken.SETTLED
            self._woken.clear()
            return why
        await self.host.following.drained(self.id)
        if self._suspended is None or self._suspended.cancelled() or self._suspended.exception() is not None:
            return None
        return self._suspended.result()

    def forgets(self, key: str) -> None:
        self.host.following.later(self.id, lambda: self.host.plain.delete_flow_run_input(UUID(self.id), key))

    def goes_on(self) -> None:
        self.phase = Phase.RUNNING
        self._suspended = self._called = None  # what it was called for it has seen
        assert self.run is not None
        if not self.host.following.goes_on(self.id):
            self._running(self.run.attempt)

    # What others ask of it.

    @property
    def busy(self) -> bool:
        """Whether it is not parked, or Prefect does not show it as it is."""
        return self.phase is not Phase.WARM or self._suspended is None or not self._suspended.done()

    def nudge(self, why: Woken) -> None:
        """It lingers, and may go on or has to go."""
        if self.phase is not Phase.WARM:
            if why is not Woken.EVICTED and self._called is not Woken.RESUMED and self.phase is not Phase.BEGINNING:
                self._called = why
            return
        if not self._woken.is_set() or why is Woken.RESUMED or self._why is Woken.EVICTED:
            self._why = why
        self._woken.set()

    @property
    def missed_a_call(self) -> bool:
        """Whether it has ended and somebody has to look how its run goes on."""
        # One that has ended otherwise was retried while its hooks ran.
        retried = self._called is Woken.RESUMED
        return self.fenced or retried or (self.left_parked and (self._called is not None or self._woken.is_set()))

    def is_ended_by(self, state: State[Any]) -> bool:
        """Whether somebody has set the run to this end while it goes on, if so: its own end it has reported only when
        the agent's function was over, and what refused it at its begin is no end of somebody's either."""
        return state.type in (StateType.COMPLETED, StateType.FAILED) and self.run is not None and not self.run.over

    async def suspended_by_somebody(self, told: UUID | None = None) -> None:
        """Prefect has told that the run was suspended: if it is, and not by the run, it stops at its next task.

        What is told may be late, and about a park that the run has since come back from. ``told``: the state's id.
        """
        if told in self.shown_states:
            return
        try:
            state = (await self.host.plain.read_flow_run(UUID(self.id))).state
        except UNREAD as error:
            log.warning("Whether somebody has suspended run %s cannot be seen: %s", self.name, error)
            return
        if state is None or not is_paused_by_somebody(state):
            return
        if self.phase is Phase.RUNNING and self._engine is not None:
            self._engine.suspension_requested(state)

    def cancel(self) -> None:
        """It was cancelled in Prefect."""
        self.cancelled = True
        if self.run is not None:
            self.run.over = True  # should it catch that
        if self.task is not None:
            self.task.cancel("cancelled in Prefect")

    def lost(self) -> None:
        self.is_lost = True
        self.host.start(self.stopped())

    def leave_soon(self) -> None:
        """The host ends: the attempt goes no further than its next checkpoint."""
        self.leaving = True
        if self.run is not None:
            self.run.host_ends = True

    def leave(self) -> None:
        """The host ends, or the run is another's: the attempt ends where it is, and writes nothing more."""
        self.leave_soon()
        if self.task is not None and not self.task.done():
            self.task.cancel("its host ends")

    async def stopped(self) -> None:
        """Return when the attempt, which was cancelled, is over; or is not, within ``STOPPED_WITHIN``."""
        if self.task is None or self.task is asyncio.current_task():
            return
        await asyncio.wait([self.task], timeout=settings.STOPPED_WITHIN.total_seconds())
        why = await why_lost(self.host.ledger, self.id) if self.is_lost and not self.task.done() else ""
        if not self.task.done() and not self.forsaken:
            log.error(FORSAKEN, self.name, self.id, why)
            self.host.forsake(self)

    def _refuse(self, error: BaseException) -> None:
        """Its parameters are not those that this code takes; anything else is as if a process had died at its start."""
        unfit = UsageError(self.host.placing.unfit(self.name, self.flow.name, self._deployment_id, error))
        log.error("%s", unfit)
        if self.claimed is None:  # else it is given back, and refused when Prefect gives it
            self._show_unbegun(unfit, refused=True)

    def _show_unbegun(self, error: BaseException, *, refused: bool) -> None:
        show = partial(show_unbegun, self.host.ledger, self.host.plain, self.id, error, refused=refused)
        self.host.following.later(self.id, show)

    async def call_hooks_of(self, state: State[Any]) -> None:
        """Call the flow's own hooks for this state."""
        if self._engine is not None and self._engine.flow_run is not None:
            try:
                await self._engine.call_hooks(state)
            except BaseException as error:
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise  # the host ends
                log.error("A hook of run %s raised what no hook should: %r", self.name, error)

    def _begun(self, attempt: int, shown: State[Any] | None) -> None:
        """A run whose host was killed is still shown as Running, and was after the claim: nothing is to be told."""
        if shown is None or not shown.is_running():
            self._running(attempt)

    def _running(self, attempt: int) -> None:
        """Prefect is to follow: the run is Running. Whoever has cancelled it there meanwhile is not overruled."""
        self.host.ends.show_running(self.id, attempt)
