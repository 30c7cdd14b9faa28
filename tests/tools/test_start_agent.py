"""Starting another agent: only listed ones, with what is asked of them, and whatever becomes of it is told."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from standby import AgentFailed, AgentFinished, WaitTimedOut
from tasks.errors import ToolFailed, ToolRefused
from tasks.start_agent import start_agent

LISTED = ["research-agent/research"]


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was waited for; a wait ends as the first of these says, which a test appends."""
    waits: list[Any] = []

    async def wait_for(wait: Any) -> Any:
        ending = waits.pop(0)
        waits.append(wait)
        if isinstance(ending, Exception):
            raise ending
        return ending

    monkeypatch.setattr("tasks.start_agent.wait_for", wait_for)
    return waits


async def test_a_listed_agent_is_started_with_its_parameters_and_its_result_comes_back(waited: list[Any]) -> None:
    waited.append({"brief": "done"})
    found = await start_agent(LISTED[0], {"goal": "ferries"}, deployments=LISTED, within=timedelta(days=1))
    [wait] = waited
    assert isinstance(wait, AgentFinished)
    assert wait.child == {"deployment": LISTED[0], "parameters": {"goal": "ferries"}, "if_closed": "cancel"}
    assert (found.deployment, found.result) == (LISTED[0], {"brief": "done"})


@pytest.mark.parametrize("deployment", ["invoice-agent/invoices", "research-agent/other", "", "*", "research-agent"])
async def test_another_is_not_started(waited: list[Any], deployment: str) -> None:
    for listed in (LISTED, []):
        with pytest.raises(ToolRefused, match="may not be started"):
            await start_agent(deployment, {}, deployments=listed)
    assert waited == []


@pytest.mark.parametrize(
    ("ending", "why"),
    [(AgentFailed("run-1", "failed", "boom"), "boom"), (WaitTimedOut("agent", "it to end"), "did not end within")],
)
async def test_what_goes_wrong_with_it_is_told(waited: list[Any], ending: Exception, why: str) -> None:
    waited.append(ending)
    with pytest.raises(ToolFailed, match=why):
        await start_agent(LISTED[0], {}, deployments=LISTED)
