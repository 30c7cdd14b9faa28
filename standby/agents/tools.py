"""Tools that wait, and the tool that asks a person."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import BaseModel, Field
from pydantic_ai import ModelRetry
from pydantic_ai.tools import Tool
from pydantic_ai.toolsets import ToolsetTool

from standby.errors import UsageError, WaitTimedOut
from standby.policy import Policy
from standby.states import Effect
from standby.steps import Step
from standby.waiting import wait_for
from standby.waits import Approval, quoted

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__standby_waits__"


def waits(function: F) -> F:
    """Mark a tool that waits, or has steps of its own: it runs as a part of the agent's code, not as one step.

    Put it below ``@agent.tool``. After a wake it is called again from its first line, as the agent is, with what its
    steps and waits have returned before. It runs in the agent's own task, one at a time. A ``@step`` needs no mark: as
    a tool it keeps its own ``effect``, ``probe`` and retries.
    """
    setattr(function, _MARK, True)
    return function


def runs_in_own_task(tool: ToolsetTool[Any]) -> bool:
    """Whether a tool runs as a part of the agent's code."""
    schema = _schema_of(tool)
    if is_step(tool):
        # pydantic-ai takes an object that is called for a function that blocks, and would give it to a thread.
        schema.is_async = True
        return True
    return bool(getattr(getattr(schema, "function", None), _MARK, False))


def is_step(tool: ToolsetTool[Any]) -> bool:
    """Whether a tool is one ``@step``."""
    return isinstance(getattr(_schema_of(tool), "function", None), Step)


def acts_once(tool: ToolsetTool[Any]) -> bool:
    """Whether a tool is one ``@step(effect="once")``."""
    return is_step(tool) and _schema_of(tool).function.options.effect is Effect.ONCE


def cut_off_after(tool: ToolsetTool[Any]) -> float | None:
    """After how many seconds pydantic-ai cuts the tool off, and tells the model so."""
    limit = tool.tool_def.timeout
    return limit if limit is not None else getattr(_innermost(tool).toolset, "timeout", None)


def _schema_of(tool: ToolsetTool[Any]) -> Any:
    return getattr(getattr(_innermost(tool), "call_func", None), "__self__", None)


def _innermost(tool: ToolsetTool[Any]) -> Any:
    inner: Any = tool
    while (source := getattr(inner, "source_tool", None)) is not None:
        inner = source
    return inner


class Reply(BaseModel):
    """The answer to a question in words."""

    answer: str = Field(title="Answer", min_length=1)


def ask_human(
    of: type[BaseModel] = Reply,
    *,
    party: str | None = None,
    policy: Policy | None = None,
    within: timedelta | None = None,
    name: str = "ask_human",
) -> Tool[Any]:
    """A tool with which the model asks a person, who answers with ``of`` (a Pydantic model; by default words).

    ``party``, ``policy`` and ``within`` as for ``Approval``. If nobody answers within that time the model is told so.
    """
    if not issubclass(of, BaseModel):
        raise UsageError(f"ask_human(of=...) takes a Pydantic model, the form of the answer, not {of!r}.")

    @waits
    async def ask(question: str) -> Any:
        """Ask a person. Use it when you cannot find out by yourself, or when the decision is not yours.

        Args:
            question: The whole question, with all that is needed to answer it.
        """
        if not question.strip():
            raise ModelRetry("The question is empty.")
        shown = question.replace("\0", "\ufffd")
        title = " ".join(shown.split())[:200]
        try:
            answer = await wait_for(
                Approval(title, form=of, show=quoted(shown), party=party, policy=policy, within=within)
            )
        except WaitTimedOut:
            return "Nobody answered in time."
        return answer.answer if isinstance(answer, Reply) else answer

    return Tool(ask, name=name, takes_ctx=False)
