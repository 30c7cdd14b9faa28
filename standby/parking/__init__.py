"""Parking and waking. The only module that changes Prefect states; the ledger is the truth, Prefect its projection.

Order, so that no wake-up is lost: the waiter opens its waits in the ledger, saves the form, suspends, and then looks
at the ledger again. Who answers writes the ledger, then wakes. A wake that finds nothing to wake is fine.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any, NoReturn
from uuid import UUID

import httpx
import psutil
from prefect import get_client, get_run_logger, pause_flow_run
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas import OrchestrationResult
from prefect.client.schemas.objects import FlowRun, FlowRunInput, State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import Abort, ObjectNotFound, Pause, PrefectHTTPStatusError
from prefect.input.run_input import Keyset, RunInput, keyset_from_base_key
from prefect.states import Cancelled, Cancelling, Running, Scheduled, Suspended
from prefect.utilities.engine import propose_state

from standby import clock
from standby.children import start_children
from standby.errors import LedgerUnavailable, UsageError
from standby.faults import reach
from standby.ledger.waits import Group
from standby.policy import Policy
from standby.polling import poll
from standby.runs import AgentRun
from standby.states import BY_SIGNAL, Door, Hold, Outcome, RunState, WaitKind, WaitState
from standby.values import summary
from standby.waits import Wait, as_text, command_for
from standby.wakeups import Listener, call

log = logging.getLogger("standby.parking")

FOREVER_SECONDS = 20 * 365 * 24 * 3600
"""Prefect's pause fails the run at its timeout. Deadlines are the ledger's, so this one must never come."""

PAUSE_POLL_SECONDS = 1
"""How often Prefect's own pause asks the server whether a paused run was resumed, in seconds."""

RECHECK_SECONDS = 2.0
"""How often a run that pauses in its process looks at the ledger, should a notification be lost."""


@asynccontextmanager
async def prefect_for(run_id: str) -> AsyncIterator[PrefectClient]:
    """Prefect, on behalf of a run that is about to wait.

    The client has tried for about a minute when it gives up. That must not fail the run: the attempt ends (``Abort``)
    with its waits open in the ledger, and the keeper has the run taken up again when Prefect is back.
    """
    try:
        async with get_client() as client:
            yield client
    except (httpx.TransportError, PrefectHTTPStatusError) as error:
        if isinstance(error, PrefectHTTPStatusError) and error.response.status_code < 500:
            raise
        log.warning("Prefect cannot be reached, so run %s stops here until it can: %s", run_id, error)
        raise Abort(f"Prefect cannot be reached: {error}") from error


async def start_awaited(run: AgentRun, group: Group) -> None:
    """Start the agents that the group waits for. Raises ``UsageError`` when there is no such deployment."""
    async with prefect_for(run.id) as client:
        reach("child.starting")
        await start_children(run.ledger, group.waits, client)
        reach("child.started")


async def scheduled_after(run_id: UUID, when: datetime) -> bool:
    """Whether the run has been scheduled since then, as Retry does."""
    async with prefect_for(str(run_id)) as client:
        states = await client.read_flow_run_states(run_id)
    return any(state.type is StateType.SCHEDULED and state.timestamp > when for state in states)


async def wake_parents(run: AgentRun) -> None:
    """Wake the runs that waited for this one, which has ended; what fails here the keeper does."""
    try:
        parents = await run.ledger.children.parents_to_wake(run.id)
        if not parents:
            return
        async with get_client() as client:
            for parent in parents:
                if parent.wake_address is None or not call(parent.wake_address):
                    await wake(client, parent.id)
    except (LedgerUnavailable, httpx.HTTPError, PrefectHTTPStatusError) as error:
        log.warning("The runs that waited for run %s could not be woken now, the keeper will: %s", run.id, error)


def form_wait(group: Group) -> Any | None:
    """The wait of the group that Prefect's Resume form answers: the first approval, else the first signal."""
    for kind in (WaitKind.APPROVAL, *BY_SIGNAL):
        for wait in group.waits:
            if wait.kind == kind and wait.state == WaitState.OPEN:
                return wait
    return None


async def suspend(run: AgentRun, key: str, group: Group) -> NoReturn:
    """Park with nothing left in memory: the state on the server is Suspended, and this attempt ends (``Pause``)."""
    async with prefect_for(run.id) as client:
        tell_log(group)
        state = await show_suspended(client, run, group, run.attempt)
        address = run.hosting.address if run.hosting is not None else None
        parked = await run.ledger.runs.park(run.id, run.attempt, key, Hold.SUSPEND, address)
        if parked is None:
            run.stop()
        reach("wait.parked")
        if parked is RunState.READY and not (address is not None and call(address)):
            await wake(client, run.id)
    raise Pause(state=state)


async def show_suspended(client: PrefectClient, run: AgentRun, group: Group, attempt: int) -> State[Any]:
    """Have Prefect show the run as Suspended, with the form of what it waits for. Raises ``Abort`` if it was cancelled
    there, and ``UsageError`` if it cannot be suspended."""
    wait = form_wait(group)
    pause_key = f"{_opening(wait or group.waits[0])}-{attempt}"
    keyset = keyset_from_base_key(f"suspended-{pause_key}")
    if wait is not None:
        await _save_form(client, run.id, keyset, wait)
    state: State[Any] = Suspended(pause_key=pause_key)
    if wait is not None:
        state.state_details.run_input_keyset = {str(name): key for name, key in keyset.items()}
    reach("wait.suspending")
    try:
        state = await propose_state(client, state, flow_run_id=UUID(run.id))
    except Pause as already:
        state = already.state or state
    except Abort as refused:
        raise UsageError(
            f"Run {run.id} cannot be suspended: {refused} Deploy the agent, or mark it @agent(hold='pause')."
        ) from refused
    if state.type in (StateType.CANCELLED, StateType.CANCELLING):
        raise Abort("The run was cancelled while it was about to wait.")
    reach("wait.suspended")
    return state


async def pause(run: AgentRun, key: str, group: Group, count: int) -> None:
    """Park in Prefect's own pause: the process stays, and goes on here when the waits settle or somebody resumes."""
    wait = form_wait(group)
    pause_key = f"{_opening(wait or group.waits[0])}-{run.attempt}-{count}"
    keyset = keyset_from_base_key(f"paused-{pause_key}")
    async with (
        prefect_for(run.id) as client,
        Listener.open() as listener,
        run.ledger.notifications.to(lambda ready: listener.hear() if ready in (run.id, None) else None),
    ):
        if wait is not None:
            await _save_form(client, run.id, keyset, wait)
        if await run.ledger.runs.park(run.id, run.attempt, key, Hold.PAUSE, listener.address) is None:
            run.stop()
        since = clock.utcnow()
        reach("wait.parked")
        tell_log(group)
        paused = asyncio.create_task(_prefect_pause(pause_key, wait is not None))
        settled = asyncio.create_task(_until_settled(client, run, key, listener))
        try:
            await asyncio.wait({paused, settled}, return_when=asyncio.FIRST_COMPLETED)
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


async def _is_cancelled(client: PrefectClient, run: AgentRun) -> bool:
    try:
        state = (await client.read_flow_run(UUID(run.id))).state
    except (httpx.TransportError, PrefectHTTPStatusError) as error:
        log.warning("Whether run %s was cancelled cannot be seen: %s", run.id, error)
        return False
    return state is not None and state.type in (StateType.CANCELLED, StateType.CANCELLING)


async def _pause_is_there(client: PrefectClient, run: AgentRun, paused: asyncio.Task[None]) -> None:
    """Return when Prefect shows the run as paused, or the pause is over.

    An answer can come before ``pause_flow_run`` has told the server. Ended then, it would leave open whether the run
    becomes paused after all.
    """
    while not paused.done():
        state = (await client.read_flow_run(UUID(run.id))).state
        if state is not None and not state.is_running():
            return
        await asyncio.sleep(0.05)


async def _unpause(client: PrefectClient, run: AgentRun) -> None:
    """Show the run as Running again, or end it with what became of it in Prefect."""
    state = (await client.read_flow_run(UUID(run.id))).state
    if state is not None and state.is_paused():
        await client.set_flow_run_state(UUID(run.id), Running())
    elif state is not None and state.type in (StateType.CANCELLED, StateType.CANCELLING):
        if await run.ledger.runs.end(run.id, run.attempt, RunState.CANCELLED, error="It was cancelled in Prefect."):
            # No worker would do it for a run that somebody started by hand.
            await client.set_flow_run_state(UUID(run.id), Cancelled())
        raise Abort("The run was cancelled while it waited.")


async def _prefect_pause(pause_key: str, with_form: bool) -> None:
    options: dict[str, Any] = {"wait_for_input": _SavedForm} if with_form else {}
    # In async code pause_flow_run is a coroutine, which its types do not tell.
    await pause_flow_run(timeout=FOREVER_SECONDS, poll_interval=PAUSE_POLL_SECONDS, key=pause_key, **options)


async def take_response(run: AgentRun, group: Group, waits: list[Wait[Any]]) -> None:
    """Settle the group with what came through Prefect's form or ``/resume``, if anything did.

    Untrusted: it is checked with the wait's type, and what does not fit leaves the wait open and is written down.
    """
    async with prefect_for(run.id) as client:
        for wait in group.waits:
            for response in await _responses(client, wait, Hold(wait.held or run.hold)):
                await _take(run, wait, waits[wait.member], response)
                await client.delete_flow_run_input(UUID(run.id), response.key)


async def answer_in_prefect(client: PrefectClient, wait: Any, hold: Hold = Hold.SUSPEND) -> str | None:
    """The answer (JSON text) that Prefect has taken for a run's wait, and the run has not read yet."""
    for response in await _responses(client, wait, hold):
        with suppress(ValueError, KeyError, TypeError):
            return _answer_of(response, wait)
    return None


def is_paused_by_somebody(state: State[Any]) -> bool:
    """Whether it was not the run that has parked: somebody pressed Pause in Prefect."""
    key = state.state_details.pause_key
    return state.type is StateType.PAUSED and (key is None or _OUR_KEY.fullmatch(key) is None)


def _opening(wait: Any) -> str:
    """Names one opening of a wait: what was submitted for an earlier one is no answer to this."""
    return f"{wait.id}-{wait.opening}"


async def _responses(client: PrefectClient, wait: Any, hold: Hold) -> list[FlowRunInput]:
    """What was submitted for this wait in Prefect. The key names the wait: no other one of its group is reached."""
    verb = "paused" if hold is Hold.PAUSE else "suspended"
    saved = await client.filter_flow_run_input(
        UUID(wait.run_id), key_prefix=f"{verb}-{_opening(wait)}-", limit=200, exclude_keys=set()
    )
    return [item for item in saved if item.key.endswith("-response")]


async def _take(run: AgentRun, wait: Any, declared: Wait[Any], response: FlowRunInput) -> None:
    text = response.value
    try:
        text = _answer_of(response, wait)
        answer, _ = declared.read(text)
        if wait.policy is not None and (policy := Policy.model_validate_json(wait.policy)).names_people:
            raise ValueError(
                f"here nobody knows who decides, and it counts ({policy.said}): answer in the terminal or through the "
                "gateway"
            )
    except (ValueError, TypeError, KeyError) as error:
        if not await run.ledger.waits.note_refusal(run.id, run.attempt, wait.id, text, summary(error)):
            run.stop()
    else:
        await run.ledger.waits.settle(
            wait.id, outcome=Outcome.ANSWERED, answer=answer, door=Door.PREFECT, note=response.sender
        )


async def wake(client: PrefectClient, run_id: str, *, presumed_dead: bool = False) -> State | None:
    """Have a worker take the run up again, if Prefect's state of it allows; the state it was found in, None if gone.

    Paused, suspended or crashed runs are scheduled. Running and pending ones only when ``presumed_dead``: what ran
    them is known to be gone. Ended runs and scheduled ones are left alone (unless they were woken for a time that the
    clock, set back since, has yet to reach).
    """
    try:
        flow_run: FlowRun = await client.read_flow_run(UUID(run_id))
    except ObjectNotFound:
        return None
    state = flow_run.state
    if state is None or flow_run.deployment_id is None:
        return state
    stuck = {StateType.RUNNING, StateType.PENDING} if presumed_dead else set()
    planned = state.state_details.scheduled_time
    # Woken before the clock was set back, it would not be taken up before the clock is there again.
    ahead = state.name == "Resuming" and planned is not None and planned > clock.utcnow() + clock.AHEAD
    if state.type in {StateType.PAUSED, StateType.CRASHED} | stuck or ahead:
        result: OrchestrationResult[Any] = await client.set_flow_run_state(
            UUID(run_id), Scheduled(name="Resuming", scheduled_time=clock.utcnow())
        )
        if result.status is not SetStateStatus.ACCEPT:
            log.info("Run %s was not scheduled: %s", run_id, result.details)
    return state


async def cancel(client: PrefectClient, run_id: str, message: str) -> State | None:
    """Have Prefect cancel the run; its state then, None if it is gone. One that has ended is left alone."""
    try:
        flow_run: FlowRun = await client.read_flow_run(UUID(run_id))
    except ObjectNotFound:
        return None
    state = flow_run.state
    if state is not None and (state.is_final() or state.is_cancelling()):
        return state
    result: OrchestrationResult[Any] = await client.set_flow_run_state(UUID(run_id), Cancelling(message=message))
    if result.status is not SetStateStatus.ACCEPT:
        log.info("Run %s was not cancelled as was asked: %s", run_id, result.details)
    return (await client.read_flow_run(UUID(run_id))).state


def tell_log(group: Group) -> None:
    """One line in the run's log for each thing it waits for."""
    for wait in group.waits:
        if wait.state == WaitState.OPEN:
            how = command_for(wait)
            get_run_logger().info("Waiting for: %s%s", wait.reason, f" To answer: {how}" if how else "")


async def _save_form(client: PrefectClient, run_id: str, keyset: Keyset, wait: Any) -> None:
    """Save the form before the run is paused: Prefect refuses an answer while it finds no schema."""
    for key, value in ((keyset["schema"], form_schema(wait)), (keyset["description"], description_of(wait))):
        try:
            await client.create_flow_run_input(UUID(run_id), key=key, value=json.dumps(value))
        except PrefectHTTPStatusError as error:
            if error.response.status_code != 409:  # saved before this attempt got here
                raise


def form_schema(wait: Any) -> dict[str, Any]:
    """JSON Schema of the form as Prefect's UI and API read it: an object, with its types under ``definitions``."""
    text = (wait.answer_schema or "{}").replace("#/$defs/", "#/definitions/")
    schema: dict[str, Any] = json.loads(text)
    if "$defs" in schema:
        schema["definitions"] = schema.pop("$defs")
    if not _is_object(schema):
        definitions = schema.pop("definitions", {})
        field = {"title": "Answer"} | schema
        schema = {"type": "object", "properties": {"answer": field}, "required": ["answer"], "definitions": definitions}
    if wait.kind == WaitKind.APPROVAL:
        # An untouched switch shows off, and one of Prefect's two UIs would send nothing for it and be refused. It
        # stays required, so that an empty answer through the API is still none.
        for name in schema.get("required", []):
            if schema["properties"][name].get("type") == "boolean":
                schema["properties"][name].setdefault("default", False)
    return schema


def _is_object(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "object" and "properties" in schema


def _answer_of(response: FlowRunInput, wait: Any) -> str:
    """The JSON text of an answer that came through Prefect."""
    if _is_object(json.loads(wait.answer_schema or "{}")):
        return response.value
    return json.dumps(response.decoded_value["answer"])


def description_of(wait: Any) -> str:
    """What the Prefect UI shows above the form, in Markdown. All but the evidence is text, and is shown as it is."""
    parts = [f"### {as_text(wait.reason)}"]
    if wait.refused:
        parts.append(f"**The last answer was not accepted.** {as_text(wait.refused)}")
    if wait.evidence:
        parts.append(wait.evidence)
    if wait.kind in BY_SIGNAL:
        parts.append("This run waits for a message, not for a person. What is submitted here is taken as the message.")
    if wait.policy is not None and (policy := Policy.model_validate_json(wait.policy)).names_people:
        parts.append(
            f"**Not to be answered here**, where nobody knows who answers: {as_text(policy.said)}. "
            "Answer in the terminal or through the gateway."
        )
    if wait.deadline is not None:
        then = f"it counts as “{_default_in_words(wait)}”" if wait.has_default else "the wait times out"
        parts.append(f"Unanswered by {wait.deadline:%Y-%m-%d %H:%M} UTC, {then}.")
    return "\n\n".join(parts)


def _default_in_words(wait: Any) -> str:
    """The default answer for people: the fields that differ from an untouched form, by their titles."""
    answer = json.loads(wait.default_answer)
    fields: dict[str, Any] = json.loads(wait.answer_schema or "{}").get("properties", {})
    if not isinstance(answer, dict) or not fields:
        return as_text(json.dumps(answer, ensure_ascii=False))
    told = []
    for name, value in answer.items():
        field = fields.get(name, {})
        if value is None or value == field.get("default", ""):
            continue
        if isinstance(value, bool):
            value = "yes" if value else "no"
        told.append(f"{field.get('title', name)}: {value if isinstance(value, str) else json.dumps(value)}")
    return as_text("; ".join(told) or "the form as it stands")


_OUR_KEY = re.compile(r"[0-9a-f]{32}(-\d+)+")
"""The pause keys of runs that park: a wait's id, its opening, the attempt, and how often that has paused."""


class _SavedForm(RunInput):
    """Stands in for the form in ``pause_flow_run``: it is saved before, and its answer is read afterwards."""

    @classmethod
    async def asave(cls, keyset: Keyset, flow_run_id: UUID | None = None) -> None:
        return

    @classmethod
    async def aload(cls, keyset: Keyset, flow_run_id: UUID | None = None) -> _SavedForm:
        return cls()


async def _until_settled(client: PrefectClient, run: AgentRun, key: str, listener: Listener) -> None:
    """Return when the group has settled, or the run was cancelled.

    Fires the group's deadlines and polls its conditions, for there may be no keeper beside a lone process.
    """
    while True:
        group = await run.ledger.waits.group(run.id, key)
        if group.ready:
            return
        open_ones = [wait for wait in group.waits if wait.state == WaitState.OPEN]
        now = clock.utcnow()
        expired = False
        for wait in open_ones:
            if wait.deadline is not None and wait.deadline <= now:
                if await _submitted(client, open_ones):
                    return  # Prefect took it in time; the pause ends, and it is read
                await run.ledger.waits.expire(wait)
                expired = True
        polled = [await poll(run.ledger, wait) for wait in await run.ledger.polls.due(run.id)]
        if expired or any(polled):
            continue
        times = [(wait.deadline - now).total_seconds() for wait in open_ones if wait.deadline is not None]
        left = [seconds for seconds in times if seconds > 0]
        await listener.wait(min([RECHECK_SECONDS, *left]))
        if await _is_cancelled(client, run):  # which pause_flow_run does not look for
            return


async def _submitted(client: PrefectClient, waits: list[Any]) -> bool:
    """Whether Prefect has taken an answer for one of these that the run, paused, is yet to read."""
    try:
        return any([await _responses(client, wait, Hold.PAUSE) for wait in waits])
    except (httpx.TransportError, PrefectHTTPStatusError) as error:
        log.warning("Whether an answer was submitted in Prefect cannot be seen: %s", error)
        return False


class _CalmFilter(logging.Filter):
    """The engine logs the end of an attempt that parks at level ERROR; an operator should not see red for a wait."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno == logging.ERROR and str(record.msg).startswith("Finished in state Suspended"):
            record.levelno, record.levelname = logging.INFO, "INFO"
        return True


_calm = _CalmFilter()


def calm_logs() -> None:
    """Show an attempt that parks at level INFO in the run's log. Safe to call again."""
    logging.getLogger("prefect.flow_runs").addFilter(_calm)
