"""Answering in the terminal: ``standby approve | reject | answer | links``."""

from __future__ import annotations

import getpass
import json
from collections.abc import Callable
from typing import Annotated, Any

import typer

from standby import doors, settings, view
from standby.errors import AnswerRefused, UnknownWait, UsageError
from standby.holder import is_dead
from standby.ledger import Ledger
from standby.ledger.text import SHORTEST
from standby.policy import Policy, approves
from standby.states import BY_SIGNAL, NOBODY_ANSWERS, Door, Hold, Verdict, WaitKind, WaitState
from standby.terminal import Json, name_of, open_ledger, own_words, perform, tell
from standby.waits import WAITS_FOR, command_for

Target = Annotated[
    str, typer.Argument(metavar="WAIT", help="A wait's or a run's id (its beginning will do), or a run's name.")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="A field of the form: name=value. The value is JSON, or text.")
]
As = Annotated[
    str | None,
    typer.Option("--as", metavar="NAME", help="Who decides. It is believed of whoever may write the ledger; default: "
                 "this system's user."),
]  # fmt: skip


def approve(target: Target, set_: Set = None, comment: str = "", as_: As = None, as_json: Json = False) -> None:
    """Approve: answer the form with approved=true, the other fields as set or by their defaults."""
    perform(_answer(target, lambda wait: _decision(wait, True, comment, set_), as_, as_json, decides=True), as_json)


def reject(target: Target, set_: Set = None, comment: str = "", as_: As = None, as_json: Json = False) -> None:
    """Reject: answer the form with approved=false."""
    perform(_answer(target, lambda wait: _decision(wait, False, comment, set_), as_, as_json, decides=True), as_json)


def answer(
    target: Target, text: Annotated[str, typer.Argument(metavar="JSON")], as_: As = None, as_json: Json = False
) -> None:
    """Answer a wait with JSON, whatever its form. One that waits for a message takes it as the message."""
    perform(_answer(target, lambda _: text, as_, as_json), as_json)


def links(
    target: Target,
    person: Annotated[str, typer.Option("--for", help="Who answers with it. Stands in the audit.")],
    as_json: Json = False,
) -> None:
    """A link to the gateway's page about a wait, by which one person answers it, once, without a key."""

    async def work() -> int:
        from standby.links import address_of, link_for

        gateway_url = settings.gateway_url()
        if gateway_url is None:
            raise UsageError(
                "Where the gateway is reached is not known. Set STANDBY_GATEWAY_URL to its public address."
            )
        name = name_of(person.strip(), "--for")
        async with open_ledger() as (ledger, _):
            link = await link_for(ledger, await _one_wait(ledger, target), name)
            address = await address_of(ledger, link, gateway_url)
        expires = link.expires_at.isoformat(timespec="milliseconds")
        tell(
            as_json,
            {"link": address, "wait_id": link.wait_id, "person": name, "expires_at": expires},
            f"{address}\nWhoever has it answers as {name}, once, until {view.moment(expires)}.",
        )
        return 0

    perform(work(), as_json)


async def _answer(
    target: str, text_for: Callable[[Any], str], as_: str | None, as_json: bool, *, decides: bool = False
) -> int:
    """``decides``: the answer approves or rejects."""
    actor = getpass.getuser() if as_ is None else name_of(as_.strip(), "--as")
    async with open_ledger() as (ledger, place):
        wait = await _one_wait(ledger, target, settled=True)
        run = await ledger.runs.get(wait.run_id)
        if wait.kind in NOBODY_ANSWERS:
            raise UnknownWait(target, f"it waits for {WAITS_FOR[wait.kind]}, which nobody answers")
        if decides and wait.kind in BY_SIGNAL and "approved" not in _form(wait):
            raise UsageError(
                f"Wait {wait.id[:8]} waits for {WAITS_FOR[wait.kind]}, which nobody approves. "
                f"Send it, or what it would say: {command_for(wait)}"
            )
        try:
            with own_words():
                made = await doors.answer(
                    ledger, wait, text_for(wait), door=Door.TERMINAL, actor=actor, api_url=place.api_url
                )
        except AnswerRefused as refused:
            if wait.state != WaitState.OPEN:
                made = doors.Answered(False, wait, await ledger.waits.winner(wait), False)
                return _told(wait, run, actor, made, await ledger.waits.decisions_of(wait.run_id), as_json)
            form = [("the form has", ", ".join(fields))] if (fields := _form(wait)) else []
            if as_json:
                print(json.dumps({"accepted": False, "wait_id": wait.id, "problems": refused.problems}))
                return 1
            raise AnswerRefused(f"wait {wait.id[:8]}", [*refused.problems, *form]) from refused
        votes = await ledger.waits.decisions_of(wait.run_id)
    return _told(wait, run, actor, made, votes, as_json)


def _told(wait: Any, run: Any, actor: str, made: doors.Answered, votes: list[Any], as_json: bool) -> int:
    report: dict[str, Any] = {
        "accepted": made.won or made.counted, "wait_id": wait.id, "run_id": wait.run_id, "woken": made.woken,
    }  # fmt: skip
    report |= {"counted": made.won or made.counted, "decided": made.won}
    question = f"The question was: {_ended(wait.reason)} Run {run.name} is {run.state}."
    if made.counted:
        sentence = _counted(made.wait, actor, votes)
    elif made.won:
        sentence = f"{_said(made.wait.answer)}: {_ended(wait.reason)} Run {run.name} {_goes_on(run, made)}."
    elif made.winner is not None:
        first = _first(made.winner, actor, votes)
        report["winner"] = {"actor": made.winner.actor, "door": made.winner.door,
                            "answer": json.loads(made.winner.answer or "null")}  # fmt: skip
        sentence = f"{first}, with {made.winner.answer}. {question}"
    else:
        sentence = f"Too late: the wait is closed. {question}"
    tell(as_json, report, sentence)
    return 0 if made.won or made.counted else 1


def _ended(reason: str) -> str:
    """As a sentence."""
    return reason if reason.rstrip().endswith((".", "?", "!", "…")) else f"{reason.rstrip()}."


def _first(winner: Any, actor: str, decisions: list[Any]) -> str:
    """Whose answer it was: that of all whose decisions counted, where its policy asks for several people's."""
    counted = [
        one.actor
        for one in decisions
        if (one.wait_id, one.opening, one.verdict) == (winner.wait_id, winner.opening, Verdict.COUNTED)
    ]
    if winner.actor and counted and approves(winner.answer):
        names = [f"{name} (you)" if name == actor else name for name in [*counted, winner.actor]]
        return f"Too late: {', '.join(names[:-1])} and {names[-1]} have decided it together"
    if winner.actor == actor:
        return "Too late: you have answered it already"
    return f"Too late: {winner.actor or winner.door} was first"


def _said(answer: str | None) -> str:
    plain = json.loads(answer or "null")
    if not isinstance(plain, dict) or not isinstance(plain.get("approved"), bool):
        return "Answered"
    return "Approved" if plain["approved"] else "Rejected"


def _counted(wait: Any, actor: str, decisions: list[Any]) -> str:
    policy = Policy.model_validate_json(wait.policy)
    counted = [one for one in decisions if (one.wait_id, one.opening) == (wait.id, wait.opening)]
    more = policy.quorum - sum(one.verdict == Verdict.COUNTED and approves(one.answer) for one in counted)
    return f"Counted, as {actor}. {more} more {'has' if more == 1 else 'have'} to approve: {policy.said}."


def _goes_on(run: Any, made: doors.Answered) -> str:
    if made.unreached:
        return "goes on when its Prefect server is up again, which cannot be reached now"
    if run.hold == Hold.WARM and made.woken:
        # It was called. Whether its turn has come its host knows, and in a bound pool Prefect's queue.
        return "goes on at once, unless its host's slots are taken or its work pool is paused or full"
    if run.deployment_id is not None:
        return "goes on as soon as a worker takes it up"
    if run.holder is None or is_dead(run.holder):
        return "goes on when its command is started again: its process is gone"
    return "goes on"


def _decision(wait: Any, approved: bool, comment: str, fields: list[str] | None) -> str:
    schemas = _form(wait)
    made: dict[str, Any] = {"approved": approved}
    if comment:
        made["comment"] = comment
    for item in fields or []:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"--set takes name=value, not {item!r}.")
        if name == "approved":
            raise typer.BadParameter("approved is what the command says: approve or reject.")
        made[name] = _field(value, schemas.get(name, {}))
    return json.dumps(made)


def _form(wait: Any) -> dict[str, Any]:
    """The fields of its form; none where it is no object."""
    return dict(json.loads(wait.answer_schema or "{}").get("properties", {}))


def _field(text: str, schema: dict[str, Any]) -> Any:
    """A field as typed: JSON, else text; a ledger account such as 4930 is text where the form asks for text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    kinds = {part.get("type") for part in schema.get("anyOf", [schema])}
    fits = isinstance(value, str) or (value is None and "null" in kinds)
    return text if kinds <= {"string", "null"} and not fits else value


async def _one_wait(ledger: Ledger, target: str, *, settled: bool = False) -> Any:
    """The wait that a person means: by its id, or as the one open wait of a run.

    ``settled``: where nothing is open, the one that was settled last, for who comes second.
    """
    if not target:
        raise UnknownWait("''", "give its id, or its run's id or name")
    named = await ledger.waits.find(target)
    if [exact := wait for wait in named if wait.id == target]:
        return exact
    runs = await ledger.runs.find(target)
    if not named and not runs:
        why = "no wait or run begins with that"
        if len(target) < SHORTEST:
            why = f"it is no run's name, and the beginning of an id has {SHORTEST} characters or more"
        raise UnknownWait(target, why)
    of_runs = [wait for run in runs for wait in await ledger.waits.of_run(run.id)]
    meant = _answerable([*named, *of_runs])
    found = [wait for wait in meant if wait.state == WaitState.OPEN] or named
    if not found and settled and len(runs) == 1:
        # The last one that a person was asked, rather than a message that came since.
        over = [wait for wait in meant if wait.settled_at is not None]
        found = sorted(over, key=lambda wait: (wait.kind == WaitKind.APPROVAL, wait.settled_at))[-1:]
    if not found:
        raise UnknownWait(target, f"run {runs[0].name} is {runs[0].state} and waits for nobody")
    if len(found) > 1:
        names = {wait.run_id: run.name for wait in found if (run := await ledger.runs.get(wait.run_id)) is not None}
        listed = ", ".join(f"{wait.id[:8]} ({wait.reason} Run {names.get(wait.run_id)})" for wait in found)
        raise UsageError(f"{target!r} could be any of {listed}. Give more of the wait's id.")
    return found[0]


def _answerable(waits: list[Any]) -> list[Any]:
    by_id = {wait.id: wait for wait in waits if wait.kind not in NOBODY_ANSWERS}
    return list(by_id.values())
