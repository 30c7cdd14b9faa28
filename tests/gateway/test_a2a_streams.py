"""Streams of what becomes of a task, over a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from a2a.client.errors import A2AClientError
from a2a.types import SendMessageConfiguration, SubscribeToTaskRequest
from a2a.utils.errors import TaskNotFoundError, UnsupportedOperationError

from standby.gateway.a2a import handler, watching
from standby.states import Role, RunState
from standby.waits import Decision
from tests.gateway.agents_client import client_of, message, send, sent, shown, state
from tests.gateway.conftest import Gate, served
from tests.ledger.acts import approval, claim, open_group, parked
from tests.support.waiting import wait_until

FORM = {"answer_type": "standby.waits:Decision", "answer_schema": json.dumps(Decision.model_json_schema())}


@pytest.fixture
async def address(door: Gate, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """Where the gateway listens."""
    monkeypatch.setattr(watching, "EVERY_SECONDS", 0.02)
    async with served(door) as server:
        yield "http://{}:{}".format(*server.servers[0].sockets[0].getsockname())
        for client in door.clients:
            await client.aclose()


async def test_who_subscribes_hears_of_every_turn_until_the_end(door: Gate, address: str) -> None:
    await parked(door.ledger, [approval(**FORM)])
    client = await client_of(door, Role.APPROVER, url=address, streaming=True)
    heard = []
    async for event in client.subscribe(SubscribeToTaskRequest(id="run")):
        kind = event.WhichOneof("payload")
        heard.append((kind, None if kind == "artifact_update" else state(getattr(event, kind))))
        if len(heard) == 1:
            await send(await client_of(door, Role.APPROVER), message({"approved": True}, task="run"))
        if len(heard) == 2:
            attempt = (await claim(door.ledger)).attempt
            await open_group(door.ledger, [approval("second", **FORM)], attempt=attempt)
        if len(heard) == 3:
            assert await door.ledger.runs.end("run", 2, RunState.COMPLETED, result='{"paid": 3}')
        if kind == "artifact_update":
            assert shown(event.artifact_update.artifact.parts[0])["data"] == {"paid": 3}
    assert heard == [
        ("task", "input_required"), ("status_update", "working"), ("status_update", "input_required"),
        ("artifact_update", None), ("status_update", "completed"),
    ]  # fmt: skip


async def test_what_a_message_starts_is_streamed_until_it_asks(door: Gate, address: str) -> None:
    client = await client_of(door, Role.ADMIN, url=address, streaming=True)
    said = message({}, agent="buyer/default")
    streaming = asyncio.create_task(sent(client, said, SendMessageConfiguration()))
    [start] = await wait_until(door.ledger.starts.all)
    await door.ledger.starts.started(start.id, "run")
    await parked(door.ledger, [approval(**FORM)])
    events = await asyncio.wait_for(streaming, 30)
    last = events[-1]
    assert state(last.status_update if last.HasField("status_update") else last.task) == "input_required"
    assert {(one.task.id or one.status_update.task_id) for one in events} == {start.id}


async def test_a_stream_that_cannot_be_is_refused(door: Gate, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await claim(door.ledger)
    await claim(door.ledger, "over")
    assert await door.ledger.runs.end("over", 1, RunState.COMPLETED, result="1")
    client = await client_of(door, Role.VIEWER, url=address, streaming=True)

    async def subscribe(task_id: str) -> None:
        async for _ in client.subscribe(SubscribeToTaskRequest(id=task_id)):
            break

    with pytest.raises(TaskNotFoundError):
        await subscribe("none")
    with pytest.raises(UnsupportedOperationError, match="nothing to come"):
        await subscribe("over")
    monkeypatch.setattr(handler, "MOST_STREAMS", 0)
    with pytest.raises(A2AClientError, match="503"):
        await subscribe("run")


async def test_who_goes_away_leaves_no_stream_open(door: Gate, address: str) -> None:
    await claim(door.ledger)
    handling = door.app.state.a2a.request_handler
    client = await client_of(door, Role.VIEWER, url=address, streaming=True)
    stream = client.subscribe(SubscribeToTaskRequest(id="run"))
    await anext(stream)
    assert handling._streams == 1
    await stream.aclose()  # type: ignore[attr-defined]
    await client.close()
    for http in door.clients:
        await http.aclose()
    await wait_until(lambda: handling._streams == 0)


async def test_a_key_that_is_revoked_hears_no_more(door: Gate, address: str) -> None:
    """Row 58."""
    await claim(door.ledger)
    client = await client_of(door, Role.VIEWER, url=address, streaming=True)
    stream = client.subscribe(SubscribeToTaskRequest(id="run"))
    assert state((await anext(stream)).task) == "working"
    [key] = await door.ledger.keys.all()
    await door.ledger.keys.revoke(key.id)
    assert await door.ledger.runs.end("run", 1, RunState.COMPLETED, result="1")
    with pytest.raises((A2AClientError, UnsupportedOperationError), match="good no more"):
        await anext(stream)
