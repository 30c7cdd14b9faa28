"""What the Prefect server knows of task runs. It learns of them from events, long after the client has moved on."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import httpx
from prefect.settings import PREFECT_API_URL

SERVER_SECONDS = 300.0
"""How long the server may take to work off the events of the task runs; 18 ms each on an idle machine."""

STEADY_SECONDS = 1.5
"""How long a count must stay the same to be the last."""


async def last_count(run_id: UUID | None = None, *, at_least: int = 1) -> int:
    """The number of task runs (of a flow run, or all) once it is at least so many and grows no more."""
    query: dict[str, Any] = {"flow_runs": {"id": {"any_": [str(run_id)]}}} if run_id else {}
    counts = [-1]
    async with asyncio.timeout(SERVER_SECONDS), httpx.AsyncClient(timeout=SERVER_SECONDS) as client:
        while counts[-1] < at_least or counts[-1] != counts[-2]:
            answer = await client.post(f"{PREFECT_API_URL.value()}/task_runs/count", json=query)
            if answer.is_success:  # while it is busy it may answer that it is
                counts.append(int(answer.json()))
            await asyncio.sleep(STEADY_SECONDS if counts[-1] >= at_least else 0.5)
    return counts[-1]
