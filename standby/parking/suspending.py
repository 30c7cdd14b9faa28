"""Parking with the state Suspended on the server, which is what lets the attempt end."""

from __future__ import annotations

import re
from typing import Any, NoReturn
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import Abort, Pause
from prefect.input.run_input import keyset_from_base_key
from prefect.states import Running, Suspended
from prefect.utilities.engine import propose_state

from standby.believing import Careful, careful
from standby.errors import UsageError
from standby.faults import reach
from standby.ledger.opening import Group
from standby.parking.client import prefect_for
from standby.parking.forms import form_wait, opening, save_form
from standby.parking.waking import wake
from standby.runs import AgentRun
from standby.states import Hold, RunState, WaitKind, WaitState
from standby.waits import command_for
from standby.wakeups import call

_OUR_KEY = re.compile(r"[0-9a-f]{32}-\d+(-(?P<attempt>\d+))?(-\d+)*")
"""The pause keys of runs that park: a wait's id, its opening, the attempt, and how often that has paused."""


_CANCELLED = (StateType.CANCELLED, StateType.CANCELLING)


async def suspend(run: AgentRun, key: str, group: Group) -> NoReturn:
    """Park with nothing left in memory: the state on the server is Suspended, and this attempt ends (``Pause``).

    What the agent has in its ``finally`` does no new work then: the run is parked, and may be another attempt's.
    """
    async with prefect_for(run.id) as client:
        tell_log(group)
        state = await show_suspended(client, run, group, run.attempt)
        address = run.hosting.cold_address if run.hosting is not None else None
        parked = await run.ledger.runs.park(run.id, run.attempt, key, Hold.SUSPEND, address)
        if parked is None:
            run.stop()
        reach("wait.parked")
        if parked is RunState.READY and not (address is not None and call(address)):
            await wake(client, run.id)
    raise run.must_stop(Pause(state=state))


async def show_suspended(client: PrefectClient, run: AgentRun, group: Group, attempt: int) -> State[Any]:
    """Have Prefect show the run as Suspended, with the form of what it waits for. Raises ``Abort`` if it was cancelled
    there, and ``UsageError`` if it cannot be suspended."""
    client = careful(client)
    wait = form_wait(group)
    pause_key = f"{opening(wait or group.waits[0])}-{attempt}"
    keyset = keyset_from_base_key(f"suspended-{pause_key}")
    if wait is not None:
        await save_form(client, run.id, keyset, wait)
    state: State[Any] = Suspended(pause_key=pause_key)
    if wait is not None:
        state.state_details.run_input_keyset = {str(name): key for name, key in keyset.items()}
    reach("wait.suspending")
    try:
        state = await propose_state(client, state, flow_run_id=UUID(run.id))
    except Pause as already:
        shown = already.state
        if shown is not None and shown.state_details.pause_key != pause_key and not is_paused_by_somebody(shown):
            # With the form of an earlier question, by an attempt that was late.
            await client.set_flow_run_state(UUID(run.id), Running(), force=True)
            state = await propose_state(client, state, flow_run_id=UUID(run.id))
        else:
            state = shown or state
    except Abort as refused:
        if not await is_revived(client, run, attempt):
            raise run.must_stop(
                UsageError(
                    f"Run {run.id} cannot be suspended: {refused} Deploy the agent, or mark it @agent(hold='pause')."
                )
            ) from refused
        state = await propose_state(client, state, flow_run_id=UUID(run.id))
    if state.type in _CANCELLED:
        raise Abort("The run was cancelled while it was about to wait.")
    reach("wait.suspended")
    return state


async def is_revived(client: Careful, run: AgentRun, attempt: int) -> bool:
    """Whether Prefect, which lets the run not wait, had it as crashed, as the worker of an attempt before this one told
    it late, and has it running again. Raises ``Abort`` if the run was cancelled."""
    state, row = (await client.read_flow_run(UUID(run.id))).state, await run.ledger.runs.get(run.id)
    if state is not None and state.type in _CANCELLED:
        raise Abort("The run was cancelled while it was about to wait.")
    if state is not None and state.type in (StateType.COMPLETED, StateType.FAILED):
        # By a person; the ledger is told by who follows Prefect.
        raise Abort(f"The run was set to {state.name} while it was about to wait.")
    if state is None or state.type is not StateType.CRASHED or row is None:
        return False
    if row.attempt not in (attempt, run.attempt):  # in a host it may have gone on meanwhile, and is told of then
        return False
    await client.set_flow_run_state(UUID(run.id), Running(), force=True)
    return True


def is_paused_by_somebody(state: State[Any]) -> bool:
    """Whether it was not the run that has parked: somebody pressed Pause in Prefect."""
    key = state.state_details.pause_key
    return state.type is StateType.PAUSED and (key is None or _OUR_KEY.fullmatch(key) is None)


async def is_resumed_from(client: PrefectClient, run_id: UUID, attempt: int) -> bool:
    """Whether it was this attempt that Prefect has last shown as parked: then a run that is scheduled was so since. The
    times of the two do not say it, which are of different clocks."""
    paused = [s for s in await careful(client).read_flow_run_states(run_id) if s.type is StateType.PAUSED]
    ours = _OUR_KEY.fullmatch(paused[-1].state_details.pause_key or "") if paused else None
    return ours is not None and ours["attempt"] == str(attempt)


def tell_log(group: Group) -> None:
    """One line in the run's log for each thing it waits for."""
    for wait in group.waits:
        if wait.state == WaitState.OPEN:
            to = "To answer" if wait.kind == WaitKind.APPROVAL else "To send it by hand"
            how = command_for(wait)
            get_run_logger().info("Waiting for: %s%s", wait.reason, f" {to}: {how}" if how else "")
