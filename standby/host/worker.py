"""The Prefect worker ``standby``: a host for the agents of a work pool.

``prefect worker start --pool agents --type standby``, or ``standby host``. What is scheduled comes from Prefect, by
events and a slow poll; what is parked and settled comes from the ledger. What cannot share the host's process is run
as a process worker runs it.

Prefect imports this module wherever it lists the types of workers, in its server too: what a host needs is imported
when one starts.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack, suppress
from itertools import count
from typing import TYPE_CHECKING, Any

import httpx
from prefect.client.schemas.objects import FlowRun, State, StateType, WorkPool
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.context import AsyncClientContext, SyncClientContext
from prefect.exceptions import Abort, Pause, PrefectHTTPStatusError
from prefect.states import Pending
from prefect.utilities.engine import propose_state
from prefect.workers.base import BaseWorker
from prefect.workers.process import ProcessJobConfiguration, ProcessVariables, ProcessWorker

from standby import settings
from standby.believing import careful
from standby.errors import CodeNotLoaded, LedgerUnavailable, UsageError
from standby.host.bounds import deployments_of, is_bound
from standby.host.configuration import HostConfiguration, HostVariables
from standby.host.lines import IS_SAID
from standby.projection import UNREAD

if TYPE_CHECKING:
    from standby.host.host import Host

log = logging.getLogger("standby.host")

POLL_SECONDS = 30.0
"""How often the host asks Prefect for scheduled runs that it has not heard of."""

AGAIN_SECONDS = (0.0, 0.05, 0.15, 0.4, 1.0)
"""When a host asks for a run that it was told of: Prefect tells of it before it can be asked for."""

CONNECTIONS = httpx.Limits(max_connections=16, max_keepalive_connections=16, keepalive_expiry=25)
"""Prefect's clients close half of these when they are not used: a host of many runs opened two anew for each."""


class HostWorker(ProcessWorker):
    type = "standby"
    job_configuration: builtins.type[ProcessJobConfiguration] = HostConfiguration
    job_configuration_variables: builtins.type[ProcessVariables] | None = HostVariables  # type: ignore[assignment]
    _description = "Run agents beside each other in one process, and keep those that wait warm in it."
    _display_name = "Standby"

    def __init__(self, *args: Any, limit: int | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.agents_at_once = limit
        self.host: Host | None = None
        self._sought: set[str] = set()  # runs that Prefect has told of, and that were not seen scheduled yet
        self._seek = asyncio.Event()
        self._turns: set[str] = set()  # names under which new runs wait for a slot, or have one kept for them
        self._processes = count(1)  # of runs that have one of their own
        self._later: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()  # the pool has, it is said
        self._stop = asyncio.Event()
        self._hearing: asyncio.Task[None] | None = None

    # The runner of a process worker is for what is submitted to it from Python.

    async def __aenter__(self) -> HostWorker:
        await BaseWorker.__aenter__(self)
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await BaseWorker.__aexit__(self, *exc_info)

    async def _setup_cancellation_observer(self) -> None:
        """The host's own websocket tells of cancellations, too."""

    def _record_work_pool_snapshot(self, work_pool: WorkPool) -> None:
        # A pool for process workers will do: the same agents may run under either.
        kind, work_pool.type = work_pool.type, self.type if work_pool.type == "process" else work_pool.type
        super()._record_work_pool_snapshot(work_pool)
        assert self._work_pool is not None
        self._work_pool.type = kind

    async def start(
        self, run_once: bool = False, with_healthcheck: bool = False, printer: Callable[..., None] = print
    ) -> None:
        """Host until the process is told to stop, then drain. ``run_once``: what is scheduled now, to its rest.

        Raises ``UsageError`` for a setting that is none."""
        from standby.host.checks import check_settings
        from standby.host.health import Health
        from standby.host.lines import name_runs
        from standby.host.stopping import StopSignals, grace

        check_settings()
        name_runs()
        with StopSignals(self._stop):
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self)
                self.host = host = await stack.enter_async_context(await self._opened(stack))
                if (health := Health.wanted(host, with_healthcheck)) is not None:
                    await stack.enter_async_context(health)
                self._started_event = await self._emit_worker_started_event()
                printer(f"Worker {self.name!r} started!")
                loops = [asyncio.create_task(loop) for loop in self._loops(host, run_once)]
                stop = asyncio.create_task(self._stop.wait())
                try:
                    await asyncio.wait([stop, *loops], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in (stop, *loops):
                        task.cancel()
                    failed = await asyncio.gather(*loops, return_exceptions=True)
                    self._give_up_turns()
                    await host.leave(grace())
                for error in failed:
                    if isinstance(error, Exception):
                        raise error
        printer(f"Worker {self.name!r} stopped!")

    def stop(self) -> None:
        """Drain and end."""
        self._stop.set()

    async def _opened(self, stack: AsyncExitStack) -> Host:
        """The host, with the shared clients in the context of all its attempts.

        Prefect's engine takes a synchronous one for each attempt, if only to throw it away: without a shared one that
        is a TLS context, 40 ms in the event loop.
        """
        from standby.checkpoints import load_store, shared_ledger
        from standby.connect import open_prefect
        from standby.host.host import Host
        from standby.host.placing import Placing

        api_url = str(self.client.api_url)
        stack.enter_context(SyncClientContext())
        context = await stack.enter_async_context(AsyncClientContext(httpx_settings={"limits": CONNECTIONS}))
        client = context.client
        url = (await load_store(api_url)).resolved_url()
        ledger = await stack.enter_async_context(shared_ledger(url))
        host = Host(
            ledger,
            url,
            client,
            Placing(client, lambda: self.work_pool),
            deployments=lambda: deployments_of(self.client, self._work_pool_name),
            open_client=lambda: open_prefect(api_url),
            limit=self.agents_at_once,
        )
        host.intake.seek = self._seek_run
        host.bound = await is_bound(self.client, self.work_pool)
        return host

    def _loops(self, host: Host, run_once: bool) -> list[Any]:
        from standby.host.watch import Watch

        if run_once:
            return [self._once(host)]
        watch = Watch(host)
        return [self._hear(), self._poll(), self._sync(host), watch.run()]

    async def _once(self, host: Host) -> None:
        await self.get_and_submit_flow_runs()

        def at_work() -> bool:  # who stands in Prefect's queue is at its rest there
            return any(guest.busy and not guest.queued for guest in host.guests.values())

        while self._turns or self._submitting_flow_run_ids or at_work():
            if self._turns and self._seek.is_set():
                self._seek.clear()
                await self.get_and_submit_flow_runs()
            await asyncio.sleep(0.05)

    async def _hear(self) -> None:
        """Hear of the pool's runs; of the new one's, when the pool was deleted and made anew under its name."""
        from standby.host.hearing import hear

        while True:
            self._hearing = asyncio.create_task(
                hear(str(self.client.api_url), self.work_pool.id, self._heard, self._changed.set, self._connected)
            )
            try:
                await asyncio.wait([self._hearing])
            finally:
                self._hearing.cancel()
            if not self._hearing.cancelled():
                self._hearing.result()

    async def _sync(self, host: Host) -> None:
        while True:
            pauses: tuple[float, ...] = ()
            with suppress(TimeoutError):
                async with asyncio.timeout(self.heartbeat_interval_seconds):
                    await self._changed.wait()
                    pauses = AGAIN_SECONDS
            self._changed.clear()
            for pause in pauses or (0.0,):
                await asyncio.sleep(pause)
                try:
                    if await self._see_pool(host) or not pauses:
                        await host.refresh()
                except (*UNREAD, OSError) as error:
                    log.warning("The work pool cannot be seen for now: %s", error)

    async def _see_pool(self, host: Host) -> bool:
        """Whether Prefect's queue says from now on who goes on, or does not any more."""
        before = self.work_pool
        await self._sync_and_initialize()
        if self.work_pool.id != before.id and self._hearing is not None:
            self._hearing.cancel()
        bound = await is_bound(self.client, self.work_pool)
        if changed := bound is not host.bound:
            how = (
                "as Prefect's queue says: the pool, or a queue of it, is paused or has a limit" if bound else "at once"
            )
            log.info("Woken runs of %s go on %s.", self._work_pool_name, how)
        if bound or host.bound:
            self._look_soon()  # it may have become wider
        host.bound = bound
        return changed

    # What is scheduled.

    def _heard(self, run_id: str, state: State[Any]) -> None:
        assert self.host is not None
        done = self.host.hear_of_state(run_id, state)
        # Whoever does not run any more has left a slot of the pool to the next in its queue.
        if self.host.bound or (not done and state.type is StateType.SCHEDULED):
            self._seek_run(run_id)

    def _seek_run(self, run_id: str) -> None:
        self._sought.add(run_id)
        self._seek.set()

    def _connected(self) -> None:
        assert self.host is not None
        self._look_soon()
        self.host.compare_with_prefect_soon()

    def _look_soon(self) -> None:
        self._seek.set()

    def _look_later(self) -> None:
        """Look at what another has once more, when it may be dead: sooner than the poll, which may just have been."""
        if self._later is not None:
            self._later.cancel()
        self._later = asyncio.get_running_loop().call_later(settings.RENEW_EVERY.total_seconds(), self._look_soon)

    async def _poll(self) -> None:
        while True:
            sought = frozenset(self._sought)
            for pause in AGAIN_SECONDS:
                await asyncio.sleep(pause)
                try:
                    await self.get_and_submit_flow_runs()
                except (*UNREAD, OSError) as error:
                    log.warning("Scheduled runs cannot be seen for now: %s", error)
                if not self._sought:
                    break
            self._sought -= sought
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._seek.wait()
            self._seek.clear()

    async def _submit_scheduled_flow_runs(self, flow_run_response: list[WorkerFlowRunResponse]) -> list[FlowRun]:
        host = self.host
        assert host is not None
        begun, turns = [], set()
        for entry in flow_run_response:
            flow_run, run_id = entry.flow_run, str(entry.flow_run.id)
            self._sought.discard(run_id)
            if run_id in host.guests:
                host.guests[run_id].given()
                continue
            if flow_run.id in self._submitting_flow_run_ids:
                continue
            # Until its turn it stays in Prefect's queue: who is next, and whether anybody may begin, is asked there.
            turn = f"new run {run_id}"
            if not host.slots.ask(turn, self._look_soon):
                turns.add(turn)
                continue
            if not host.intake.enters(run_id):
                host.slots.leave(turn)
                continue
            host.slots.hand_over(turn, run_id)
            self._submitting_flow_run_ids.add(flow_run.id)
            assert self._runs_task_group is not None
            self._runs_task_group.start_soon(self._submit_run, flow_run)
            begun.append(flow_run)
        self._give_up_turns(turns)
        return begun

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        try:
            return await super().get_and_submit_flow_runs()
        except BaseException:
            self._give_up_turns()  # whose turn it is cannot begin: the slot is for who can
            raise

    def _give_up_turns(self, but: Iterable[str] = ()) -> None:
        """Let the slots and turns go of new runs that are not in Prefect's queue any more."""
        assert self.host is not None
        gone, self._turns = self._turns.difference(but), set(but)
        for turn in gone:
            self.host.slots.leave(turn)

    async def _submit_run(self, flow_run: FlowRun) -> None:
        """Begin an attempt here, or in a process of its own."""
        host = self.host
        assert host is not None
        begun = False
        try:
            if await host.intake.is_anothers(flow_run):
                self._look_later()
                return
            placement = await host.placing.of(flow_run)
            if placement.flow is None:
                log.info("Run %s has a process of its own: %s.", flow_run.name, placement.why)
                await self._begin_process(flow_run)
                return
            if await self._propose_pending_state(flow_run):
                if host.open:
                    host.begin(flow_run, placement.flow)
                    begun = True
                    if flow_run.state_name in ("Resuming", "Late"):  # which it becomes in a queue that gives nothing
                        host.ends.heed_cancel(str(flow_run.id))
                else:
                    await host.returns.give_up(str(flow_run.id))
        except (httpx.HTTPError, PrefectHTTPStatusError, LedgerUnavailable, Pause) as error:
            log.warning("Run %s could not be begun and is later: %s", flow_run.name, error)
            self._look_later()
        except CodeNotLoaded as error:  # which is said once for all runs of the deployment
            await self._not_begun(flow_run, error)
        except UsageError as error:
            log.error("Run %s (%s) cannot be begun: %s", flow_run.name, flow_run.id, error)
            await self._not_begun(flow_run, error)
        except Exception as error:
            log.exception("Run %s cannot be begun.", flow_run.name)
            await self._not_begun(flow_run, error)
        finally:
            self._submitting_flow_run_ids.discard(flow_run.id)
            if not begun:
                host.slots.leave(str(flow_run.id))
            host.intake.entered(str(flow_run.id), begun=begun)

    async def _begin_process(self, flow_run: FlowRun) -> None:
        """As Prefect's own worker does, which would cancel the run for one 404 on the deployment that was just read."""
        if await self._propose_pending_state(flow_run):
            assert self._runs_task_group is not None
            pid = await self._runs_task_group.start(self._submit_run_and_capture_errors, flow_run)
            if pid and not isinstance(pid, Exception):
                with suppress(*UNREAD):
                    await self.client.update_flow_run(flow_run.id, infrastructure_pid=str(pid))

    async def _submit_run_and_capture_errors(self, flow_run: FlowRun, task_status: Any = None) -> Any:
        """The process of a run that has one of its own, from its start to its end: so long it has its slot, also where
        the run is begun again meanwhile."""
        assert self.host is not None
        place = f"process {next(self._processes)}"
        self.host.slots.hand_over(str(flow_run.id), place)
        try:
            return await super()._submit_run_and_capture_errors(flow_run, task_status)
        finally:
            self.host.slots.leave(place)

    async def _propose_pending_state(self, flow_run: FlowRun) -> bool:
        """Whether Prefect gives the run to this host; asked as often as a busy server takes."""
        assert self.host is not None

        async def propose() -> State[Any]:
            return await propose_state(careful(self.client), Pending(), flow_run_id=flow_run.id)

        proposed: asyncio.Future[State[Any]] = self.host.following.later(str(flow_run.id), propose)
        await asyncio.wait([proposed])
        if proposed.cancelled():
            return False  # the host ends
        if isinstance(error := proposed.exception(), Abort | Pause):
            log.info("Run %s is not begun here, another has it or it is over: %s", flow_run.name, error)
            return False
        return proposed.result().is_pending()

    async def _not_begun(self, flow_run: FlowRun, error: Exception) -> None:
        """What cannot be is refused; anything else is as if a process had died at its start, and is tried again."""
        from standby.host.unbegun import show_unbegun

        self.get_flow_run_logger(flow_run).error("The run could not be begun: %s", error, extra=IS_SAID)
        assert self.host is not None
        with suppress(Abort, Pause, LedgerUnavailable, *UNREAD):
            refused = isinstance(error, UsageError)
            await show_unbegun(self.host.ledger, self.client, str(flow_run.id), error, refused=refused)
