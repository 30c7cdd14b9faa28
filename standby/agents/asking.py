"""What people are asked about an agent's calls: all calls of one answer in one wait, with one form.

What is approved is bound to the call's key, its tool, the digest of the exact arguments and of the tool's schema, the
wait and whoever approved it. It is looked at again when the tool is about to be called, and used once.

What a wait showed stands in its row (``fresh``): an answer counts for those calls alone. A call that has to be asked
about and was in no wait that was answered is asked about in another one: ``1.asks``, ``1.asks.2`` ... So is one that
people have changed into a call about something that they have not seen (``fresh=`` of ``run_agent``). From when it is
asked about in another one, that decides, and an approval of before counts no more, whatever ``fresh`` says by then.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults, RunContext, ToolApproved, ToolDenied

from standby import clock
from standby.agents.canonical import canonical
from standby.agents.edits import as_called, call_for, still_meant, validated
from standby.agents.evidence import MOST_IN_ONE, ToShow, evidence_about
from standby.agents.forms import Said, arguments_field, form_of, said_of
from standby.agents.judging import arguments_digest, given_digest, judge, plain_arguments
from standby.agents.names import for_people
from standby.agents.records import Outcome
from standby.agents.results import results_of
from standby.agents.scope import Permission
from standby.agents.scoped import InVain, ScopedApproval
from standby.ledger.grants import GrantRow
from standby.places import Place
from standby.states import CheckpointState, Verdict
from standby.waiting import wait_at
from standby.waits import Approval

if TYPE_CHECKING:
    from standby.agents.thinking import Thinking

_Verdict = ToolDenied | dict[str, Any] | None
"""What people said about a call: denied, changed arguments, or None: approved as it was shown."""

_CHANGED = "A person has changed it, into a call about something else than was shown, or what it is about has changed."
"""Why a call is asked about as it was changed."""


@dataclass(frozen=True)
class _Asked:
    """One call that is asked about: ``arguments`` as the tool will see them, as JSON values. ``outside``: its result
    is delivered by whoever makes it, with those that the model gave. ``changed``: they are a person's."""

    call: ToolCallPart
    ordinal: int
    arguments: dict[str, Any]
    why: str
    outside: bool = False
    changed: bool = False


@dataclass(frozen=True)
class _Shown:
    """One call as a wait showed it. ``ordinal``: None in waits of before that was kept. ``arguments``: canonical.
    ``changed``: they are a person's."""

    ordinal: int | None
    tool: str
    arguments: str
    schema: str | None
    tag: str | None
    changed: bool


async def resolve(thinking: Thinking, ctx: RunContext[Any], requests: DeferredToolRequests) -> DeferredToolResults:
    """Ask people about the calls that need it, then wait for the results that others deliver."""
    results = DeferredToolResults()
    asked: list[_Asked] = []
    outside: list[ToolCallPart] = []
    for call in requests.approvals:
        done = thinking.thread.call_key(thinking.ordinal(call), call.tool_name, approved=True)
        if await thinking.thread.outcome(done) is not None:
            results.approvals[call.tool_call_id] = ToolApproved()  # what it came to is told, whatever the scope is now
            continue
        found = await _asked(thinking, ctx, call, requests.metadata.get(call.tool_call_id, {}))
        if isinstance(found, _Asked):
            asked.append(found)
        else:
            results.approvals[call.tool_call_id] = ToolDenied(await thinking.left_out(thinking.ordinal(call), found))
    for call in requests.calls:
        judged = judge(thinking, call.tool_name, call.args_as_dict())
        if judged.permission is Permission.ALLOW or thinking.ordinal(call) in thinking.deferred:
            outside.append(call)
        elif judged.permission is Permission.DENY:
            results.calls[call.tool_call_id] = ToolFailed(judged.why)
        else:
            asked.append(_Asked(call, thinking.ordinal(call), call.args_as_dict(), judged.why, outside=True))
    if asked:
        external = {call.tool_call_id for call in requests.calls}
        verdicts = await _ask(thinking, ctx, asked)
        for one in asked:
            call_id, said = one.call.tool_call_id, verdicts[one.ordinal]
            if isinstance(said, ToolDenied):
                said = ToolDenied(await thinking.left_out(one.ordinal, said.message))
            if call_id not in external:
                results.approvals[call_id] = said if isinstance(said, ToolDenied) else ToolApproved(override_args=said)
            elif isinstance(said, ToolDenied) or said is not None:
                refused = said.message if isinstance(said, ToolDenied) else "its arguments cannot be changed"
                results.calls[call_id] = ToolFailed(f"Not called: {refused}")
            elif (judged := judge(thinking, one.call.tool_name, one.arguments)).permission is Permission.DENY:
                results.calls[call_id] = ToolFailed(judged.why)
            else:
                outside.append(one.call)
    # Of an earlier attempt, about calls that are all denied by now.
    await thinking.thread.close_left(f"{thinking.thread.turn}.asks")
    if outside:
        results.calls |= await results_of(thinking, requests, outside, f"{thinking.thread.turn}.results")
    return results


async def result_after_approval(thinking: Thinking, call: ToolCallPart, begun: Outcome) -> Any:
    """Wait for the result of an approved call that has begun something elsewhere: pydantic-ai asks but once."""
    request = DeferredToolRequests(
        calls=[call],
        metadata={call.tool_call_id: begun.metadata or {}},
        _kinds={call.tool_call_id: "question" if begun.question else "external"},
    )
    rest = f"{thinking.thread.turn}.results.of.{thinking.ordinal(call)}"
    return (await results_of(thinking, request, [call], rest, approved=True))[call.tool_call_id]


async def _asked(
    thinking: Thinking, ctx: RunContext[Any], call: ToolCallPart, metadata: dict[str, Any]
) -> _Asked | str:
    """The call as it is asked about; or why it is not."""
    arguments = await validated(ctx, call)
    if arguments is None:
        return "Its arguments do not fit the tool."
    judged = judge(thinking, call.tool_name, arguments)
    if judged.permission is Permission.DENY:
        return judged.why
    asks = judged.why if judged.permission is Permission.ASK else "The tool asks for an approval of this call."
    why = str(metadata.get("why") or asks)
    one = _Asked(call, thinking.ordinal(call), plain_arguments(arguments), why)
    return await _as_shown(thinking, ctx, one) if thinking.was_asking() else one


async def _as_shown(thinking: Thinking, ctx: RunContext[Any], one: _Asked) -> _Asked:
    """The call as people were shown it, where only defaults are others by now, such as an id that is made up."""
    thread, tool, number = thinking.thread, one.call.tool_name, 1
    while thread.entry(rest := _asks(thread.turn, number)) is not None:
        for other in _shown((await _wait_at(thinking, thread.place(rest))).fresh):
            if (other.ordinal, other.tool, other.schema) != (one.ordinal, tool, thinking.schemas.get(tool)):
                continue
            if other.arguments == canonical(one.arguments):
                return one
            shown = await still_meant(ctx, one.call, json.loads(other.arguments))
            if shown is None:
                continue
            judged = judge(thinking, tool, shown)
            if judged.permission is not Permission.DENY:
                return replace(one, arguments=shown)
        number += 1
    return one


async def _ask(thinking: Thinking, ctx: RunContext[Any], asked: list[_Asked]) -> dict[int, _Verdict]:
    """What people said about each call, by its number: in the wait that showed this call, and asked now if none did.

    Scope or code may be others than in an earlier attempt, which then asked about other calls.
    """
    thread = thinking.thread
    verdicts: dict[int, _Verdict] = {}
    left, number = asked, 1
    last = await _last_asked(thinking)
    while left:
        place = thread.place(_asks(thread.turn, number))
        try:
            # One that is answered knows what it showed.
            answer = await _answer(thinking, ctx, place, left[:MOST_IN_ONE])
        except InVain:
            for one in left[:MOST_IN_ONE]:
                verdicts[one.ordinal] = ToolDenied(judge(thinking, one.call.tool_name, one.arguments).why)
            left, number = left[MOST_IN_ONE:], number + 1
            continue
        wait = await _wait_at(thinking, place)
        shown = _shown(wait.fresh)
        said = said_of(answer, len(shown))
        found = {
            one.ordinal: (one, shown[at], said[at]) for one in left if (at := _where(thinking, one, shown)) is not None
        }
        later = {ordinal for ordinal, at in last.items() if at > number}
        said_now, again = await _grants(thinking, ctx, wait, list(found.values()), later)
        verdicts |= said_now
        left = [again.get(one.ordinal, one) for one in left if one.ordinal not in said_now]
        number += 1
    return verdicts


def _asks(turn: int, number: int) -> str:
    """The key of the wait with this number, from 1, that asks about calls of a turn, below the thread's."""
    return f"{turn}.asks" if number == 1 else f"{turn}.asks.{number}"


async def _last_asked(thinking: Thinking) -> dict[int | None, int]:
    """In which wait a call was asked about last, by the numbers of both, where that was not the first one."""
    thread, number = thinking.thread, 2
    last: dict[int | None, int] = {}
    while thread.entry(rest := _asks(thread.turn, number)) is not None or thread.place(rest).key in thinking.answered:
        last |= {one.ordinal: number for one in _shown((await _wait_at(thinking, thread.place(rest))).fresh)}
        number += 1
    return last


async def _wait_at(thinking: Thinking, place: Place) -> Any:
    [wait] = (await thinking.thread.run.ledger.waits.group(thinking.thread.run.id, place.key)).waits
    return wait


def _shown(fresh: str) -> list[_Shown]:
    """The calls that a wait showed, from what ``as_it_is`` wrote. The number may be followed by "changed"."""
    return [
        _Shown(rest[0] if rest else None, tool, canonical(arguments), schema, tag, "changed" in rest[1:])
        for *rest, tool, arguments, schema, tag in json.loads(fresh)
    ]


def _where(thinking: Thinking, one: _Asked, shown: Sequence[_Shown]) -> int | None:
    """Which of the calls that were shown is exactly this one; None if it was not shown, or that cannot be told."""
    tool, arguments = one.call.tool_name, canonical(one.arguments)
    same = [at for at, other in enumerate(shown) if (other.tool, other.arguments) == (tool, arguments)]
    if all(shown[at].ordinal is None for at in same):
        # Of before numbers were kept: those of the answer that are alike, if all of them were shown.
        calls = thinking.thread.response().tool_calls
        alike = [n for n, call in enumerate(calls, start=1) if given_digest(call) == given_digest(one.call)]
        return same[alike.index(one.ordinal)] if len(alike) == len(same) else None
    return next((at for at in same if shown[at].ordinal == one.ordinal), None)


async def _answer(thinking: Thinking, ctx: RunContext[Any], place: Place, asked: list[_Asked]) -> BaseModel:
    """What people said in the wait at this place, about the calls that it showed: these, if it is not answered yet."""
    thread, scope = thinking.thread, thinking.scope
    answer: BaseModel | None = thinking.answered.get(place.key)
    if answer is not None:
        return answer
    entry = thread.entry(place.key.removeprefix(thread.prefix))
    before = _shown((await _wait_at(thinking, place)).fresh) if entry is not None else []
    if entry is not None and entry.state == CheckpointState.RECORDED:
        said: Approval[Any] = Approval("", form=form_of([one.tool for one in before]))
        answer = (await thinking.parked(lambda: wait_at(place, {"": said}), tool_calls=len(asked)))[""]
        assert isinstance(answer, BaseModel)
        thinking.answered[place.key] = answer
        return answer
    tools = [one.call.tool_name for one in asked]
    form = form_of(tools, [number for number, one in enumerate(asked, start=1) if one.outside])
    what = f"call {tools[0]}" if len(tools) == 1 else f"make these {len(tools)} calls"
    numbered = all(one.ordinal is not None for one in before)  # a wait of before is not asked anew for that alone

    async def as_it_is() -> str:
        """What is asked about as of now: it is asked anew when any of it has changed."""
        parts = []
        for one in asked:
            tool = one.call.tool_name
            first = [one.ordinal, *(["changed"] if one.changed else [])] if numbered else []
            tag = await thinking.tag(tool, one.arguments)
            parts.append([*first, tool, one.arguments, thinking.schemas.get(tool), tag])
        return canonical(parts)

    def check(answer: BaseModel) -> None:
        """Arguments that the scope denies, that do not fit the tool, or of which it would see others, and those of a
        call that others make, are refused before the run goes on."""
        told = said_of(answer, len(asked), exactly=True)
        for number, (one, said) in enumerate(zip(asked, told, strict=True), start=1):
            if said.approved and said.arguments is not None:
                tool = one.call.tool_name
                try:
                    if one.outside:  # the form does not offer it, but an earlier version's did
                        raise ValueError("its arguments cannot be changed: it is not made here")
                    _, seen = as_called(ctx, tool, said.arguments)
                    judged = judge(thinking, tool, seen)
                    if judged.permission is Permission.DENY:
                        raise ValueError(judged.why)
                except ValueError as error:
                    raise ValueError(f"{arguments_field(number, len(asked))} of {tool}: {error}") from error

    def in_vain() -> bool:
        return all(judge(thinking, one.call.tool_name, one.arguments).permission is Permission.DENY for one in asked)

    nobody = form(approved=False, comment="Nobody answered in time.")
    limits = [scope.asking.within] if scope.asking.within is not None else []
    if scope.deadline is not None:
        limits.append(scope.deadline - clock.utcnow())
    timed: dict[str, Any] = {"within": max(min(limits), timedelta(0)), "otherwise": nobody} if limits else {}
    question: Approval[Any] = ScopedApproval(
        thinking,
        f"May {for_people(thread.name)} {what}?",
        form=form,
        show=evidence_about(scope.goal, [ToShow(one.call.tool_name, one.arguments, one.why) for one in asked]),
        check=check,
        in_vain=in_vain,
        fresh=as_it_is,
        max_age=scope.asking.max_age,
        **timed,
    )
    thread.set_aside()  # tools that have begun, and may go on when this is approved
    answer = (await thinking.parked(lambda: wait_at(place, {"": question}), tool_calls=len(asked)))[""]
    assert isinstance(answer, BaseModel)
    thinking.answered[place.key] = answer
    return answer


async def _grants(
    thinking: Thinking,
    ctx: RunContext[Any],
    wait: Any,
    found: list[tuple[_Asked, _Shown, Said]],
    later: Collection[int | None],
) -> tuple[dict[int, _Verdict], dict[int, _Asked]]:
    """What was said of each call, which is written down; and those that have to be asked about as they were changed.

    ``later``: the calls that another wait has asked about since: that one decides, of what was approved here.
    """
    thread, ledger = thinking.thread, thinking.thread.run.ledger
    yes = [
        one
        for one in await ledger.waits.decisions_of(thread.run.id)
        if one.wait_id == wait.id
        and one.opening == wait.opening
        and one.verdict in (Verdict.WON, Verdict.COUNTED)
        and json.loads(one.answer or "{}").get("approved") is True
    ]
    approver = ", ".join(dict.fromkeys(one.actor for one in yes if one.actor)) or None
    results: dict[int, _Verdict] = {}
    again: dict[int, _Asked] = {}
    rows: list[GrantRow] = []
    for one, shown, about in found:
        if not about.approved:
            results[one.ordinal] = ToolDenied(f"A person refused this call. {about.reason}".strip())
            continue
        arguments, override = one.arguments, about.arguments
        if not one.outside:
            try:
                override, arguments = await call_for(ctx, one.call, arguments, override)
            except ValueError as error:
                results[one.ordinal] = ToolDenied(f"It would not have the arguments that a person approved: {error}")
                continue
        # What was shown was approved, however late this is written down. What a person has made of it may be about
        # something else, and nobody has seen what that was at the time; or not as it is by now.
        if about.arguments is not None or shown.changed:
            plain = plain_arguments(arguments)
            if one.ordinal in later or await thinking.tag(one.call.tool_name, plain) != shown.tag:
                again[one.ordinal] = replace(one, arguments=plain, why=_CHANGED, changed=True)
                continue
        elif one.ordinal in later:
            continue
        results[one.ordinal] = override
        rows.append(
            GrantRow(
                key=thread.prefix + thread.call_key(one.ordinal, one.call.tool_name, approved=True),
                wait_id=wait.id,
                tool=one.call.tool_name,
                arguments=arguments_digest(arguments),
                tool_schema=shown.schema or "",
                given=given_digest(thread.response().tool_calls[one.ordinal - 1]),
                approver=approver,
                door=yes[-1].door if yes else None,
                fresh=shown.tag,
                settled_at=wait.settled_at,
            )
        )
    if not await ledger.grants.give(thread.run.id, thread.run.attempt, rows):
        thread.run.stop()
    return results, again
