"""What a model may answer, made fit to be kept and told apart."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from pydantic_ai.messages import ModelResponse, ToolCallPart

from standby.agents.canonical import DEEPEST, is_deeper

_UNSTORABLE = re.compile("[\ud800-\udfff]")
_SANE_ID = re.compile(r"[!-~]{1,128}")


def tidy(response: ModelResponse, turn: int) -> ModelResponse:
    """The response with ids of tool calls that are different from each other, without half characters, and without
    arguments that are nested more than ``DEEPEST`` deep.

    Calls are found again by their ids within one answer: one that is repeated or absurd becomes ``call-TURN-ORDINAL``.
    """
    given = {getattr(part, "tool_call_id", None) for part in response.parts}
    seen: set[str] = set()
    parts: list[Any] = []
    calls = 0
    for part in response.parts:
        if isinstance(part, ToolCallPart):
            calls += 1
            if part.tool_call_id in seen or _SANE_ID.fullmatch(part.tool_call_id or "") is None:
                new = f"call-{turn}-{calls}"
                while new in given:
                    new += "-"
                part = replace(part, tool_call_id=new)
            seen.add(part.tool_call_id)
            part = replace(part, args=_arguments(part.args), tool_name=whole(part.tool_name))
        elif isinstance(content := getattr(part, "content", None), str):
            part = replace(part, content=whole(content))
        parts.append(part)
    return replace(response, parts=parts)


def _arguments(given: Any) -> Any:
    """Where they are too deep a text that is no JSON, so that the model is told, as of any that cannot be read."""
    return f"nested more than {DEEPEST} deep" if is_deeper(given, DEEPEST) else whole(given)


def whole(value: Any) -> Any:
    """A JSON value without halves of characters, which cannot be stored."""
    if isinstance(value, str):
        return value if value.isascii() else _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {whole(key): whole(item) for key, item in value.items()}
    return [whole(item) for item in value] if isinstance(value, list) else value
