"""From another agent's message to its result: a real agent, with all that it does in Prefect."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from a2a.types import GetTaskRequest
from prefect.client.schemas.objects import StateType
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow_async
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
from pydantic import BaseModel

from standby import Approval, agent, settings, step, wait_for
from standby.states import Role
from tests.gateway.agents_client import asked, client_of, message, send, shown, state
from tests.gateway.conftest import Gate
from tests.gateway.test_agents_in_prefect import prefect_of
from tests.gateway.test_mcp import client_of as tools_of
from tests.gateway.test_mcp import use

# Prefect's engine leaves sockets of its event clients to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:unclosed (<socket\.|transport <_SelectorSocketTransport):ResourceWarning"
)


class Limit(BaseModel):
    approved: bool
    at_most: float


@step(visible=False)
async def look_up(item: str) -> float:
    return 1250.0


@agent
async def shopper(item: str) -> dict[str, Any]:
    price = await look_up(item)
    limit = await wait_for(Approval(f"Buy {item}?", form=Limit, show={"price": price}))
    sure = await wait_for(Approval("Sure?", party="finance"))
    return {"bought": limit.approved and sure.approved, "price": price, "at_most": limit.at_most}


async def test_a_run_is_started_answered_through_both_protocols_and_gives_its_result(
    house: Gate, monkeypatch: pytest.MonkeyPatch, sqlite_url: str
) -> None:
    monkeypatch.setenv("STANDBY_LEDGER_URL", sqlite_url)
    prefect = prefect_of(house)
    flow_id = await prefect.create_flow_from_name(name := f"shopper-{uuid4().hex[:8]}")
    await prefect.create_deployment(flow_id, "live", tags=[settings.AGENT_TAG])

    async def attempt() -> Any:
        """What a worker does with the run."""
        url = str(prefect.api_url)
        with temporary_settings({PREFECT_API_URL: url, PREFECT_LOGGING_TO_API_ENABLED: False}):
            flow_run = await prefect.read_flow_run(UUID(run_id))
            assert flow_run.state is not None
            assert flow_run.state.type is StateType.SCHEDULED
            return await run_flow_async(shopper, flow_run=flow_run, parameters=flow_run.parameters)

    ada = await client_of(house, Role.ADMIN, "ada")
    task = await send(ada, message({"item": "a laptop"}, agent=f"{name}/live"))
    run_id = shown(task)["metadata"]["run_id"]
    with pytest.raises(Pause):
        await attempt()
    task = await ada.get_task(GetTaskRequest(id=task.id))
    [wait] = asked(task)
    assert (state(task), wait["form"]["required"]) == ("input_required", ["approved", "at_most"])
    assert "1250" in task.status.message.parts[0].text
    await send(ada, message({"approved": True, "at_most": 1300}, task=task.id, id="m2"))
    with pytest.raises(Pause):
        await attempt()
    async with tools_of(house, Role.APPROVER, "fin", parties=["finance"]) as tools:
        [question] = (await use(tools, "inspect_run", id=run_id))["asks"]
        assert (question["reason"], question["why_not_you"]) == ("Sure?", None)
        await use(tools, "answer_wait", wait_id=question["wait_id"], answer={"approved": True})
    await attempt()
    task = await ada.get_task(GetTaskRequest(id=task.id))
    assert state(task) == "completed"
    assert shown(task.artifacts[0].parts[0])["data"] == {"bought": True, "price": 1250.0, "at_most": 1300.0}
    decisions = await house.ledger.waits.decisions_of(run_id)
    assert [(one.actor, one.door, one.verdict) for one in decisions] == [("ada", "a2a", "won"), ("fin", "mcp", "won")]
