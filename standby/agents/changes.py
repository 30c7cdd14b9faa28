"""Whether an agent is made of something else than before it waited, or than in an earlier attempt.

Each model request says all of it. Where the agent must not go on with other parts (``on_change="stop"``), calls that
its last answer asks for would act before there is another request. So it is looked at before they do: an attempt goes
through that request once more, without asking the model, and what can become another while the attempt itself waits
are the scope, which is read again then, and what toolsets list, such as those of another server.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_ai.messages import ToolCallPart
from pydantic_ai.models import ModelRequestContext
from pydantic_ai.toolsets import ToolsetTool

from standby.agents.parts import parts_of
from standby.agents.permissions import may_be_called
from standby.agents.scope import AgentScope
from standby.errors import ScopeStopped

if TYPE_CHECKING:
    from standby.agents.thinking import Thinking

log = logging.getLogger("standby.agents")

Tools = Mapping[str, ToolsetTool[Any]]


@dataclass(frozen=True)
class Listed:
    """What the toolsets of the agent had for this turn, after the attempt had waited so long. ``again``: list it."""

    tools: Tools
    waited: float
    again: Callable[[], Awaitable[Tools]]


def look_for_changes(thinking: Thinking, request: ModelRequestContext) -> tuple[dict[str, str] | None, list[str]]:
    """What the agent is made of, where that is new, and what of it is another than before the last wait or crash.

    Raises ``ScopeStopped`` where the agent must not go on with it.
    """
    thread = thinking.thread
    thinking.compared_at = thread.run.paused_seconds
    may_have, thinking.may_have_changed = thinking.may_have_changed, False
    if not may_have and thinking.on_change != "stop":
        return None, []
    parts, before = parts_of(request, thinking.scope), thread.parts
    if parts == before:
        return None, []
    thread.parts = parts
    if before is None or not may_have:  # without a wait it is as the code of the agent has it
        return parts, []
    changed = _differing(parts, before)
    if thinking.on_change == "stop":
        raise _stopped(thinking, changed)
    log.warning("Run %s: agent %s goes on with other parts: %s", thread.run.id, thread.name, changed)
    return parts, changed


async def stop_before_calls(thinking: Thinking, calls: Sequence[ToolCallPart]) -> None:
    """Before any of these, which are not done yet, is asked about or acts. Raises as ``stop_if_changed``."""
    assert thinking.request is not None
    outputs = {tool.name for tool in thinking.request.model_request_parameters.output_tools}
    if thinking.thread.ending is None and any(call.tool_name not in outputs for call in calls):
        await stop_if_changed(thinking)


async def stop_if_changed(thinking: Thinking) -> None:
    """Directly before a call acts, once after each wait. Raises ``ScopeStopped`` where the agent must not go on."""
    thread, request = thinking.thread, thinking.request
    waited = thread.run.paused_seconds
    if thinking.on_change != "stop" or thinking.compared_at == waited or request is None or thread.parts is None:
        return
    changed = _differing(parts_of(request, thinking.scope), thread.parts)
    if thinking.listed is not None and thinking.listed.waited != waited:
        now, then = (_said(one, thinking.scope) for one in (await thinking.listed.again(), thinking.listed.tools))
        changed += [f"tool {name}" for name in _differing(now, then)]
    if changed:
        raise _stopped(thinking, sorted(set(changed)))
    thinking.compared_at = waited
    if not waited:
        thinking.may_have_changed = False  # what this attempt shows in its turns is as the code of the agent has it


def _said(tools: Tools, scope: AgentScope) -> dict[str, Any]:
    """What a model is told of each that the scope does not deny."""
    return {
        name: (one.tool_def.description, one.tool_def.parameters_json_schema)
        for name, one in tools.items()
        if may_be_called(scope, name)
    }


def _differing(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in {*now, *before} if now.get(name) != before.get(name))


def _stopped(thinking: Thinking, changed: Sequence[str]) -> ScopeStopped:
    thinking.stopped = ScopeStopped(
        thinking.thread.name,
        "change",
        f"{', '.join(changed)} changed, and it must not go on then",
        "Put back what changed, or take on_change='stop' off run_agent, and retry the run.",
    )
    return thinking.stopped
