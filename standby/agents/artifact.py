"""The transcript of a run's agents as a Markdown artifact in Prefect: written when the run parks, and when it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID

from prefect.client.schemas.actions import ArtifactCreate
from prefect.context import FlowRunContext
from pydantic_ai.messages import UserContent

from standby.agents.transcript import read_markdown
from standby.runs import AgentRun
from standby.states import RunState

log = logging.getLogger("standby.agents")

WITHIN_SECONDS = 5.0
"""How long a run waits for Prefect to take its transcript. It is a view: the journal has everything."""


class Artifact:
    """Writes the transcript again when there is something new to tell."""

    def __init__(self, run: AgentRun) -> None:
        self._run = run
        self.tasks: dict[str, str] = {}  # what was given to each ``run_agent`` of this attempt, by its key
        self._told = ""

    async def __call__(self) -> None:
        run, context = self._run, FlowRunContext.get()
        if context is None:
            return
        state = RunState.PARKED if not run.over else RunState.COMPLETED if run.error is None else RunState.FAILED
        text = await read_markdown(run.ledger, run.id, state, error=run.error, tasks=self.tasks)
        if not text or text == self._told:
            return
        artifact = ArtifactCreate(
            key=f"transcript-{run.id}", type="markdown", description="What the agents of this run thought and did.",
            data=text, flow_run_id=UUID(run.id),
        )  # fmt: skip
        async with asyncio.timeout(WITHIN_SECONDS):
            # Its types do not tell that this client's methods are coroutines.
            await cast(Any, context.client.create_artifact(artifact))
        self._told = text


def keep_transcript(run: AgentRun, name: str, task: str | Sequence[UserContent]) -> None:
    """Have the run's transcript written whenever this attempt parks or ends: also of this agent, of this key, which
    was given this task."""
    there = run.leaving.get("transcript")
    artifact = there if isinstance(there, Artifact) else Artifact(run)
    run.leaving["transcript"] = artifact
    artifact.tasks[name] = task if isinstance(task, str) else "\n".join(one for one in task if isinstance(one, str))
