"""The results of an agent's calls that others deliver: a signal for each call, an answer for each question."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.tools import DeferredToolRequests

from standby.agents.budgets import Spent
from standby.agents.names import for_people
from standby.agents.tools import Reply
from standby.states import CheckpointState
from standby.waiting import wait_at
from standby.waits import NOTHING, Approval, Signal, Wait, quoted

if TYPE_CHECKING:
    from standby.agents.thinking import Thinking

NO_RESULT = {"no result": "nobody delivered it in time"}
"""What a deferred call is answered with when its time is over."""


async def results_of(
    thinking: Thinking, requests: DeferredToolRequests, outside: list[ToolCallPart], place: str, approved: bool = False
) -> dict[str, Any]:
    """Wait at this place for what others deliver: a signal for each call, an answer for each question."""
    thread = thinking.thread
    waits: dict[str, Wait[Any]] = {}
    ids: dict[str, str] = {}
    for call in outside:
        ordinal = thinking.ordinal(call)
        metadata = requests.metadata.get(call.tool_call_id, {})
        ids[str(ordinal)] = call.tool_call_id
        if requests.kind(call.tool_call_id) == "question":
            question = str(metadata.get("question") or f"{for_people(thread.name)} asks by {call.tool_name}")
            shown = quoted(json.dumps(call.args_as_dict(), indent=2, ensure_ascii=False))
            waits[str(ordinal)] = Approval(question, form=Reply, show=shown, party=thinking.scope.asking.party)
            continue
        key = f"{thread.run.id}/{thread.prefix}{thread.call_key(ordinal, call.tool_name, approved=approved)}"
        seconds = metadata.get("within_seconds")
        within = timedelta(seconds=float(seconds)) if seconds is not None else thinking.scope.asking.within
        waits[str(ordinal)] = Signal(
            str(metadata.get("topic") or f"tool.{call.tool_name}"),
            key=str(metadata.get("key") or key),
            reason=f"the result of {call.tool_name} for {for_people(thread.name)}",
            within=within,
            otherwise=NOTHING if within is None else NO_RESULT,
        )
    answers: dict[str, Any] = {}
    number = 1
    while left := {name: wait for name, wait in waits.items() if name not in answers}:
        rest = place if number == 1 else f"{place}.{number}"
        answers |= await _delivered(thinking, rest, left)
        number += 1
    return {
        ids[name]: ToolFailed("Nobody delivered its result in time.")
        if answer == NO_RESULT
        else answer.answer
        if isinstance(answer, Reply)
        else answer
        for name, answer in answers.items()
    }


async def _delivered(thinking: Thinking, rest: str, left: dict[str, Wait[Any]]) -> dict[str, Any]:
    """The results of these calls, by their numbers, that are waited for at this place: of all of them, if no
    earlier attempt has waited there. One may have waited for others: other calls were allowed, or other tools there.
    """
    thread = thinking.thread
    place, entry = thread.place(rest), thread.entry(rest)
    if entry is not None and entry.state == CheckpointState.RECORDED:  # these were counted with the journal
        told = json.loads(await thread.run.text_of(entry))
        anything: dict[str, Wait[Any]] = {name: Signal("of a call that is not made any more") for name in told}
        answers = await thinking.parked(
            lambda: wait_at(place, anything | {name: left[name] for name in told if name in left})
        )
        return {name: answer for name, answer in answers.items() if name in left}
    here = left
    if entry is not None:
        rows = (await thread.run.ledger.waits.group(thread.run.id, place.key)).waits
        here = {name: left[name] for row in rows if (name := row.key.removeprefix(f"{place.key}/")) in left}
    if not here:
        await thread.close_one(rest)
        return {}
    answers = await thinking.parked(lambda: wait_at(place, here))
    thread.spent += Spent(tool_calls=sum(int(name) not in thinking.deferred for name in answers))
    return answers
