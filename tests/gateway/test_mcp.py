"""Agent runs as tools of another agent, by the protocol's own client."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import httpx2
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from prefect.utilities.callables import parameter_schema

from flows.invoice_agent import invoice_agent
from flows.invoice_sweep import invoice_sweep
from flows.research_agent import research_agent
from standby import Policy
from standby.errors import LedgerUnavailable
from standby.gateway import protocols
from standby.gateway.mcp.tools import TOOLS
from standby.gateway.refusals import UNREACHED
from standby.states import Role, RunState, WaitState
from standby.waits import Decision
from tests.gateway.conftest import Gate, opened
from tests.gateway.test_agents_in_prefect import deployed, parked_in_both, prefect_of
from tests.ledger.acts import answer, approval, claim, parked, signal

FORM = {"answer_type": "standby.waits:Decision", "answer_schema": json.dumps(Decision.model_json_schema())}
BUYER = "buyer/default"


@asynccontextmanager
async def client_of(
    gate: Gate, role: Role, name: str = "ada", *, mode: str = "auto", **key: Any
) -> AsyncIterator[Client]:
    """The official client, with a new key of this role."""
    headers = await gate.as_(role, name, **key)
    transport = httpx2.ASGITransport(gate.app)
    async with httpx2.AsyncClient(transport=transport, headers=headers) as http:
        server = streamable_http_client("http://gateway/mcp", http_client=http)
        async with Client(server, mode=mode) as client:
            yield client


async def use(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """What a tool says; it must not have refused."""
    made = await client.call_tool(tool, arguments)
    assert not made.is_error, made.content
    assert isinstance(made.structured_content, dict)
    assert json.loads(made.content[0].text) == made.structured_content  # type: ignore[union-attr]
    return made.structured_content


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    """Why a tool does not do it."""
    made = await client.call_tool(tool, arguments)
    assert made.is_error, made.content
    return str(made.content[0].text)  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_an_agent_starts_inspects_and_answers_a_run(gate: Gate, mode: str) -> None:
    """As clients of today and of yesterday speak."""
    async with client_of(gate, Role.ADMIN, "root", mode=mode) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == set(TOOLS)
        started = await use(client, "start_run", agent=BUYER, parameters={"n": 3}, request_id="r1")
        assert started["state"] == "submitted"
        assert (await use(client, "start_run", agent=BUYER, parameters={"n": 3}, request_id="r1")) == started
        await gate.ledger.starts.started(started["id"], "run")
        [wait] = (await parked(gate.ledger, [approval(**FORM, evidence="**42 EUR**")])).waits
        [run] = (await use(client, "list_runs"))["runs"]
        assert (run["id"], run["state"], run["agent"]) == (started["id"], "parked", BUYER)
        inspected = await use(client, "inspect_run", id=started["id"])
        [asked] = inspected["asks"]
        assert (asked["wait_id"], asked["form"]["required"], asked["why_not_you"]) == (wait.id, ["approved"], None)
        assert inspected["waits"][0]["evidence"] == "**42 EUR**"
        assert [one["id"] for one in (await use(client, "list_waits"))["waits"]] == [wait.id]
        made = await use(client, "answer_wait", wait_id=wait.id, answer={"approved": True})
        assert (made["run_id"], made["decided"]) == ("run", True)
        assert (await use(client, "answer_wait", wait_id=wait.id, answer={"approved": True}))["decided"], "once more"
        attempt = (await claim(gate.ledger)).attempt
        assert await gate.ledger.runs.end("run", attempt, RunState.COMPLETED, result='{"n": 9007199254740993}')
        assert (await use(client, "inspect_run", id="run"))["result"] == {"n": 2**53 + 1}
    decisions = [one for one in await gate.ledger.waits.decisions_of("run") if one.verdict == "won"]
    assert [(one.actor, one.door) for one in decisions] == [("root", "mcp")]
    assert [one.source for one in await gate.ledger.signals.all()] == ["mcp:root"]
    assert len(await gate.ledger.starts.all()) == 1


def test_a_stranger_is_told_what_each_tool_and_parameter_is() -> None:
    """Also where Python leaves out docstrings."""
    look = (
        "import json; from standby.gateway.mcp.door import _tool; from standby.gateway.mcp.tools import TOOLS; "
        "print(json.dumps([_tool(*one).model_dump(mode='json') for one in TOOLS.items()]))"
    )
    found = subprocess.run([sys.executable, "-OO", "-c", look], capture_output=True, text=True, check=True)
    told = json.loads(found.stdout)
    assert [tool["name"] for tool in told] == list(TOOLS)
    for tool in told:
        assert len(tool["description"] or "") > 30, tool["name"]
        for name, field in tool["input_schema"]["properties"].items():
            assert len(field.get("description") or "") > 20, f"{tool['name']}.{name}"


def test_the_parameters_of_the_agents_that_come_with_the_project_are_described() -> None:
    for flow in (research_agent, invoice_agent, invoice_sweep):
        for name, field in parameter_schema(flow.fn).properties.items():
            assert field.get("description"), f"{flow.name}: {name}"


async def test_waits_are_resources(door: Gate) -> None:
    [wait] = (await parked(door.ledger, [approval(**FORM)])).waits
    async with client_of(door, Role.VIEWER) as client:
        listed = {str(one.uri): one.description for one in (await client.list_resources()).resources}
        assert listed[f"standby://waits/{wait.id}"] == "reason of approval"
        [template] = (await client.list_resource_templates()).resource_templates
        assert template.uri_template == "standby://waits/{wait_id}"
        for uri, pick in (("standby://waits", 0), (f"standby://waits/{wait.id}", None)):
            [content] = (await client.read_resource(uri)).contents
            shown = json.loads(content.text)  # type: ignore[union-attr]
            assert (shown if pick is None else shown[pick])["id"] == wait.id
        for uri in ("standby://waits/none", "standby://else", "file:///etc/passwd", "standby://waits/%00"):
            with pytest.raises(MCPError, match="There is no wait"):
                await client.read_resource(uri)
    async with client_of(door, Role.SENDER) as client:
        assert [str(one.uri) for one in (await client.list_resources()).resources] == ["standby://waits"]
        with pytest.raises(MCPError, match="role sender"):
            await client.read_resource("standby://waits")


MAY = {
    Role.SENDER: {"start_run", "list_runs"},
    Role.VIEWER: {"list_runs", "inspect_run", "list_waits"},
    Role.APPROVER: {"list_runs", "inspect_run", "list_waits", "answer_wait"},
    Role.ADMIN: {"start_run", "list_runs", "inspect_run", "list_waits", "answer_wait"},
}


async def test_a_role_may_do_this_and_nothing_else(door: Gate) -> None:
    """The same roles as everywhere on the gateway; what nobody may see is not there for them."""
    [wait] = (await parked(door.ledger, [approval(**FORM)])).waits
    tries: dict[str, dict[str, Any]] = {
        "start_run": {"agent": BUYER}, "list_runs": {}, "inspect_run": {"id": "run"}, "list_waits": {},
        "answer_wait": {"wait_id": wait.id, "answer": {"approved": True}},
    }  # fmt: skip
    for role in Role:
        async with client_of(door, role, role.value) as client:
            may = {tool for tool, how in tries.items() if not (await client.call_tool(tool, how)).is_error}
            assert may == MAY[role] - ({"answer_wait"} if role is Role.ADMIN else set()), "an approver was first"


async def test_what_is_refused_says_why_and_is_in_the_audit(gate: Gate) -> None:
    """Rows 31 and 58: the run waits on."""
    policy = Policy(approvers=("bob",)).model_dump_json()
    waits = (await parked(gate.ledger, [approval(**FORM, party="finance", policy=policy), signal()])).waits
    async with client_of(gate, Role.VIEWER, "vic") as client:
        why = await refused(client, "answer_wait", wait_id=waits[0].id, answer={"approved": True})
        assert "role viewer" in why
    async with client_of(gate, Role.APPROVER, "ada", parties=["finance"]) as client:
        why = await refused(client, "answer_wait", wait_id=waits[0].id, answer={"approved": True})
        assert "ada is not among bob" in why
        [asked] = (await use(client, "inspect_run", id="run"))["asks"]
        assert asked["why_not_you"] == "ada is not among bob"
        assert "approved" in await refused(client, "answer_wait", wait_id=waits[0].id, answer={"approved": "perhaps"})
        assert "nobody answers" in await refused(client, "answer_wait", wait_id=waits[1].id, answer=1)
        assert "no wait" in await refused(client, "answer_wait", wait_id="none", answer=1)
        assert "no agent run none" in await refused(client, "inspect_run", id="none")
        assert "limit" in await refused(client, "list_runs", limit=0)
        assert "extra" in await refused(client, "list_waits", extra=1)
        with pytest.raises(MCPError, match="no tool 'nothing'"):
            await client.call_tool("nothing", {})
    async with client_of(gate, Role.SENDER) as client:
        assert "deployment" in await refused(client, "start_run", agent="buyer")
        assert "request_id" in await refused(client, "start_run", agent=BUYER, request_id="a\0")
        assert "block" in await refused(client, "start_run", agent=BUYER, parameters={"x": {"$ref": 1}})
        assert "No Prefect server" in await refused(client, "list_agents")
    kept = [(one.actor, one.door, one.verdict) for one in await gate.ledger.waits.decisions_of("run")]
    assert kept == [("vic", "mcp", "refused"), ("ada", "mcp", "refused")]
    assert (await gate.ledger.waits.get(waits[0].id)).state == WaitState.OPEN
    assert await gate.ledger.starts.all() == []


async def test_who_comes_second_is_told_who_was_first(door: Gate) -> None:
    [wait] = (await parked(door.ledger, [approval(**FORM)])).waits
    await answer(door.ledger, wait.id, '{"approved": true}', actor="bob")
    async with client_of(door, Role.APPROVER) as client:
        assert "bob was first" in await refused(client, "answer_wait", wait_id=wait.id, answer={"approved": False})


async def test_a_sender_sees_what_they_have_started_and_nothing_else(door: Gate) -> None:
    await claim(door.ledger)
    async with client_of(door, Role.SENDER, "ada") as ada, client_of(door, Role.SENDER, "bob") as bob:
        mine = await use(ada, "start_run", agent=BUYER)
        assert [one["id"] for one in (await use(ada, "list_runs"))["runs"]] == [mine["id"]]
        assert (await use(bob, "list_runs"))["runs"] == []
        assert (await use(ada, "inspect_run", id=mine["id"]))["state"] == "submitted"
        for client, run in ((bob, mine["id"]), (ada, "run")):
            assert "no agent run" in await refused(client, "inspect_run", id=run)


async def test_agents_are_listed_and_runs_cancelled_in_prefect(house: Gate) -> None:
    agent = await deployed(house)
    async with client_of(house, Role.SENDER, "ada") as client:
        agents = {one["name"]: one for one in (await use(client, "list_agents"))["agents"]}
        assert agents[agent]["parameters"]["required"] == ["goal"]
        assert "parameters.goal" in await refused(client, "start_run", agent=agent, parameters={"goal": 7})
        run = await use(client, "start_run", agent=agent, parameters={"goal": "x"})
        flow_run = await prefect_of(house).read_flow_run(UUID(run["run_id"]))
        assert flow_run.parameters == {"goal": "x"}
        wait = await parked_in_both(house, flow_run)
        assert (await use(client, "cancel_run", id=run["id"]))["state"] == "cancelled"
        assert "has ended" in await refused(client, "cancel_run", id=run["id"])
    assert (await house.ledger.waits.get(wait.id)).state == WaitState.CLOSED
    cancelled = (await prefect_of(house).read_flow_run(flow_run.id)).state
    assert cancelled is not None
    assert cancelled.is_cancelled()


async def test_nobody_comes_in_without_a_good_key(door: Gate) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    for headers in ({}, {"Authorization": "Bearer sb_x"}):
        sent = await door.client.post("/mcp", json=body, headers=headers)
        assert (sent.status_code, "key" in sent.json()["error"]) == (401, True)
    assert (await door.client.get("/mcp")).status_code == 405, "there are no sessions"


CALLS = [
    ("nothing", "{}"), ("tools/call", "{}"), ("tools/call", '{"name": "start_run", "arguments": []}'),
    ("tools/call", '{"name": "inspect_run", "arguments": {"id": "\\u0000"}}'),
    ("tools/call", '{"name": "answer_wait", "arguments": {"answer": NaN}}'),
    ("resources/read", '{"uri": "standby://waits/\\u0000"}'), ("resources/read", '{"uri": 7}'),
]  # fmt: skip
BODIES = [
    b"", b"{", b"\xff", b"[]", b"7", b"[" * 5000, b"{}", b'{"jsonrpc": "2.0", "id": "\\ud800", "method": "ping"}',
    *(f'{{"jsonrpc": "2.0", "id": 1, "method": "{method}", "params": {params}}}'.encode() for method, params in CALLS),
]  # fmt: skip


@pytest.mark.parametrize("version", [None, "2025-06-18", "2026-07-28", "nonsense"])
async def test_no_body_breaks_it(gate: Gate, version: str | None) -> None:
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    headers |= await gate.as_(Role.ADMIN) | ({} if version is None else {"MCP-Protocol-Version": version})
    for body in BODIES:
        sent = await gate.client.post("/mcp", content=body, headers=headers)
        assert sent.status_code < 500, (body, sent.text)
        assert '"code":-32603' not in sent.text.replace(" ", ""), (body, sent.text)
        assert sent.status_code >= 400 or "error" in sent.text or '"isError":true' in sent.text, (body, sent.text)


async def test_a_ledger_that_is_away_is_no_loss(door: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(**_: object) -> None:
        raise LedgerUnavailable("there", "gone")

    async with client_of(door, Role.SENDER) as client:
        monkeypatch.setattr(door.ledger.signals, "deliver", away)
        why = await refused(client, "start_run", agent=BUYER)
    assert why == UNREACHED


async def test_a_gateway_without_the_packages_says_so(door: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_there(name: str) -> Any:
        raise ModuleNotFoundError(
            f"No module named {name}", name=name.removeprefix("standby.gateway.").partition(".")[0]
        )

    monkeypatch.setattr(protocols, "import_module", not_there)
    async with opened(door.ledger) as gate:
        for method, path, extra in (("POST", "/a2a", "a2a"), ("GET", "/.well-known/agent-card.json", "a2a"),
                                    ("POST", "/mcp", "mcp")):  # fmt: skip
            sent = await gate.client.request(method, path)
            assert (sent.status_code, f"Install standby[{extra}]" in sent.json()["error"]) == (404, True)
        assert (await gate.client.get("/health")).status_code == 200
