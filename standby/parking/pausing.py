"""Parking in Prefect's own pause: the process stays, for runs that nobody deployed, or by choice."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

import httpx
import psutil
from prefect import pause_flow_run
from prefect.client.schemas.objects import StateType
from prefect.context import FlowRunContext
from prefect.exceptions import Abort, Pause, PrefectHTTPStatusError
from prefect.input.run_input import Keyset, RunInput, keyset_from_base_key
from prefect.states import Cancelled, Running

from standby import clock
from standby.believing import Careful, CarefulContext
from standby.errors import LedgerUnavailable
from standby.faults import reach
from standby.ledger.opening import Group
from standby.ledger.settling import Settled
from standby.parking.answers import responses
from standby.parking.client import prefect_for
from standby.parking.forms import form_wait, opening, save_form
from standby.parking.suspending import is_revived, tell_log
from standby.polling import Poller
from standby.runs import AgentRun
from standby.states import Hold, RunState, WaitState
from standby.wakeups import Listener

log = logging.getLogger("standby.parking")

FOREVER_SECONDS = 20 * 365 * 24 * 3600
"""Prefect's pause fails the run at its timeout. Deadlines are the ledger's, so this one must never come."""

PAUSE_POLL_SECONDS = 1
"""How often Prefect's own pause asks the server whether a paused run was resumed, in seconds."""

RECHECK_SECONDS = 2.0
"""How often a run that pauses in its process looks at the ledger, should a notification be lost."""


async def pause(run: AgentRun, key: str, group: Group, count: int) -> None:
    """Park in Prefect's own pause: the process stays, and goes on here when the waits settle or somebody resumes, and
    when what they were opened for has ended meanwhile."""
    wait = form_wait(group)
    pause_key = f"{opening(wait or group.waits[0])}-{run.attempt}-{count}"
    keyset = keyset_from_base_key(f"paused-{pause_key}")
    async with (
        prefect_for(run.id) as client,
        Listener.open() as listener,
        run.ledger.notifications.to(lambda ready: listener.hear() if ready in (run.id, None) else None),
    ):
        if wait is not None:
            await save_form(client, run.id, keyset, wait)
        if await run.ledger.runs.park(run.id, run.attempt, key, Hold.PAUSE, listener.address) is None:
            run.stop()
        since = clock.utcnow()
        reach("wait.parked")
        tell_log(group)
        paused = asyncio.create_task(_prefect_pause(client, run, pause_key, wait is not None))
        settled = asyncio.create_task(_until_settled(client, run, key, listener))
        try:
            await asyncio.wait({paused, settled, *run.acting.asking}, return_when=asyncio.FIRST_COMPLETED)
            if settled.done():
                settled.result()
            await _pause_is_there(client, run, paused)
            if paused.done():
                paused.result()
        finally:
            for task in (paused, settled):
                task.cancel()
            await asyncio.gather(paused, settled, return_exceptions=True)
        await _unpause(client, run)
        if not await run.ledger.runs.unpark(run.id, run.attempt):
            run.stop()
    with suppress(LedgerUnavailable):  # a bill that is not written fails no run
        await run.ledger.holds.bill(run.id, key, _process_gib() * (clock.utcnow() - since).total_seconds())


def _process_gib() -> float:
    """What this process holds of memory that it shares with no other."""
    return float(psutil.Process().memory_full_info().uss) / 2**30


async def _is_cancelled(client: Careful, run: AgentRun) -> bool:
    try:
        state = (await client.read_flow_run(UUID(run.id))).state
    except (httpx.TransportError, PrefectHTTPStatusError) as error:
        log.warning("Whether run %s was cancelled cannot be seen: %s", run.id, error)
        return False
    return state is not None and state.type in (StateType.CANCELLED, StateType.CANCELLING)


async def _pause_is_there(client: Careful, run: AgentRun, paused: asyncio.Task[None]) -> None:
    """Return when Prefect shows the run as paused, or the pause is over.

    An answer can come before ``pause_flow_run`` has told the server. Ended then, it would leave open whether the run
    becomes paused after all.
    """
    while not paused.done():
        state = (await client.read_flow_run(UUID(run.id))).state
        if state is not None and not state.is_running():
            return
        await asyncio.sleep(0.05)


async def _unpause(client: Careful, run: AgentRun) -> None:
    """Show the run as Running again, or end it with what became of it in Prefect."""
    state = (await client.read_flow_run(UUID(run.id))).state
    if state is not None and state.is_paused():
        await client.set_flow_run_state(UUID(run.id), Running())
    elif state is not None and state.type in (StateType.CANCELLED, StateType.CANCELLING):
        why = "It was cancelled in Prefect."
        if await run.ledger.runs.end(run.id, run.attempt, RunState.CANCELLED, error=why, after=str(state.id)):
            # No worker would do it for a run that somebody started by hand.
            await client.set_flow_run_state(UUID(run.id), Cancelled())
        raise Abort("The run was cancelled while it waited.")


async def _prefect_pause(client: Careful, run: AgentRun, pause_key: str, with_form: bool) -> None:
    options: dict[str, Any] = {"wait_for_input": _SavedForm} if with_form else {}
    options |= {"timeout": FOREVER_SECONDS, "poll_interval": PAUSE_POLL_SECONDS, "key": pause_key}
    with CarefulContext(client):
        async with _in_its_own_flow(client, run):
            try:
                # In async code pause_flow_run is a coroutine, which its types do not tell.
                await pause_flow_run(**options)
            except RuntimeError as refused:
                if not await is_revived(client, run, run.attempt):
                    raise run.must_stop(refused) from None
                await pause_flow_run(**options)
            except Pause as already:
                if already.state is None or already.state.state_details.pause_key != pause_key:
                    raise  # somebody pressed Pause
                await _until_resumed(client, run)


async def _until_resumed(client: Careful, run: AgentRun) -> None:
    """Prefect's own pause, where the answer to the call that has begun it was lost."""
    while (state := (await client.read_flow_run(UUID(run.id))).state) is None or not state.is_running():  # noqa: ASYNC110
        await asyncio.sleep(PAUSE_POLL_SECONDS)


@asynccontextmanager
async def _in_its_own_flow(client: Careful, run: AgentRun) -> AsyncIterator[None]:
    """Prefect pauses the run of the innermost flow, which is another where the agent has called one that waits."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or str(context.flow_run.id) == run.id:
        yield
        return
    with context.model_copy(update={"flow_run": await client.read_flow_run(UUID(run.id))}):
        yield


class _SavedForm(RunInput):
    """Stands in for the form in ``pause_flow_run``: it is saved before, and its answer is read afterwards."""

    @classmethod
    async def asave(cls, keyset: Keyset, flow_run_id: UUID | None = None) -> None:
        return

    @classmethod
    async def aload(cls, keyset: Keyset, flow_run_id: UUID | None = None) -> _SavedForm:
        return cls()


async def _until_settled(client: Careful, run: AgentRun, key: str, listener: Listener) -> None:
    """Return when the group has settled, or the run was cancelled.

    Fires the group's deadlines and polls its conditions, for there may be no keeper beside a lone process.
    """

    async def hear(_: Settled) -> None:
        listener.hear()

    poller = Poller(run.ledger, hear, run_id=run.id)
    try:
        await _look_until_settled(client, run, key, listener, poller)
    finally:
        await poller.close()


async def _look_until_settled(client: Careful, run: AgentRun, key: str, listener: Listener, poller: Poller) -> None:
    while True:
        group = await run.ledger.waits.group(run.id, key)
        if group.ready:
            return
        open_ones = [wait for wait in group.waits if wait.state == WaitState.OPEN]
        now = clock.utcnow()
        due = [wait for wait in open_ones if wait.deadline is not None and wait.deadline <= now]
        if due and await _submitted(client, open_ones):
            return  # Prefect took it in time; the pause ends, and it is read
        for wait in due:
            await run.ledger.waits.expire(wait)
        await poller.tick()
        if due:
            continue
        times = [(wait.deadline - now).total_seconds() for wait in open_ones if wait.deadline is not None]
        left = [seconds for seconds in times if seconds > 0]
        await listener.wait(min([RECHECK_SECONDS, *left]))
        if await _is_cancelled(client, run):  # which pause_flow_run does not look for
            return


async def _submitted(client: Careful, waits: list[Any]) -> bool:
    """Whether Prefect has taken an answer for one of these that the run, paused, is yet to read."""
    try:
        for wait in waits:
            async for _ in responses(client, wait):
                return True
    except (httpx.TransportError, PrefectHTTPStatusError) as error:
        log.warning("Whether an answer was submitted in Prefect cannot be seen: %s", error)
    return False
