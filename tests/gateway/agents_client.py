"""The official A2A client on a gateway under test, and messages to send with it."""

from __future__ import annotations

from typing import Any

import httpx
from a2a.client import ClientConfig, ClientFactory
from a2a.client.client import Client
from a2a.types import Message, SendMessageConfiguration, SendMessageRequest, StreamResponse, Task
from google.protobuf.json_format import MessageToDict, ParseDict  # type: ignore[import-untyped]

from standby.states import Role
from tests.gateway.conftest import Gate

AT_ONCE = SendMessageConfiguration(return_immediately=True)


async def client_of(
    gate: Gate, role: Role, name: str = "ada", *, url: str | None = None, streaming: bool = False, **key: Any
) -> Client:
    """A client with a new key of this role; over a socket where ``url`` is given."""
    headers = {"A2A-Version": "1.0"} | await gate.as_(role, name, **key)
    transport = httpx.ASGITransport(gate.app) if url is None else None
    http = httpx.AsyncClient(transport=transport, headers=headers, timeout=30)
    gate.clients.append(http)
    return await ClientFactory(ClientConfig(httpx_client=http, streaming=streaming)).create_from_url(
        url or "http://gateway"
    )


def message(
    data: Any = None, text: str | None = None, *, id: str = "m1", task: str = "", context: str = "", **metadata: str
) -> Message:
    parts: list[dict[str, Any]] = [{"data": data}] if data is not None else []
    parts += [{"text": text}] if text is not None else []
    said = {"messageId": id, "taskId": task, "contextId": context, "role": "ROLE_USER", "parts": parts}
    made: Message = ParseDict(said | {"metadata": metadata}, Message())
    return made


async def send(client: Client, said: Message, configuration: SendMessageConfiguration = AT_ONCE) -> Task:
    """Send a message; the task that came back."""
    [response] = await sent(client, said, configuration)
    return response.task


async def sent(client: Client, said: Message, configuration: SendMessageConfiguration) -> list[StreamResponse]:
    request = SendMessageRequest(message=said, configuration=configuration)
    return [response async for response in client.send_message(request)]


def shown(made: Any) -> Any:
    """A message of the protocol as plain JSON."""
    return MessageToDict(made)


def state(task: Any) -> str:
    """The state of a task, or of what became of it, such as ``working``."""
    return str(shown(task)["status"]["state"]).removeprefix("TASK_STATE_").lower()


def asked(task: Task) -> list[dict[str, Any]]:
    """What the task asks, with the forms."""
    parts = shown(task.status.message)["parts"]
    return list(parts[-1]["data"]["waits"])
