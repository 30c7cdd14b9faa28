"""What other agents do with runs that Prefect makes: see which agents there are, start, be told, cancel."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from a2a.types import CancelTaskRequest, GetExtendedAgentCardRequest, GetTaskRequest
from a2a.utils.errors import InvalidParamsError, TaskNotCancelableError, UnsupportedOperationError
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled, Suspended

from standby import settings
from standby.gateway.a2a.card import PARAMETERS
from standby.keeper import Keeper
from standby.states import Hold, Role, RunState
from tests.gateway.agents_client import client_of, message, send, shown, state
from tests.gateway.conftest import Gate, opened
from tests.gateway.test_pushes import Client, client, wanted
from tests.ledger.acts import LEASE, ME, approval, open_group

__all__ = ["client"]

SCHEMA = {
    "type": "object",
    "properties": {"goal": {"type": "string"}, "urgent": {"type": "boolean", "default": False}},
    "required": ["goal"],
}


async def deployed(gate: Gate, **how: Any) -> str:
    """A new deployment of an agent, ``flow/name``."""
    name = f"seeker-{uuid4().hex[:8]}"
    prefect = prefect_of(gate)
    how = {"tags": [settings.AGENT_TAG, "demo"], "parameter_openapi_schema": SCHEMA, "description": "Seeks."} | how
    await prefect.create_deployment(await prefect.create_flow_from_name(name), "live", **how)
    return f"{name}/live"


def prefect_of(gate: Gate) -> PrefectClient:
    found: PrefectClient = gate.app.state.inbox.client
    return found


async def run_of(gate: Gate, task_id: str) -> FlowRun:
    [start] = [start for start in await gate.ledger.starts.all() if start.id == task_id]
    return await prefect_of(gate).read_flow_run(UUID(start.run_id))


async def parked_in_both(gate: Gate, flow_run: FlowRun) -> Any:
    """The run as it is once it waits for a person; its wait."""
    run = str(flow_run.id)
    await gate.ledger.runs.claim(
        run, flow="seeker", name="n", deployment_id=str(flow_run.deployment_id), holder=ME, lease=LEASE
    )
    group = await open_group(gate.ledger, [approval()], run=run)
    await gate.ledger.runs.park(run, 1, group.waits[0].group_key, Hold.SUSPEND)
    await prefect_of(gate).set_flow_run_state(flow_run.id, Suspended(), force=True)
    return group.waits[0]


async def test_the_card_names_the_agents_to_who_has_a_key(house: Gate) -> None:
    agent, other = await deployed(house), await deployed(house, tags=["no agent"])
    card = (await house.client.get("/.well-known/agent-card.json", headers=await house.as_(Role.VIEWER))).json()
    skills = {skill["id"]: skill for skill in card["skills"]}
    assert other not in skills
    assert (skills[agent]["description"], skills[agent]["tags"]) == ("Seeks.", ["demo", "standby"])
    [extension] = card["capabilities"]["extensions"]
    assert (extension["uri"], extension["params"][agent]["required"]) == (PARAMETERS, ["goal"])
    public = (await house.client.get("/.well-known/agent-card.json")).json()
    assert agent not in json.dumps(public)
    official = await client_of(house, Role.SENDER)
    extended = await official.get_extended_agent_card(GetExtendedAgentCardRequest())
    assert agent in [skill.id for skill in extended.skills]


@pytest.mark.parametrize("described", [None, "", "None"])
async def test_an_agent_that_nobody_has_described_is_called_by_its_name(house: Gate, described: str | None) -> None:
    """``prefect deploy`` writes "None" where the flow has no docstring."""
    agent = await deployed(house, description=described)
    card = (await house.client.get("/.well-known/agent-card.json", headers=await house.as_(Role.VIEWER))).json()
    assert {skill["id"]: skill["description"] for skill in card["skills"]}[agent] == f"The agent {agent}."


async def test_a_message_starts_a_run_in_prefect_with_its_parameters(house: Gate) -> None:
    """Row 32: also with what looks like a template. Text is the parameter that is left."""
    agent, ada = await deployed(house), await client_of(house, Role.SENDER)
    goal = "{{ 7 * 7 }}"
    said = [
        message({"goal": goal, "urgent": True}, agent=agent, id="a"), message(text=goal, agent=agent, id="b"),
        message({"urgent": True}, text=goal, agent=agent, id="c"),
        message(text=json.dumps({"goal": goal}), agent=agent, id="d"),
    ]  # fmt: skip
    tasks = [await send(ada, one) for one in said]
    assert (await send(ada, said[0])).id == tasks[0].id
    given = [(await run_of(house, task.id)).parameters for task in tasks]
    assert given == [{"goal": goal, "urgent": True}, {"goal": goal}, {"goal": goal, "urgent": True}, {"goal": goal}]
    assert {state(task) for task in tasks} == {"submitted"}


async def test_what_the_agent_does_not_take_is_refused_with_the_field_named(house: Gate) -> None:
    two = await deployed(house, parameter_openapi_schema=SCHEMA | {"required": ["goal", "urgent"]})
    agent, ada = await deployed(house), await client_of(house, Role.SENDER)
    wrong = [
        (message({"goal": 7}, agent=agent), "parameters.goal"),
        (message({"gaol": "x"}, agent=agent), "parameters.gaol"),
        (message({}, agent=agent), "parameters"), (message({"goal": "x"}, agent="nobody/knows"), "deployment"),
        (message(text="x", agent=two), "parts"), (message(text="x", agent="nobody/knows"), "metadata.agent"),
        (message({"goal": "x"}), "metadata.agent"),
    ]  # fmt: skip
    for said, field in wrong:
        with pytest.raises(InvalidParamsError) as refused:
            await send(ada, said)
        data: Any = refused.value.data
        assert [one["field"] for one in data["errors"]] == [field]
    assert await house.ledger.starts.all() == []


async def test_who_started_a_run_cancels_it_before_it_began_and_while_it_waits(house: Gate) -> None:
    """Row 18."""
    agent, ada = await deployed(house), await client_of(house, Role.SENDER, "ada")
    scheduled, waiting = [await send(ada, message({"goal": "x"}, agent=agent, id=name)) for name in "ab"]
    wait = await parked_in_both(house, await run_of(house, waiting.id))
    assert state(await ada.get_task(GetTaskRequest(id=waiting.id))) == "auth_required", "a sender answers nothing"
    for task in (scheduled, waiting):
        assert state(await ada.cancel_task(CancelTaskRequest(id=task.id))) == "canceled"
        flow_run = await run_of(house, task.id)
        assert flow_run.state is not None
        assert flow_run.state.is_cancelled()
    run = await house.ledger.runs.get(wait.run_id)
    assert (run.state, run.error) == (RunState.CANCELLED, "cancelled by ada through a2a")
    assert (await house.ledger.waits.get(wait.id)).state == "closed"
    with pytest.raises(TaskNotCancelableError, match="has ended"):
        await ada.cancel_task(CancelTaskRequest(id=waiting.id))


async def test_what_is_not_theirs_or_cannot_be_cancelled_goes_on(house: Gate) -> None:
    agent = await deployed(house)
    task = await send(await client_of(house, Role.SENDER, "ada"), message({"goal": "x"}, agent=agent))
    approver = await client_of(house, Role.APPROVER, "ada")
    with pytest.raises(UnsupportedOperationError, match="the role approver"):
        await approver.cancel_task(CancelTaskRequest(id=task.id))
    admin = await client_of(house, Role.ADMIN, "root")
    await house.ledger.runs.claim("by-hand", flow="f", name="n", deployment_id=None, holder=ME, lease=LEASE)
    with pytest.raises(TaskNotCancelableError, match="by hand"):
        await admin.cancel_task(CancelTaskRequest(id="by-hand"))
    assert state(await admin.cancel_task(CancelTaskRequest(id=task.id))) == "canceled"


async def test_the_keeper_starts_what_was_taken_while_prefect_was_away_and_tells_the_client(
    house: Gate, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "WAKE_GRACE", timedelta(0))
    agent = await deployed(house)
    async with opened(house.ledger) as away:
        ada = await client_of(away, Role.SENDER, "ada")
        task = await send(ada, message({"goal": "x"}, agent=agent))
        await ada.create_task_push_notification_config(wanted(client, task.id))
        with pytest.raises(Exception, match="has not made the run yet"):
            await ada.cancel_task(CancelTaskRequest(id=task.id))
    url = str(prefect_of(house).api_url)
    keeper = Keeper(house.ledger, lambda: PrefectClient(url))
    assert await keeper.tick()
    flow_run = await run_of(house, task.id)
    assert flow_run.parameters == {"goal": "x"}
    await prefect_of(house).set_flow_run_state(flow_run.id, Cancelled())
    monkeypatch.setattr(settings, "RECONCILE_EVERY", timedelta(0))
    assert await keeper.tick()
    assert await keeper.tick()
    assert client.states == ["submitted", "canceled"]
    assert shown(await (await client_of(house, Role.VIEWER)).get_task(GetTaskRequest(id=task.id)))["metadata"] == {
        "run_id": str(flow_run.id),
        "agent": agent,
    }
