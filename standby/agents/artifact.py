"""The transcript of a run's agents as a Markdown artifact in Prefect: written when the run parks, and when it ends."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast
from uuid import UUID

from prefect.client.schemas.actions import ArtifactCreate
from prefect.context import FlowRunContext

from standby.agents.transcript import read_markdown
from standby.runs import AgentRun

log = logging.getLogger("standby.agents")

WITHIN_SECONDS = 5.0
"""How long a run waits for Prefect to take its transcript. It is a view: the journal has everything."""


class Artifact:
    """Writes the transcript again when there is something new to tell."""

    def __init__(self, run: AgentRun) -> None:
        self._run = run
        self._told = ""

    async def write(self) -> None:
        run, context = self._run, FlowRunContext.get()
        if context is None:
            return
        text = await read_markdown(run.ledger, run.id)
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


def keep_transcript(run: AgentRun) -> None:
    """Have the run's transcript written whenever this attempt parks or ends."""
    if "transcript" not in run.leaving:
        run.leaving["transcript"] = Artifact(run).write
