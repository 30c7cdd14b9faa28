"""The verbs: ``wait_for``, ``wait_any``, ``wait_all``.

A wait is opened in the ledger, the run parks, and the typed answer is stored as a checkpoint when the run takes it in.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack, nullcontext
from datetime import timedelta
from time import monotonic
from typing import Any, NamedTuple, TypeVar

from prefect.context import FlowRunContext
from pydantic import BaseModel, Field, ValidationError, field_validator

from standby.caught import Failure
from standby.errors import CheckpointUnreadable, UsageError, WaitTimedOut
from standby.faults import reach
from standby.hold import Asked
from standby.ledger.opening import Group
from standby.ledger.text import digest_of
from standby.parking import pause, start_awaited, suspend, take_response
from standby.parking.lingering import linger
from standby.parts import current_part
from standby.places import LONGEST_KEY, Place, check_key, is_question, question_on
from standby.runs import AgentRun, current_run
from standby.states import CheckpointKind, CheckpointState, Hold, Need, Outcome, WaitState
from standby.steps import in_step, unmarked
from standby.stops import Away, stopped_without_ledger
from standby.values import Codec, summary
from standby.waits import AgentFinished, Approval, Wait

A = TypeVar("A")

LOOK_SECONDS = 1.0
"""How often a run that is about to park, and has steps under way beside that, looks whether it is answered by now."""


def resume_url() -> str:
    """Where an outside system can POST ``{"run_input": {...}}`` to answer what this run waits for, through Prefect.

    Prefect answers 2xx also when it does not take the answer: the field ``status`` is ``ACCEPT`` when it did.
    """
    run = _run_here()
    context = FlowRunContext.get()
    assert context is not None
    return f"{str(context.client.api_url).rstrip('/')}/flow_runs/{run.id}/resume"


class First(NamedTuple):
    """Which wait of ``wait_any`` was first, by its name there, and its answer."""

    name: str
    answer: Any


async def wait_for(wait: Wait[A], *, name: str | None = None, hold: str | timedelta | None = None) -> A:
    """Park until the wait is settled, and return its answer.

    ``name`` is the wait's name in its key, by default its kind (an approval), topic (a signal) or ``timer``. ``hold``:
    what stays of the run while it waits for this, as in ``@agent(hold=...)``, which it goes before.
    Raises ``WaitTimedOut`` when a deadline passed and there is no default answer.
    """
    run = _run_here()
    name = name or wait.name.replace("/", ":")
    check_key(name)
    answers = await _settled(run, run.place(name, kind=CheckpointKind.WAIT), Need.ONE, {"": wait}, _asked(hold))
    answer: A = answers[""]
    return answer


async def wait_any(*, hold: str | timedelta | None = None, **waits: Wait[Any]) -> First:
    """Park until the first of the waits is settled; the others are closed. The names are part of the key.

    ``hold`` as in ``wait_for``; no wait can have this name.
    """
    run = _run_here()
    asked = _asked(hold)
    place = run.place(_joined("|", waits), kind=CheckpointKind.WAIT)
    answers = await _settled(run, place, Need.ANY, waits, asked)
    [(name, answer)] = answers.items()
    return First(name, answer)


async def wait_all(*, hold: str | timedelta | None = None, **waits: Wait[Any]) -> dict[str, Any]:
    """Park until all the waits are settled; the answers by name. The names are part of the key.

    ``hold`` as in ``wait_for``; no wait can have this name.
    """
    run = _run_here()
    asked = _asked(hold)
    return await _settled(run, run.place(_joined("&", waits), kind=CheckpointKind.WAIT), Need.ALL, waits, asked)


def _joined(by: str, waits: dict[str, Wait[Any]]) -> str:
    """The name of a group: those of its members, as far as a key takes them."""
    for name in waits:
        check_key(name)
    joined = by.join(waits)
    return joined if len(joined) <= LONGEST_KEY else f"{joined[:200]}...{digest_of(joined)}"


def _asked(hold: Any) -> Asked | None:
    if isinstance(hold, Wait):
        raise UsageError("A wait cannot be named hold, which says what stays of the run while it waits. Rename it.")
    return None if hold is None else Asked.of(hold)


async def wait_at(place: Place, waits: dict[str, Wait[Any]]) -> dict[str, Any]:
    """Park until all the waits are settled, at a place in the journal that the caller has chosen; answers by name."""
    return await _settled(_run_here(), place, Need.ALL, waits)


def _run_here() -> AgentRun:
    run = current_run.get()
    if run is None:
        raise UsageError("Waiting works in an agent: mark the function with @agent and run it as a Prefect flow.")
    if in_step():
        raise unmarked("waits") or UsageError(
            "A step cannot wait: it would hold its task run. Wait in the agent, between steps."
        )
    if not run.in_own_task:
        raise UsageError(
            "A racing branch cannot wait, because the run parks as a whole. Wait in the agent's own task, for several "
            "things with wait_any(...) or wait_all(...)."
        )
    return run


async def _settled(
    run: AgentRun, place: Place, need: Need, waits: dict[str, Wait[Any]], asked: Asked | None = None
) -> dict[str, Any]:
    if not waits:
        raise UsageError("wait_any and wait_all need at least one wait.")
    try:
        with stopped_without_ledger(run.id):
            return await _answers(run, place, need, waits, asked)
    except Away as stop:
        raise run.must_stop(stop) from None
    except asyncio.CancelledError:
        if not (run.fenced or run.leaves):
            # For an agent that goes on all the same; the wait stays open for one that ends.
            run.must_stop(
                UsageError(
                    f"The wait {place.key!r} was cut off, as asyncio.timeout does it, and could still be answered. "
                    "Give it within= instead, or wait for several things with wait_any(...)."
                )
            )
        raise


async def _answers(
    run: AgentRun, place: Place, need: Need, waits: dict[str, Wait[Any]], asked: Asked | None
) -> dict[str, Any]:
    entry = run.journal.get(place.key)
    if entry is not None and entry.state == CheckpointState.RECORDED:
        return _replayed(run, place.key, waits, await run.text_of(entry))
    inside = current_part.get()
    if inside is not None and not is_question(place.key):
        inside.before_new()
    await run.before_new_work(place.key)
    for_all = asked or run.asked
    by_key = {_key(place, name): wait for name, wait in waits.items()}
    rows = [await wait.today(key, for_all) for key, wait in by_key.items()]
    hold = run.hold_for(asked)
    if len(rows) == 1:
        need = Need.ONE  # of one, any and all are the same
    reach("wait.opening")
    group = await run.ledger.waits.open(
        run.id, run.attempt, place.key, place.position, need, rows, again=entry is not None
    )
    del rows
    if group is None:
        run.stop()
    assert group is not None
    reach("wait.opened")
    # Only a group that an earlier attempt opened can have been answered on Prefect's side.
    check_prefect = entry is not None
    if any(isinstance(wait, AgentFinished) for wait in waits.values()):
        await start_awaited(run, group)
        group = await run.ledger.waits.group(run.id, place.key)
    count = 0
    with ExitStack() as held_back:
        while True:
            if check_prefect and not group.ready:
                await take_response(run, group, by_key)
                group = await run.ledger.waits.group(run.id, place.key)
            if group.ready:
                with run.acting.looking():  # what is barred by what changed meanwhile must not begin before
                    await run.wake()
                held_back.close()
                taken = await _take_in(run, place, group, waits)
                if taken is not None:
                    return taken
                group = await run.ledger.waits.group(run.id, place.key)
                continue
            began = monotonic()
            if hold is not Hold.PAUSE or run.hosting is not None:  # in a process of its own all goes on beside it
                held_back.enter_context(run.acting.holding_back())
                group = await _alone(run, place.key, group)
                run.paused_seconds += monotonic() - began  # before what leaves counts how long it was at work
                if group.ready:
                    continue
                began = monotonic()
                await run.before_a_park()
            await run.leave()
            if hold is Hold.WARM and run.hosting is not None and not run.leaves:
                lingers = linger(run, run.hosting, place.key, group)
                # Its rows are a sixth of what a run that is parked warm holds, and their evidence may be long.
                del group
                check_prefect, group = await lingers
            elif hold is not Hold.PAUSE:
                await suspend(run, place.key, group)
            else:
                count += 1
                async with run.hosting.pausing() if run.hosting is not None else nullcontext():
                    await pause(run, place.key, group, count)
                check_prefect = True
                group = await run.ledger.waits.group(run.id, place.key)
            run.paused_seconds += monotonic() - began


async def _alone(run: AgentRun, key: str, group: Group) -> Group:
    """Let the steps that are under way beside come to their end, which a park would cut off: the group as it is then,
    or as soon as it is ready. People are asked meanwhile, but not in Prefect, which does not show the run as paused. No
    other step begins: one after the other would keep the run from ever parking."""
    while run.acting.any() and not group.ready:
        await run.acting.none(within=LOOK_SECONDS)
        group = await run.ledger.waits.group(run.id, key)
    return group


def _key(place: Place, name: str) -> str:
    """The key of the wait of this name in a group: a group of one has its own."""
    return f"{place.key}/{name}" if name else place.key


async def _take_in(run: AgentRun, place: Place, group: Group, waits: dict[str, Wait[Any]]) -> dict[str, Any] | None:
    """The typed answers of a settled group, stored as its checkpoint; None if one did not fit and is open again, or was
    counted anew."""
    stored: dict[str, dict[str, str]] = {}
    rows = {row.key: row for row in group.waits}
    for name, wait in waits.items():
        row = rows[_key(place, name)]
        if row.state != WaitState.SETTLED:
            continue
        stored[name] = {"outcome": row.outcome, "reason": row.reason}
        if row.outcome == Outcome.TIMED_OUT:
            continue
        if row.outcome == Outcome.DEFAULTED:
            # The agent's own words: refused, the deadline would fire again, and again.
            stored[name]["answer"] = row.answer
            continue
        todays = await wait.today(row.key, Asked.read(row.hold))
        if todays.policy != row.policy and wait.counts_anew():
            if not await run.ledger.waits.count_anew(run.id, run.attempt, row.id, todays):
                run.stop()
            return None
        try:
            wait.check_age(row.settled_at)
            if todays.fresh is not None and todays.fresh != row.fresh:
                raise ValueError("What it was about has changed since it was asked, so it is asked anew.")
            stored[name]["answer"], _ = wait.read(row.answer)
        except (ValueError, TypeError) as error:
            if not await run.ledger.waits.refuse(run.id, run.attempt, row.id, summary(error), anew=todays):
                run.stop()
            return None
    text = json.dumps(stored)
    if any(_is_error(waits[name], one) for name, one in stored.items()):
        run.failures.add(Failure(place, text, of_wait=True))
    else:
        if not await run.ledger.waits.consume(run.id, run.attempt, place.key, text, digest_of(text)):
            run.stop()
        reach("wait.consumed")
    return _replayed(run, place.key, waits, text)


def _is_error(wait: Wait[Any], stored: dict[str, str]) -> bool:
    if stored["outcome"] == Outcome.TIMED_OUT:
        return True
    return isinstance(wait, AgentFinished) and wait.failed(stored["answer"])


def _replayed(run: AgentRun, key: str, waits: dict[str, Wait[Any]], text: str) -> dict[str, Any]:
    """The answers that a wait's checkpoint holds. Raises ``WaitTimedOut`` as the first time."""
    answers: dict[str, Any] = {}
    for name, stored in json.loads(text).items():
        if stored["outcome"] == Outcome.TIMED_OUT:
            raise WaitTimedOut(f"{key}/{name}" if name else key, stored["reason"])
        try:
            answers[name] = waits[name].taken(waits[name].codec.decode(stored["answer"]))
        except (ValidationError, KeyError) as error:
            raise run.must_stop(CheckpointUnreadable(run.id, key, summary(error))) from error
    return answers


class StepOutcome(BaseModel):
    """What a person knows about a step that may or may not have acted when its process died."""

    happened: bool = Field(title="It happened", description="On: do not run it again. Off: run it now.")
    result: str = Field(
        default="null", title="Result", description="If it happened: the step's result as JSON, as it would return it."
    )

    @field_validator("result")
    @classmethod
    def _is_json(cls, text: str) -> str:
        try:
            json.loads(text)
        except ValueError:
            quoted = json.dumps(text)
            raise ValueError(f"it is the step's value as JSON text; a text has its quotes there: {quoted}") from None
        return text


class _Question(Approval[StepOutcome]):
    """Asks whether a step happened; the result that is given must be one the step could have returned."""

    def __init__(self, key: str, codec: Codec[Any]) -> None:
        super().__init__(
            f"Did step '{key}' happen?",
            form=StepOutcome,
            show=f"The process died while step `{key}` was acting, and the step has no probe that could tell. "
            'Look at the outside system, then answer `{"happened": false}` or `{"happened": true, "result": "..."}`, '
            "where the result is what the step would have returned, as JSON.",
        )
        object.__setattr__(self, "result_codec", codec)

    result_codec: Codec[Any]

    def check(self, answer: StepOutcome) -> None:
        if answer.happened:
            try:
                self.result_codec.decode(answer.result)
            except ValidationError as error:
                raise ValueError(f"result: it is not what the step returns: {summary(error)}") from error


async def ask_outcome(key: str, attempt: int, codec: Codec[Any]) -> str | None:
    """Ask a person about a ``once`` step whose process died in an attempt: its result as JSON if it happened."""
    run = _run_here()
    answers = await _settled(run, Place(question_on(key, attempt), None), Need.ONE, {"": _Question(key, codec)})
    outcome: StepOutcome = answers[""]
    return outcome.result if outcome.happened else None
