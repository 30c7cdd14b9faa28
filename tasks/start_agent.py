"""Tool: have another agent do a part of the work, and wait for its result."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from standby import AgentFailed, AgentFinished, WaitTimedOut, wait_for
from tasks.errors import ToolFailed, ToolRefused


class AgentResult(BaseModel):
    """What the other agent returned, as JSON."""

    deployment: str
    result: Any


async def start_agent(
    deployment: str,
    parameters: Mapping[str, Any],
    *,
    deployments: Sequence[str],
    within: timedelta = timedelta(days=7),
) -> AgentResult:
    """Start ``deployment`` (``flow/name``) with ``parameters``, once, and park until it ends.

    ``deployments``: those that may be started; none by an empty list. ``within``: how long it may take; then it is
    cancelled. To be called where an agent may wait: not in a step.
    Raises ToolRefused (it may not be started) or ToolFailed (it failed, was cancelled or took too long).
    """
    if deployment not in deployments:
        allowed = ", ".join(deployments) or "none"
        raise ToolRefused(deployment, "this agent may not be started", f"Those that may: {allowed}.")
    try:
        result: Any = await wait_for(AgentFinished(deployment, dict(parameters), within=within))
    except AgentFailed as error:
        raise ToolFailed(deployment, str(error)) from None
    except WaitTimedOut:
        raise ToolFailed(deployment, f"it did not end within {within}") from None
    return AgentResult(deployment=deployment, result=result)
