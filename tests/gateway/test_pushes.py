"""Clients are told of their tasks at the addresses they name, at least once, and at no address inside."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
import uvicorn
from a2a.types import (
    DeleteTaskPushNotificationConfigRequest,
    GetTaskPushNotificationConfigRequest,
    GetTaskRequest,
    ListTaskPushNotificationConfigsRequest,
    SendMessageConfiguration,
    Task,
    TaskPushNotificationConfig,
)
from a2a.utils.errors import InvalidParamsError, TaskNotFoundError
from google.protobuf.json_format import ParseDict
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from standby import addresses, clock
from standby.addresses import PublicOnly, is_public
from standby.ledger import pushes
from standby.ledger.pushes import MOST, MOST_TRIES
from standby.pushes import Pusher
from standby.states import Role, RunState
from standby.waits import Decision
from tests.gateway.agents_client import client_of, message, send, shown
from tests.gateway.conftest import Gate
from tests.ledger.acts import answer, approval, claim, parked
from tests.support.waiting import wait_until

FORM = {"answer_type": "standby.waits:Decision", "answer_schema": json.dumps(Decision.model_json_schema())}


class Client:
    """What listens where a client wants to be told; it answers with ``status``."""

    def __init__(self) -> None:
        self.url, self.status = "", 200
        self.told: list[tuple[dict[str, str], Any]] = []

    async def __call__(self, request: Request) -> Response:
        self.told.append((dict(request.headers), await request.json()))
        return RedirectResponse("http://127.0.0.1:9/", 307) if self.status == 307 else Response(status_code=self.status)

    @property
    def states(self) -> list[str]:
        return [body["task"]["status"]["state"].removeprefix("TASK_STATE_").lower() for _, body in self.told]


@pytest.fixture
async def client(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client]:
    """On this machine, which is allowed here."""
    monkeypatch.setenv("STANDBY_PUSH_HOSTS", "agents.example, 127.0.0.1")
    client = Client()

    async def told(request: Request) -> Response:
        return await client(request)

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        client.url = f"http://127.0.0.1:{listener.getsockname()[1]}/told"
        app = Starlette(routes=[Route("/told", told, methods=["POST"])])
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await wait_until(lambda: server.started, 10)
        yield client
        server.should_exit = True
        await serving


def wanted(client: Client, task: str = "run", **more: Any) -> TaskPushNotificationConfig:
    return TaskPushNotificationConfig(task_id=task, url=client.url, **more)


async def round_of(gate: Gate) -> None:
    """What a keeper does each second."""
    pusher = Pusher(gate.ledger)
    await pusher.tick()
    await pusher.finish()


async def test_a_client_is_told_of_each_turn_until_the_end(
    gate: Gate, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each once, if it takes it; and with what it has given along. Also while the clock stands."""
    now = clock.utcnow()
    monkeypatch.setattr(clock, "_source", lambda: now)
    [wait] = (await parked(gate.ledger, [approval(**FORM)])).waits
    ada = await client_of(gate, Role.APPROVER, "ada")
    more = {"token": "t0ken", "authentication": {"scheme": "Bearer", "credentials": "secret"}}
    await ada.create_task_push_notification_config(wanted(client, **more))
    for _ in range(2):
        await round_of(gate)
    assert client.states == ["input_required"]
    headers, body = client.told[0]
    assert (headers["x-a2a-notification-token"], headers["authorization"]) == ("t0ken", "Bearer secret")
    assert shown(ParseDict(body["task"], Task())) == shown(await ada.get_task(GetTaskRequest(id="run")))
    await answer(gate.ledger, wait.id, '{"approved": true}', actor="bob")
    for _ in range(2):
        await round_of(gate)
    attempt = (await claim(gate.ledger)).attempt
    await round_of(gate)
    assert await gate.ledger.runs.end("run", attempt, RunState.COMPLETED, result='{"paid": 3}')
    for _ in range(2):
        await round_of(gate)
    assert client.states == ["input_required", "working", "completed"]
    assert client.told[-1][1]["task"]["artifacts"][0]["parts"][0]["data"] == {"paid": 3}
    [push] = await gate.ledger.pushes.of_task("run")
    assert push.done_at is not None


async def test_a_client_is_told_of_what_it_starts_from_the_beginning(door: Gate, client: Client) -> None:
    ada = await client_of(door, Role.SENDER, "ada")
    how = SendMessageConfiguration(return_immediately=True, task_push_notification_config=wanted(client, ""))
    said = message({}, agent="buyer/default")
    task = await send(ada, said, how)
    assert (await send(ada, said, how)).id == task.id, "sent again it is told once"
    await round_of(door)
    await door.ledger.starts.close(task.id, RunState.CANCELLED)
    await round_of(door)
    assert client.states == ["submitted", "canceled"]
    assert len(await door.ledger.pushes.of_task(task.id)) == 1


@pytest.mark.parametrize("status", [500, 404, 307])
async def test_a_client_that_does_not_take_it_is_told_again_later(
    door: Gate, client: Client, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """And never sent elsewhere: a redirect is no yes."""
    now = clock.utcnow()
    monkeypatch.setattr(clock, "_source", lambda: now)
    await claim(door.ledger)
    await (await client_of(door, Role.VIEWER)).create_task_push_notification_config(wanted(client))
    client.status = status
    for _ in range(3):
        await round_of(door)
    assert len(client.told) == 1, "not at once"
    [push] = await door.ledger.pushes.of_task("run")
    assert (push.tries, push.done_at) == (1, None)
    assert push.note == f"HTTPStatusError, HTTP status {status}", "and not where it was sent"
    client.status = 200
    now += timedelta(hours=1)
    await round_of(door)
    assert len(client.told) == 2
    [push] = await door.ledger.pushes.of_task("run")
    assert (push.tries, push.note) == (0, None)


async def test_whatever_goes_wrong_it_is_kept_without_its_words_and_tried_again(
    door: Gate, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words may quote the address, and what is sent along. A client has all the time it is promised."""
    limits = []

    async def broken(self: PublicOnly, request: httpx.Request) -> httpx.Response:
        limits.append(set(request.extensions["timeout"].values()))
        raise ValueError(f"{request.url} with {request.headers} is broken")

    monkeypatch.setattr(PublicOnly, "handle_async_request", broken)
    await claim(door.ledger)
    await (await client_of(door, Role.VIEWER)).create_task_push_notification_config(wanted(client, token="t0ken"))
    await round_of(door)
    [push] = await door.ledger.pushes.of_task("run")
    assert (push.note, push.tries) == ("ValueError", 1)
    assert limits == [{None}]


async def test_a_sender_that_dies_has_it_sent_by_another(gate: Gate, client: Client) -> None:
    """Row 10. Two that see it due at once send it once."""
    await claim(gate.ledger)
    await (await client_of(gate, Role.VIEWER)).create_task_push_notification_config(wanted(client))
    pushers = [Pusher(gate.ledger) for _ in range(3)]
    await asyncio.gather(*(pusher.tick() for pusher in pushers))
    await asyncio.gather(*(pusher.finish() for pusher in pushers))
    assert len(client.told) == 1
    assert await gate.ledger.runs.end("run", 1, RunState.FAILED, error="x")
    [due], _ = await gate.ledger.pushes.due()
    assert await gate.ledger.pushes.claim(due), "and this one dies"
    await round_of(gate)
    assert len(client.told) == 1
    later = clock.utcnow() + timedelta(minutes=2)
    clock.set_source(lambda: later)
    try:
        await round_of(gate)
    finally:
        clock.set_source(None)
    assert client.states == ["working", "failed"]


async def test_nobody_is_told_for_ever(door: Gate, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a client that is not there for days, nor one that wants it no more."""
    now = clock.utcnow()
    monkeypatch.setattr(clock, "_source", lambda: now)
    await claim(door.ledger)
    ada = await client_of(door, Role.VIEWER, "ada")
    await ada.create_task_push_notification_config(wanted(client, id="there"))
    await ada.create_task_push_notification_config(wanted(client, id="not"))
    await ada.delete_task_push_notification_config(DeleteTaskPushNotificationConfigRequest(task_id="run", id="not"))
    for _ in range(MOST_TRIES):
        [due], _ = await door.ledger.pushes.due()
        await door.ledger.pushes.failed(due, "it answered 500")
        now += timedelta(hours=2)
    assert (await door.ledger.pushes.due())[0] == []
    [push] = await door.ledger.pushes.of_task("run")
    assert (push.config_id, push.note) == ("there", f"tried {MOST_TRIES} times: it answered 500")
    assert push.done_at is not None


async def test_many_have_their_turn(gate: Gate, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some are looked at each time, whoever sends; in the end all have been told."""
    monkeypatch.setattr(pushes, "LOOKED_AT", 2)
    ada = await client_of(gate, Role.VIEWER)
    for run in "edcba":
        await claim(gate.ledger, run)
        await ada.create_task_push_notification_config(wanted(client, run))
    pusher = Pusher(gate.ledger)
    told = []
    for _ in range(4):
        await pusher.tick()
        await pusher.finish()
        told.append(sorted(body["task"]["id"] for _, body in client.told))
    assert told == [["a", "b"], ["a", "b", "c", "d"], [*"abcde"], [*"abcde"]]


async def test_a_key_that_is_good_no_more_is_told_nothing(door: Gate, client: Client) -> None:
    """Row 60."""
    await claim(door.ledger)
    await (await client_of(door, Role.VIEWER)).create_task_push_notification_config(wanted(client))
    [key] = await door.ledger.keys.all()
    await door.ledger.keys.revoke(key.id)
    await round_of(door)
    [push] = await door.ledger.pushes.of_task("run")
    assert (client.told, push.note) == ([], "the client's key is good no more")
    assert push.done_at is not None


async def test_pushes_are_their_clients_own_and_keep_their_secrets(door: Gate, client: Client) -> None:
    await claim(door.ledger)
    ada, bob = [await client_of(door, Role.VIEWER, name) for name in ("ada", "bob")]
    await ada.create_task_push_notification_config(wanted(client, id="one", token="t0ken"))
    read = await ada.get_task_push_notification_config(GetTaskPushNotificationConfigRequest(task_id="run", id="one"))
    assert shown(read) == {"id": "one", "taskId": "run", "url": client.url}
    listed = await ada.list_task_push_notification_configs(ListTaskPushNotificationConfigsRequest(task_id="run"))
    assert [one.id for one in listed.configs] == ["one"]
    with pytest.raises(TaskNotFoundError):
        await bob.get_task_push_notification_config(GetTaskPushNotificationConfigRequest(task_id="run", id="one"))
    with pytest.raises(InvalidParamsError, match="somebody else's"):
        await bob.create_task_push_notification_config(wanted(client, id="one"))
    for n in range(MOST - 1):
        await bob.create_task_push_notification_config(wanted(client, id=f"bob{n}"))
    with pytest.raises(InvalidParamsError, match="as many as there may be"):
        await bob.create_task_push_notification_config(wanted(client, id="more"))
    with pytest.raises(TaskNotFoundError):
        await bob.create_task_push_notification_config(wanted(client, "none"))


INSIDE = ["127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "::1", "::",
          "fe80::1", "fc00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "224.0.0.1",
          "255.255.255.255", "nothing", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "192.0.0.192", "168.63.129.16",
          "fec0::1", "2600::5efe:7f00:1", "64:ff9b::a9fe:a9fe"]  # fmt: skip


def test_no_address_inside_is_public() -> None:
    assert [address for address in INSIDE if is_public(address)] == []


def test_the_public_network_is_public() -> None:
    assert all(map(is_public, ("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e")))


NOWHERE = [
    *(f"http://{host}/x" for host in ("127.0.0.1", "[::1]", "169.254.169.254", "localhost", "0x7f.1", "2130706433")),
    "http://[::ffff:10.0.0.1]/", "http://no such host/", "http://\u00e4\u0308.\u2024/", "ftp://agents.example/", "http:///x",
    "http://a:b@agents.example/", "nothing", "http://[/", "http://agents.example:99999/",
    "http://agents.example/" + "x" * 2000,
]  # fmt: skip


async def test_an_address_inside_or_none_at_all_is_refused(door: Gate) -> None:
    await claim(door.ledger)
    ada = await client_of(door, Role.ADMIN)
    for url in NOWHERE:
        with pytest.raises(InvalidParamsError) as refused:
            await ada.create_task_push_notification_config(TaskPushNotificationConfig(task_id="run", url=url))
        data: Any = refused.value.data
        assert [one["field"] for one in data["errors"]] == ["url"], url
    how = SendMessageConfiguration(task_push_notification_config=TaskPushNotificationConfig(url="http://localhost/"))
    with pytest.raises(InvalidParamsError):
        await send(ada, message({}, agent="buyer/default"), how)
    assert await door.ledger.starts.all() == [], "nothing was started"


async def test_what_is_sent_along_fits_into_a_header(door: Gate, client: Client) -> None:
    await claim(door.ledger)
    ada = await client_of(door, Role.VIEWER)
    with pytest.raises(InvalidParamsError, match=r"token: .*printable"):
        await ada.create_task_push_notification_config(wanted(client, token="a\r\nHost: b"))


async def test_a_name_that_means_something_else_by_now_is_not_followed(
    door: Gate, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: public when it was named, inside when it is told."""
    public = True

    async def getaddrinfo(*_: Any, **__: Any) -> Any:
        return [(0, 0, 0, "", ("93.184.215.14" if public else "127.0.0.1", 80))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    monkeypatch.delenv("STANDBY_PUSH_HOSTS")
    await claim(door.ledger)
    url = client.url.replace("127.0.0.1", "rebound.example")
    await (await client_of(door, Role.VIEWER)).create_task_push_notification_config(
        TaskPushNotificationConfig(task_id="run", url=url)
    )
    public = False
    await round_of(door)
    [push] = await door.ledger.pushes.of_task("run")
    assert (client.told, push.note) == ([], "NotPublic")


async def test_the_connection_goes_to_the_address_that_was_looked_at(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the request is for the name."""
    looks = []

    async def once(host: str, port: int, trusted: Any) -> str:
        looks.append(host)
        return "127.0.0.1"

    monkeypatch.setattr(addresses, "looked_up", once)
    async with httpx.AsyncClient(transport=PublicOnly()) as http:
        await http.post(client.url.replace("127.0.0.1", "agents.example"), json={"task": {}})
    [(headers, _)] = client.told
    assert headers["host"].startswith("agents.example:")
    assert looks == ["agents.example"]
