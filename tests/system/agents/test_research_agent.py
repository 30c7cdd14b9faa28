"""The research agent as it is deployed: blocks from the server, no network, its own process for each stretch."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from blocks.workspace import Workspace
from tasks.research_script import NAME
from tests.system.runs import Runs

pytestmark = pytest.mark.xdist_group("agents")  # one `standby up` for all of them

WEEKLY = "research-agent/weekly-brief"


async def test_the_weekly_brief_is_written_once_it_is_signed_off(runs: Runs, tmp_path: Path) -> None:
    """By the script, which it says; the party has no channel here, which the agent is told and tells."""
    with temporary_settings({PREFECT_API_URL: runs.project.api_url}):
        await Workspace(reports_folder=str(tmp_path)).asave("default", overwrite=True)
    found = await runs.client.read_deployment_by_name(WEEKLY)
    [schedule] = found.schedules
    assert schedule.active
    run = await runs.start(WEEKLY)
    await runs.waits(run)
    assert list(tmp_path.iterdir()) == [], "nothing is written before"
    answered = await runs.answer(run, by="the editor", approved=True)
    assert answered.won
    done = await runs.receipt(run)
    assert (done["model"], done["stopped"]) == (NAME, None)
    [written] = (tmp_path / "briefs").iterdir()
    assert "weekly-brief.md" in written.read_text(), "the sample documents were searched"
    assert "this party has no channel" in done["brief"]["text"]
