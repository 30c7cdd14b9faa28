"""From what a tool does to what the journal keeps of it, and from there to what pydantic-ai is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic_ai.exceptions import ApprovalRequired, CallDeferred, ModelRetry, ToolFailed
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    ToolCallPart,
    ToolReturn,
    ToolReturnPart,
    UserPromptPart,
    is_multi_modal_content,
)
from pydantic_ai.tools import ToolDenied
from pydantic_core import PydanticSerializationError, to_jsonable_python

from standby.agents.records import Outcome, Result
from standby.agents.responses import whole
from standby.errors import NotStorable
from standby.values import summary


async def outcome_of(what: str, act: Callable[[], Awaitable[Any]]) -> Outcome:
    """Call a tool. What it says by raising is an outcome, too; any other error is an error.

    Raises ``NotStorable`` naming ``what`` for a result that is no JSON value.
    """
    try:
        outcome = _returned(what, await act())
    except ModelRetry as error:
        outcome = Outcome(result=Result.RETRY, message=whole(error.message))
    except ToolFailed as error:
        outcome = Outcome(result=Result.FAILED, message=whole(error.message))
    except CallDeferred as error:
        question = error.kind == "question"
        outcome = Outcome(result=Result.DEFERRED, metadata=_json(what, error.metadata), question=question)
    except ApprovalRequired as error:
        outcome = Outcome(result=Result.UNAPPROVED, metadata=_json(what, error.metadata))
    return outcome


def _returned(what: str, value: Any) -> Outcome:
    if isinstance(value, ToolDenied):
        return Outcome(result=Result.DENIED, message=value.message)
    if not isinstance(value, ToolReturn):
        return Outcome(result=Result.RETURNED, value=_plain(what, value))
    content = value.content if value.content is None or isinstance(value.content, str) else list(value.content)
    if content is not None:
        UserPromptPart(content)  # raises ValueError for what is none: data that looks like a file would become one
    return Outcome(
        result=Result.RETURNED,
        value=_plain(what, value.return_value),
        content=content,
        metadata=_json(what, value.metadata),
        tools=value.tools,
    )


def _plain(what: str, value: Any) -> Any:
    """JSON values, and the pictures and files among them as they are."""
    try:
        return _with_files(what, value)
    except RecursionError as error:
        raise NotStorable(what, "it holds itself, or is nested too deep") from error


def _with_files(what: str, value: Any) -> Any:
    if is_multi_modal_content(value):
        return value
    if isinstance(value, list | tuple):
        return [_with_files(what, item) for item in value]
    if isinstance(value, dict):
        return {str(key): _with_files(what, item) for key, item in value.items()}
    return whole(_json(what, value))


def _json(what: str, value: Any) -> Any:
    try:
        return to_jsonable_python(value)
    except (PydanticSerializationError, ValueError, RecursionError) as error:  # ValueError: it holds itself
        raise NotStorable(what, summary(error)) from error


def told(outcome: Outcome) -> Any:
    """What a tool that came to this returns or raises."""
    if outcome.result is Result.RETRY:
        raise ModelRetry(outcome.message)
    if outcome.result is Result.FAILED:
        raise ToolFailed(outcome.message)
    if outcome.result is Result.DEFERRED:
        raise CallDeferred(outcome.metadata, kind="question" if outcome.question else "external")
    if outcome.result is Result.UNAPPROVED:
        raise ApprovalRequired(outcome.metadata)
    if outcome.result is Result.DENIED:
        return ToolDenied(outcome.message)
    if outcome.content is None and outcome.metadata is None and outcome.tools is None:
        return outcome.value
    return ToolReturn(outcome.value, content=outcome.content, metadata=outcome.metadata, tools=outcome.tools)


_SAID: dict[Result, Literal["success", "failed", "denied", "retried"]] = {
    Result.RETURNED: "success",
    Result.RETRY: "retried",
    Result.FAILED: "failed",
    Result.DENIED: "denied",
}


_TAKEN = "Final result processed."
"""What pydantic-ai says of the call that it took the output from, and of no other."""


def answered(calls: Sequence[tuple[ToolCallPart, Outcome | None]], why: str, at: datetime) -> ModelRequest:
    """What a model is told of the calls of its last answer, after which its agent was stopped: what each came to; of
    one that came to nothing, ``why``. A conversation that ends so can be gone on with."""
    parts: list[ModelRequestPart] = []
    for call, outcome in calls:
        said = _SAID.get(outcome.result) if outcome is not None else None
        content: Any = f"No result: {why}."
        if outcome is not None and said is not None:
            content = outcome.value if said == "success" else outcome.message
            if outcome.content is not None:
                parts.append(UserPromptPart(outcome.content, timestamp=at))
        part = ToolReturnPart(call.tool_name, content, call.tool_call_id, timestamp=at, outcome=said or "interrupted")
        parts.append(part)
    parts.sort(key=lambda part: isinstance(part, UserPromptPart))
    return ModelRequest(parts, timestamp=at)


def output_call(messages: Sequence[ModelMessage]) -> int | None:
    """The number, from 1, of the call of the last answer that is the agent's output; None if its text is."""
    answer, told = messages[-2:]
    if not isinstance(answer, ModelResponse) or not isinstance(told, ModelRequest):
        return None
    taken = {part.tool_call_id for part in told.parts if isinstance(part, ToolReturnPart) and part.content == _TAKEN}
    numbers = (number for number, call in enumerate(answer.tool_calls, start=1) if call.tool_call_id in taken)
    return next(numbers, None)
