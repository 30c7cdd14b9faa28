"""An answer of somebody with a key, through whichever door of the gateway."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from standby import doors
from standby.callers import Caller, delegates, may_answer
from standby.connect import Place
from standby.errors import NotAllowed
from standby.gateway.keys import lacks
from standby.gateway.refusals import Refused
from standby.ledger import Ledger
from standby.states import Door, Role, RunState, Verdict, WaitKind
from standby.waits import checked_answer, why_unanswered


class AnswerOut(BaseModel):
    """The answer counts. ``decided`` is false while the wait's policy asks for more people.

    ``woken``: the run was told at once; else the keeper tells it within seconds.
    """

    wait_id: str
    run_id: str
    decided: bool
    woken: bool


async def answered(
    ledger: Ledger,
    place: Place,
    caller: Caller,
    wait: Any,
    text: str,
    *,
    door: Door,
    note: str | None = None,
    opening: int | None = None,
) -> AnswerOut:
    """Answer a wait (its ledger row) with a JSON text for a caller: this ``opening`` of it, or the one in the row.

    The same answer again through the same door changes nothing, and is told the same; if the wait was opened again
    since, it has to say that it answers this opening. Raises ``Refused``, ``AnswerRefused`` and ``NotAllowed``; the run
    then waits on. ``note`` stands with the decision in the audit.
    """
    if wait.kind != WaitKind.APPROVAL:
        raise Refused(409, why_unanswered(wait))
    if (lacking := lacks(caller, {Role.APPROVER, Role.ADMIN})) is not None:
        await ledger.waits.note_not_allowed(wait.id, door, caller.name, lacking, text)
        raise Refused(403, lacking)
    if not caller.may_answer_for(wait.party) and not may_answer(caller, wait, await delegates(ledger)):
        why = f"{caller.name} does not answer for {wait.party}, who is asked here."
        await ledger.waits.note_not_allowed(wait.id, door, caller.name, why, text)
        raise Refused(403, why)
    if opening is None and note is None and await _is_sent_again(ledger, wait, text, caller, door):
        raise Refused(
            409,
            f"You gave this answer before the question was asked anew. Look at it again, and answer its opening "
            f"{wait.opening}.",
        )
    if opening in (None, wait.opening) and (before := await _sent_before(ledger, place, wait, text, caller, door)):
        return before
    # It may be opened anew from here on: what was not looked at is not answered.
    meant = wait.opening if opening is None else opening
    try:
        made = await doors.answer(
            ledger, wait, text, door=door, actor=caller.name, api_url=place.api_url, note=note, opening=meant
        )
    except NotAllowed as error:
        if (before := await _sent_before(ledger, place, wait, text, caller, door)) is not None:
            return before
        now = await ledger.waits.get(wait.id)
        if now is not None and meant != now.opening:
            look = f"Look at it again, and answer its opening {now.opening}."
            raise Refused(409, f"{error} {look}") from None
        raise
    if made.won or made.counted:
        return AnswerOut(wait_id=wait.id, run_id=wait.run_id, decided=made.won, woken=made.woken)
    if (before := await _sent_before(ledger, place, wait, text, caller, door)) is not None:
        return before
    if made.winner is None:
        raise Refused(409, "The wait is closed: its run ended, or something else it waited for came first.")
    winner = {
        "actor": made.winner.actor,
        "door": made.winner.door,
        "answer": json.loads(made.winner.answer or "null"),
    }
    raise Refused(409, f"{made.winner.actor or made.winner.door} was first.", winner=winner)


async def _is_sent_again(ledger: Ledger, wait: Any, text: str, caller: Caller, door: Door) -> bool:
    """Whether the caller gave this very answer to an earlier opening of the wait, and may not have heard of that."""
    if wait.opening == 1:
        return False
    given = json.loads(checked_answer(wait, text))
    return any(
        (one.wait_id, one.door, one.actor) == (wait.id, door, caller.name)
        and one.opening < wait.opening
        and one.answer is not None
        and json.loads(one.answer) == given
        for one in await ledger.waits.decisions_of(wait.run_id)
    )


async def _sent_before(
    ledger: Ledger, place: Place, wait: Any, text: str, caller: Caller, door: Door
) -> AnswerOut | None:
    """What the caller was told, or would have been, of this very answer; None unless it counts already."""
    taken = await ledger.waits.decided_by(wait.id, wait.opening, caller.name)
    if taken is None or (taken.door, taken.actor) != (door, caller.name):
        return None
    if json.loads(taken.answer) != json.loads(checked_answer(wait, text)):
        return None
    decided = taken.verdict == Verdict.WON
    woken = decided and await _knows(ledger, wait.run_id, place)
    return AnswerOut(wait_id=wait.id, run_id=wait.run_id, decided=decided, woken=woken)


async def _knows(ledger: Ledger, run_id: str, place: Place) -> bool:
    """Whether a run knows of an answer: it goes on, or is woken once more."""
    run = await ledger.runs.get(run_id)
    if run is None or run.state == RunState.PARKED:
        return False
    return run.state != RunState.READY or await doors.wake_run(run_id, run.wake_address, place.api_url)
