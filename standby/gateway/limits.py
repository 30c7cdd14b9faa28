"""Limits on what one request may cost: the size of its body, and the time it takes to arrive and be done."""

from __future__ import annotations

import asyncio
import json

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_BYTES = 1024 * 1024
"""Largest body that is read."""

SECONDS = 30.0
"""How long a request may take, its body included; one that is answered by a stream of events, until that begins."""


class Limits:
    """ASGI middleware. Too large a body is answered with 413, one that does not come in time with 408.

    The application sees whole bodies alone: it is not called for one whose sender went away in the middle of it.
    """

    def __init__(self, app: ASGIApp, body_bytes: int = BODY_BYTES, seconds: float = SECONDS) -> None:
        self.app, self.body_bytes, self.seconds = app, body_bytes, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start" and _is_stream(message):
                limit.reschedule(None)
            started = True
            await send(message)

        try:
            async with asyncio.timeout(self.seconds) as limit:
                body = await self._body(scope, receive)
                if body is None:
                    await _answer(send, 413, f"The body is larger than {self.body_bytes} bytes.")
                    return
                await self.app(scope, _replaying(body, receive), sending)
        except ClientDisconnect:
            return  # nobody is there to be told
        except TimeoutError:
            if started:
                raise
            await _answer(send, 408, f"The request took longer than {self.seconds:g} seconds. Try again.")

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body, or None if it is too large. Raises ``ClientDisconnect`` if the sender goes before its end."""
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self.body_bytes:
                return None
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise ClientDisconnect
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.body_bytes:
                return None
            if not message.get("more_body"):
                return b"".join(parts)


def _is_stream(start: Message) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(b"text/event-stream")
        for name, value in start.get("headers", ())
    )


def _replaying(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _answer(send: Send, status: int, error: str) -> None:
    body = json.dumps({"error": error, "problems": []}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()),
               (b"connection", b"close")]  # fmt: skip
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
