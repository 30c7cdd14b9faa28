"""What an agent thought and did, for people: from its journal, without the libraries of any model.

Secrets are left out (``redaction``), and long values are cut.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from itertools import count, takewhile
from typing import Any, NamedTuple

from standby.agents.forms import form_of, said_of
from standby.agents.lookalikes import unmarked
from standby.agents.questions import Questions, somebody
from standby.agents.redaction import redacted, redacted_text
from standby.ledger import Ledger
from standby.ledger.checkpoints import Entry
from standby.states import ENDED, CheckpointState, RunState
from standby.threads import in_own_thread
from standby.waits import as_text, quoted

LONGEST = 4000
"""Characters of a value that are shown."""

_UNREADABLE = (ValueError, RecursionError)
"""What JSON can be to Python: none, a number of thousands of digits, or deeper than it goes."""

_DID = ("approved", "refused", "answered")
"""What people do about a call."""

_ELSEWHERE: dict[str, Any] = {
    "messages": [{"parts": [{"part_kind": "text", "content": "(a large turn, kept outside the ledger)"}]}]
}
"""What stands for a turn that is so large that the ledger does not hold it."""


async def read_threads(
    ledger: Ledger, run_id: str, journal: Sequence[Entry], state: str = RunState.RUNNING
) -> list[dict[str, Any]]:
    """``threads_of`` a run's journal, in a thread: hundreds of turns take long to go through."""
    grants, waits = await ledger.grants.of_run(run_id), await ledger.waits.of_run(run_id)
    decisions = await ledger.waits.decisions_of(run_id)
    return await asyncio.wrap_future(in_own_thread(threads_of, journal, grants, waits, decisions, state))


async def read_markdown(
    ledger: Ledger,
    run_id: str,
    state: str = RunState.RUNNING,
    *,
    error: str | None = None,
    tasks: Mapping[str, str] | None = None,
) -> str:
    """Each thread of a run ``as_markdown``, in a thread as well; empty if there is nothing to tell.

    ``state``: where the run is, or is about to be. ``error``: what it fails with. ``tasks``: by the keys of its agents
    what they were given, for those that no model has answered yet.
    """
    journal, grants = await ledger.checkpoints.journal(run_id), await ledger.grants.of_run(run_id)
    waits, decisions = await ledger.waits.of_run(run_id), await ledger.waits.decisions_of(run_id)

    def write() -> str:
        threads = threads_of(journal, grants, waits, decisions, state)
        told = [as_markdown(thread) for thread in threads]
        begun = {thread["agent"] for thread in threads}
        if error is not None:
            told += [_unanswered(name, task) for name, task in (tasks or {}).items() if name not in begun]
            if told:
                told.append(f"**The run failed:**\n\n{quoted(_cut(redacted_text(error)))}")
        return "\n\n".join(told)

    return await asyncio.wrap_future(in_own_thread(write))


def threads_of(
    journal: Iterable[Entry],
    grants: Iterable[Any] = (),
    waits: Iterable[Any] = (),
    decisions: Iterable[Any] = (),
    state: str = RunState.RUNNING,
) -> list[dict[str, Any]]:
    """Each ``run_agent`` of a run, in order; with the grants, waits, decisions and the state of the run.

    Each: ``agent`` (its key), ``task``, ``turns``, ``ended`` (with an output, or at a limit), ``stopped``, ``why``,
    ``failed`` (the error that it ended by, where the run has gone on), ``requests``, ``tool_calls``, ``tokens``,
    ``money`` (US dollars, None if a price is missing), ``seconds`` at work. Each turn: ``turn``, ``said``, ``changed``
    (what was another than before), ``calls``; each call: ``tool``, ``arguments`` (as the model gave them), ``outcome``,
    ``result``, ``approved_by``, ``refused_by``, ``answered_by`` (of what the tool has asked), ``changed_to`` (the
    arguments it was made with, if who approved it has changed them).

    ``outcome`` is what the model was told (``success``, ``retried``, ``failed``, ``denied``), ``the output``, or where
    there is nothing to tell: what the call waits for; ``under way`` while the run is at work; ``not done yet`` while it
    is not, ``not done`` when it or the agent has ended, after ``begun,`` where the call has left a trace; ``cut off``
    by a hook; ``ended by an error``; ``over`` where that is all that is known.
    """
    entries, waits = {entry.key: entry for entry in journal}, list(waits)
    asked = {wait.id: wait for wait in waits}
    approved = {grant.key: _Approved(grant, asked.get(grant.wait_id)) for grant in grants}
    run = _Run(entries, approved, Questions(waits, decisions), state, _above(entries))
    names = [key for key in entries if f"{key}/1.model" in entries]
    # One that is a tool of another has no position, and comes after it.
    names.sort(key=lambda name: (entries[name.split("/")[0]].position or 0, name))
    return [_thread(name, run) for name in names]


class _Approved(NamedTuple):
    """What people approved of a call (``grants``), and the wait in which they did."""

    grant: Any
    wait: Any

    @property
    def by(self) -> str:
        return somebody([self.grant.approver], self.grant.door)

    def changed_to(self, ordinal: int) -> dict[str, Any] | None:
        """The arguments that people gave for this call of an answer; None where they are the model's."""
        if self.wait is None or not self.wait.fresh or not self.wait.answer:
            return None
        shown = json.loads(self.wait.fresh)
        numbers = [call[0] for call in shown]  # the tools' names, in waits of before calls were numbered
        if len(shown) > 1 and ordinal not in numbers:
            return None
        at = numbers.index(ordinal) if len(shown) > 1 else 0
        answer = form_of([call[-4] for call in shown]).model_validate_json(self.wait.answer)
        was_changed = "changed" in shown[at][1:-4]  # before it was asked about there
        return said_of(answer, len(shown))[at].arguments or (shown[at][-3] if was_changed else None)


_NO_CALL = ("denied", "unapproved", "parked", "unanswered")
"""Results of what counts as no call, but for what it has cost: ``records.NO_CALL``, which takes the models' library."""


class _Run(NamedTuple):
    """What is known of a run. ``begun``: the keys below which there are others."""

    entries: Mapping[str, Entry]
    approved: Mapping[str, _Approved]
    questions: Questions
    state: str
    begun: set[str]


def _above(keys: Iterable[str]) -> set[str]:
    above: set[str] = set()
    for key in keys:
        while (key := key.rpartition("/")[0]) and key not in above:
            above.add(key)
    return above


def _thread(name: str, run: _Run) -> dict[str, Any]:
    entries = run.entries
    turns: list[dict[str, Any]] = []
    while (entry := entries.get(f"{name}/{len(turns) + 1}.model")) and entry.state == CheckpointState.RECORDED:
        turns.append(_value(entry) or _ELSEWHERE)
    answers = {
        (number, part.get("tool_call_id")): part
        for number, turn in enumerate(turns)
        for message in turn["messages"][:-1]
        for part in message["parts"]
        if part.get("part_kind") in ("tool-return", "retry-prompt")
    }
    shown = []
    for number, turn in enumerate(turns, start=1):
        parts = turn["messages"][-1]["parts"]
        calls = [part for part in parts if part.get("part_kind") == "tool-call"]
        shown.append(
            {
                "turn": number,
                "said": "\n".join(redacted_text(_text(part)) for part in parts if _text(part)),
                "changed": turn.get("changed") or [],
                "calls": [
                    _call(
                        run, name, (number, len(turns)), ordinal, part, answers.get((number, part.get("tool_call_id")))
                    )
                    for ordinal, part in enumerate(calls, start=1)
                ],
            }
        )
    outcomes = [
        outcome
        for key, entry in entries.items()
        if key.startswith(f"{name}/") and "/" not in (rest := key.removeprefix(f"{name}/"))
        if rest.split(".")[1:2] != ["model"]
        if isinstance(outcome := _value(entry), dict) and outcome.get("result") is not None
    ]
    calls = [outcome for outcome in outcomes if outcome["result"] not in _NO_CALL]
    ending = entries.get(f"{name}/end")
    end = _value(ending) or {}
    failed = ending.value if ending is not None and ending.state == CheckpointState.FAILED else None
    # Turns of old journals have no count of what is unpriced.
    unpriced = any(turn.get("money") is None for turn in turns) or any(
        item.get("unpriced") for item in [*turns, *outcomes]
    )
    return {
        "agent": name,
        "task": redacted_text(_task(turns)),
        "turns": shown,
        "ended": bool(end),
        "stopped": end.get("stopped"),
        "why": end.get("why") or "",
        "failed": redacted_text(json.loads(failed)["message"]) if failed is not None else None,
        "requests": len(turns) + sum(item.get("requests") or 0 for item in outcomes),
        "tool_calls": len(calls) + sum(item.get("inner") or 0 for item in outcomes),
        "tokens": sum(item.get("tokens") or 0 for item in [*turns, *outcomes]),
        "money": None
        if unpriced
        else str(sum((Decimal(item.get("money") or 0) for item in [*turns, *outcomes]), Decimal(0))),
        "seconds": round(sum(item.get("seconds") or 0 for item in [*turns, *outcomes]), 3),
    }


def _call(
    run: _Run,
    name: str,
    number: tuple[int, int],
    ordinal: int,
    part: dict[str, Any],
    answer: dict[str, Any] | None,
) -> dict[str, Any]:
    """A call of a turn with this number, of so many turns."""
    turn = f"{name}/{number[0]}"
    key = f"{turn}.{ordinal}." + "".join(char if char not in "#/?" else ":" for char in part["tool_name"])
    keys = f"{key}.approved", key
    agreed = run.approved.get(keys[0])
    outcome = next((found for one in keys if (found := _value(run.entries.get(one)))), None)
    refused = run.questions.refusal(turn, ordinal)
    if answer is not None:
        said, result = answer.get("outcome") or "success", unmarked(answer.get("content"))
    elif outcome is not None and outcome["result"] not in ("unapproved", "deferred"):
        said = {"returned": "success", "retry": "retried"}.get(outcome["result"], outcome["result"])
        result = outcome["message"] or unmarked(outcome["value"])
    elif any(one in run.entries and run.entries[one].state == CheckpointState.FAILED for one in keys):
        said, result = "ended by an error", None
    elif number[0] < number[1] or (outcome is None and any(one in run.entries for one in keys)):
        said, result = "over", None  # what it came to was taken out of the conversation, or cannot be read
    else:
        said, result = _so_far(run, name, turn, ordinal, keys), None
        if said == "denied" and refused is not None:
            result = refused.reason or None
    arguments = part.get("args")
    if isinstance(arguments, str):
        with suppress(*_UNREADABLE):
            arguments = json.loads(arguments)
    return {
        "tool": redacted_text(part["tool_name"]),
        "arguments": redacted(arguments),
        "outcome": said,
        "result": redacted(result),
        "approved_by": agreed.by if agreed is not None else None,
        "refused_by": refused.by if refused is not None else None,
        "answered_by": run.questions.answered_by(turn, ordinal, keys),
        "changed_to": redacted(agreed.changed_to(ordinal)) if agreed is not None else None,
    }


def _so_far(run: _Run, name: str, turn: str, ordinal: int, keys: Sequence[str]) -> str:
    """How far a call of the last answer is, of which the model has not been told what it came to."""
    ending = run.entries.get(f"{name}/end")
    ended = ending is not None or run.state in ENDED
    if not ended and (waits := run.questions.waits_for(turn, ordinal, keys)) is not None:
        return waits
    if run.questions.refusal(turn, ordinal) is not None:
        return "denied"
    end = _value(ending) or {}
    if end.get("output") == ordinal:
        return "the output"
    if end and not end.get("stopped") and end.get("output") is None:
        return "over"  # of before it was kept which call is the output
    if not ended and run.state == RunState.RUNNING:
        return "under way"
    tried = list(takewhile(run.entries.__contains__, (f"{turn}.tried.{ordinal}.{number}" for number in count(1))))
    if ended and tried and (_value(run.entries[tried[-1]]) or {}).get("result") == "failed":
        return "ended by an error"
    begun = tried or any(key in run.entries or key in run.begun for key in keys)
    return f"{'begun, ' if begun else ''}not done{'' if ended else ' yet'}"


def _value(entry: Entry | None) -> Any | None:
    """The JSON value of a checkpoint; None where it is not recorded, is so large that it is kept elsewhere, or cannot
    be read."""
    if entry is None or entry.state != CheckpointState.RECORDED or entry.value is None:
        return None
    with suppress(*_UNREADABLE):
        return json.loads(entry.value)
    return None


def _text(part: dict[str, Any]) -> str:
    return str(part.get("content") or "") if part.get("part_kind") == "text" else ""


def _task(turns: list[dict[str, Any]]) -> str:
    for message in turns[0]["messages"] if turns else ():
        for part in message["parts"]:
            if part.get("part_kind") == "user-prompt":
                content = part["content"]
                return content if isinstance(content, str) else json.dumps(content)
    return ""


def as_markdown(thread: dict[str, Any]) -> str:
    """One thread as Markdown that shows what models and tools said, and obeys none of it."""
    lines = [f"# {as_text(thread['agent'])}", ""]
    if thread["task"]:
        lines += [quoted(_cut(thread["task"])), ""]
    for turn in thread["turns"]:
        lines += [f"## Turn {turn['turn']}", ""]
        if turn["changed"]:
            lines += [f"Changed since the turn before: {as_text(', '.join(turn['changed']))}", ""]
        if turn["said"]:
            lines += [quoted(_cut(turn["said"])), ""]
        for call in turn["calls"]:
            who = (f", {did} by {as_text(by)}" for did in _DID if (by := call[f"{did}_by"]))
            lines += [f"**{as_text(call['tool'])}**: {as_text(call['outcome'])}{''.join(who)}", ""]
            lines += [quoted(_shown(call["arguments"])), ""]
            if call["changed_to"] is not None:
                lines += [f"Changed by {as_text(call['approved_by'])} to:", "", quoted(_shown(call["changed_to"])), ""]
            if call["result"] is not None:
                lines += [quoted(_shown(call["result"])), ""]
    if thread["stopped"]:
        lines += [f"Stopped by its scope ({as_text(thread['stopped'])}): {as_text(thread['why'])}", ""]
    if thread["failed"] is not None:
        lines += ["Ended by an error:", "", quoted(_cut(thread["failed"])), ""]
    money = "of unknown price" if thread["money"] is None else f"${thread['money']}"
    lines.append(
        f"{thread['requests']} model requests, {thread['tool_calls']} tool calls, {thread['tokens']:,} tokens, "
        f"{money}, {thread['seconds']} s at work"
    )
    return "\n".join(lines)


def _unanswered(name: str, task: str) -> str:
    """Of an agent that no model has answered yet."""
    return f"# {as_text(name)}\n\n{quoted(_cut(redacted_text(task)))}\n\nNo model request was done."


def _shown(value: Any) -> str:
    return _cut(value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False))


def _cut(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text):,} characters)"
