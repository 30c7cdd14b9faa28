"""An agent run as a task of the Agent2Agent protocol, in the protocol's JSON: what its client is shown and told.

Plain dictionaries, so that a keeper tells clients without the protocol's package.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any

from standby.callers import Caller, why_not
from standby.ledger.tasks import Found
from standby.states import RunState, WaitKind, WaitState
from standby.view import wait_view

EXACT = 2**53
"""Whole numbers from here on are not what they were after the protocol, whose numbers are floating, has had them."""

DEEPEST = 50
"""How deep a value may be nested; the protocol's own limit is 100, its envelope included."""


class TaskState(StrEnum):
    SUBMITTED = "TASK_STATE_SUBMITTED"  # to be started, or not taken up yet
    WORKING = "TASK_STATE_WORKING"  # also while it waits for what nobody answers
    INPUT_REQUIRED = "TASK_STATE_INPUT_REQUIRED"  # the caller is asked
    AUTH_REQUIRED = "TASK_STATE_AUTH_REQUIRED"  # somebody is asked, who is not the caller
    COMPLETED = "TASK_STATE_COMPLETED"
    FAILED = "TASK_STATE_FAILED"
    CANCELED = "TASK_STATE_CANCELED"


OVER = (TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELED)
AT_REST = (*OVER, TaskState.INPUT_REQUIRED, TaskState.AUTH_REQUIRED)
"""States in which nothing happens until the caller, or somebody else, does something."""

_ENDED = {
    RunState.COMPLETED: TaskState.COMPLETED,
    RunState.FAILED: TaskState.FAILED,
    RunState.CANCELLED: TaskState.CANCELED,
}


def may_see(caller: Caller, found: Found) -> bool:
    return caller.sees_all or found.source in caller.sources


def answerable(found: Found, caller: Caller, delegates: dict[str, str]) -> list[Any]:
    """The open approvals that the caller may answer now."""
    return [wait for wait in asked(found) if why_not(caller, wait, found.decisions, delegates) is None]


def asked(found: Found) -> list[Any]:
    """The open approvals."""
    return [wait for wait in found.waits if wait.kind == WaitKind.APPROVAL and wait.state == WaitState.OPEN]


def task(found: Found, caller: Caller, delegates: dict[str, str], *, artifacts: bool = True) -> dict[str, Any]:
    """The task as this caller sees it."""
    start, run = found.start, found.run
    state, at, parts = _now(found, caller, delegates)
    context_id = (start.context_id if start is not None else None) or found.id
    status: dict[str, Any] = {"state": str(state), "timestamp": _time(at)}
    if parts:
        status["message"] = {
            "messageId": f"{found.id}/{at.timestamp():.6f}",
            "role": "ROLE_AGENT",
            "taskId": found.id,
            "contextId": context_id,
            "parts": parts,
        }
    shown: dict[str, Any] = {"id": found.id, "contextId": context_id, "status": status, "metadata": _metadata(found)}
    if artifacts and run is not None and state is TaskState.COMPLETED:
        result = value_part(json.loads(run.result or "null"))
        shown["artifacts"] = [{"artifactId": "result", "name": "result", "parts": [result]}]
    return shown


def _now(found: Found, caller: Caller, delegates: dict[str, str]) -> tuple[TaskState, datetime, list[dict[str, Any]]]:
    """The state, since when, and what there is to say of it."""
    start, run = found.start, found.run
    if run is None:
        assert start is not None
        if start.ended_as is None:
            return TaskState.SUBMITTED, start.created_at, _said(start.note)
        how = "It ended in Prefect before it began."
        return _ENDED[RunState(start.ended_as)], start.over_at, _said(start.note or how)
    if (ended := _ENDED.get(RunState(run.state))) is not None:
        return ended, run.ended_at, _said(run.error)
    opened = [wait for wait in found.waits if wait.state == WaitState.OPEN]
    if questions := asked(found):
        mine = answerable(found, caller, delegates)
        state = TaskState.INPUT_REQUIRED if mine else TaskState.AUTH_REQUIRED
        return state, max(wait.opened_at for wait in questions), _questions(found, questions, caller, delegates)
    since = run.parked_at if opened else run.started_at
    settled = [wait.settled_at for wait in found.waits if wait.settled_at is not None]
    waits_for = "; ".join(f"It waits for: {wait.reason}" for wait in opened)
    return TaskState.WORKING, max([since or run.started_at, *settled]), _said(waits_for or None)


def _questions(
    found: Found, questions: Iterable[Any], caller: Caller, delegates: dict[str, str]
) -> list[dict[str, Any]]:
    """For people the reasons and the evidence, for programs the forms."""
    parts, forms = [], []
    for wait in questions:
        shown = wait_view(wait, found.decisions)
        refused = f"The last answer did not fit: {wait.refused}" if wait.refused else None
        parts.append({"text": "\n\n".join(filter(None, (wait.reason, refused, wait.evidence)))})
        forms.append(
            {
                "wait_id": wait.id,
                **{
                    name: shown[name] for name in ("key", "reason", "party", "deadline", "decided_by", "so_far", "form")
                },
                "why_not_you": why_not(caller, wait, found.decisions, delegates),
            }
        )
    return [*parts, value_part({"waits": forms})]


def _said(text: str | None) -> list[dict[str, Any]]:
    return [{"text": text}] if text else []


def _metadata(found: Found) -> dict[str, Any]:
    said = {
        "run_id": found.run_id,
        "agent": found.start.deployment if found.start is not None else None,
        "flow": found.run.flow if found.run is not None else None,
    }
    return {name: value for name, value in said.items() if value is not None}


def value_part(value: Any) -> dict[str, Any]:
    """A value as a part of a message: as data, or as JSON text where the protocol would not keep it as it is."""
    if _kept(value):
        return {"data": value, "mediaType": "application/json"}
    return {"text": json.dumps(value), "mediaType": "application/json"}


def _kept(value: Any, depth: int = 0) -> bool:
    if isinstance(value, dict):
        return depth < DEEPEST and all(_kept(key) and _kept(item, depth + 1) for key, item in value.items())
    if isinstance(value, list):
        return depth < DEEPEST and all(_kept(item, depth + 1) for item in value)
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)
    return not isinstance(value, int) or abs(value) < EXACT


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
