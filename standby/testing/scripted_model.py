"""A model that answers by a script: for tests and demonstrations without a network. No language model is behind it.

It says so wherever it shows: its name begins with ``scripted``, and so do its calls' ids. Which turn it is at it counts
in the messages it is given, so a run that was interrupted and goes on gets the answers it would have got.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pydantic_ai.messages import ModelMessage, ModelResponse, ModelResponsePart, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from standby.errors import UsageError


@dataclass(frozen=True)
class Call:
    """The model asks for a tool. ``arguments``: by name, or text, which need not be JSON."""

    tool: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)
    id: str | None = None


@dataclass(frozen=True)
class Final:
    """The model gives its structured output: the fields of the output type, by name."""

    output: Mapping[str, Any]


Said: TypeAlias = str | Call | Final | ModelResponse | Sequence[str | Call]
"""One turn: a text, a call, several of them, the output, or a response as it is."""
Turn: TypeAlias = Said | Callable[[list[ModelMessage], AgentInfo], Said | Awaitable[Said]]
"""A turn, or a function from what was said so far."""


def scripted(*turns: Turn, name: str = "scripted") -> FunctionModel:
    """A model whose first answer is the first turn, and so on.

    Raises ``UsageError`` for a name that does not begin with ``scripted``, and, when asked, once the script is over.
    """
    if not name.startswith("scripted"):
        raise UsageError(f"A scripted model's name begins with 'scripted', which {name!r} does not.")

    async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        at = sum(isinstance(message, ModelResponse) for message in messages)
        if at >= len(turns):
            raise UsageError(f"The script of the model {name!r} has {len(turns)} turns, and one more was asked for.")
        turn = turns[at]
        said: Any = turn(messages, info) if callable(turn) else turn
        if inspect.isawaitable(said):
            said = await said
        return _response(said, at, info)

    return FunctionModel(answer, model_name=name)


def _response(said: Said, at: int, info: AgentInfo) -> ModelResponse:
    if isinstance(said, ModelResponse):
        return said
    pieces = [said] if isinstance(said, str | Call | Final) else said
    return ModelResponse(parts=[_part(piece, f"scripted-{at + 1}-{place}", info) for place, piece in enumerate(pieces)])


def _part(said: str | Call | Final, call_id: str, info: AgentInfo) -> ModelResponsePart:
    if isinstance(said, str):
        return TextPart(said)
    if isinstance(said, Call):
        arguments = said.arguments if isinstance(said.arguments, str) else dict(said.arguments)
        return ToolCallPart(said.tool, arguments, tool_call_id=said.id or call_id)
    if not info.output_tools:
        raise UsageError("The script gives a structured output, and the agent takes none as a tool's arguments.")
    return ToolCallPart(info.output_tools[0].name, dict(said.output), tool_call_id=call_id)
