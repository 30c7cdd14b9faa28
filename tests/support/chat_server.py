"""A server that speaks the OpenAI chat completions protocol from a script, so that the real client can be tested.

It listens on 127.0.0.1, in the test's own loop, and remembers what it was asked. Each request is given the next reply
of the script; when that is over, the answer is 418.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

MODEL = "test-model-1"


@dataclass
class Reply:
    """What goes over the wire. ``cut``: after how many bytes of the body the connection is closed."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    hangs: bool = False


@dataclass
class Asked:
    """One request."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def tools(self) -> list[str]:
        """The names of the tools that the model was offered."""
        return [tool["function"]["name"] for tool in self.body.get("tools", [])]

    @property
    def results(self) -> list[str]:
        """What the tools have returned so far."""
        return [message["content"] for message in self.body["messages"] if message["role"] == "tool"]


Script = Reply | Callable[[Asked], Reply]


def message(
    content: str | None = None,
    *,
    tool_calls: list[dict[str, Any]] | None = None,
    finish: str | None = None,
    **more: Any,
) -> Reply:
    """A whole answer of the model. ``more``: further fields of its message, such as ``refusal``."""
    said = {"role": "assistant", "content": content, **more}
    if tool_calls is not None:
        said["tool_calls"] = tool_calls
    choice = {"index": 0, "message": said, "finish_reason": finish or ("tool_calls" if tool_calls else "stop")}
    return as_json({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1700000000, "model": MODEL, "choices": [choice],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    })  # fmt: skip


def calls(*wanted: tuple[str, Any], ids: list[str] | None = None) -> Reply:
    """The model calls these tools, all in one turn; arguments that are text go over the wire as they are."""
    return message(
        tool_calls=[
            {
                "id": ids[place] if ids is not None else f"call_{place}",
                "type": "function",
                "function": {"name": name, "arguments": given if isinstance(given, str) else json.dumps(given)},
            }
            for place, (name, given) in enumerate(wanted)
        ]
    )


def refusal(why: str) -> Reply:
    return message(None, refusal=why)


def failure(status: int, said: str = "it failed", **headers: str) -> Reply:
    """An error as the provider gives it; ``retry_after="1"`` becomes the header."""
    reply = as_json({"error": {"message": said, "type": "server_error", "code": None}}, status)
    reply.headers |= {name.replace("_", "-"): value for name, value in headers.items()}
    return reply


def as_json(body: Any, status: int = 200) -> Reply:
    return Reply(json.dumps(body).encode(), status, {"content-type": "application/json"})


def stream(*pieces: str, cut: bool = False) -> Reply:
    """A text as server-sent events, piece by piece; with ``cut`` the connection is closed before its end."""
    events = []
    for place, piece in enumerate(pieces):
        delta = {"content": piece} | ({"role": "assistant"} if place == 0 else {})
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        events.append({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": MODEL,
                       "choices": [choice]})  # fmt: skip
    events.append({**events[-1], "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    said = "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()
    whole = said + b"data: [DONE]\n\n"
    return Reply(whole, 200, {"content-type": "text/event-stream"}, cut=len(said) // 2 if cut else None)


HANGS = Reply(b"", hangs=True)
"""Nothing ever comes."""


class ChatServer:
    def __init__(self) -> None:
        self.url = ""
        self.script: list[Script] = []
        self.asked: list[Asked] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._answer(reader, writer):
                pass
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection stays."""
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        asked = Asked(first.split(" ")[1], headers, body)
        self.asked.append(asked)
        next_one = self.script.pop(0) if self.script else failure(418, "the script is over")
        reply = next_one if isinstance(next_one, Reply) else next_one(asked)
        if reply.hangs:
            await reader.read()
            return False
        head = {**reply.headers, "content-length": str(len(reply.body))}
        lines = [f"HTTP/1.1 {reply.status} -", *(f"{name}: {value}" for name, value in head.items())]
        sent = reply.body if reply.cut is None else reply.body[: reply.cut]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + sent)
        await writer.drain()
        return reply.cut is None


@asynccontextmanager
async def chat_server(*script: Script) -> AsyncIterator[ChatServer]:
    """A server that has this script. All of its connections are closed at the end."""
    chat = ChatServer()
    chat.script = list(script)
    serving: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        await chat._serve(reader, writer)
        serving.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    chat.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server:
        yield chat
        server.close()
        if serving:  # the clients have closed, or are about to: what is left is on its way out
            await asyncio.wait(list(serving), timeout=10)
        assert not serving, "a client has left its connection open"
