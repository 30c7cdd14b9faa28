"""Limits on what one request may cost: the size of its body, and the time it takes to arrive and be done."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from standby.gateway import pages
from standby.gateway.refusals import UNKNOWN

BODY_BYTES = 1024 * 1024
"""Largest body that is read."""

SECONDS = 30.0
"""How long a request may take, its body included; one that is answered by a stream of events, until that begins."""


class Limits:
    """ASGI middleware. Too large a body is answered with 413, one that does not come in time with 408.

    So is what is not done in time; whether the ledger has it by then is not known, and the answer says so. The
    application sees whole bodies alone: it is not called for one whose sender went away in the middle of it.
    """

    def __init__(self, app: ASGIApp, body_bytes: int = BODY_BYTES, seconds: float = SECONDS) -> None:
        self.app, self.body_bytes, self.seconds = app, body_bytes, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False
        body: bytes | None = None

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
                    refusal = _refusal(
                        scope, 413, "This is too much", f"The body is larger than {self.body_bytes} bytes."
                    )
                    await refusal(scope, receive, send)
                    return
                await self.app(scope, _replaying(body, receive), sending)
        except ClientDisconnect:
            return  # nobody is there to be told
        except TimeoutError:
            if started:
                raise
            why = f"It took longer than {self.seconds:g} seconds"
            if body is None:
                why += " until the request was here, and nothing of it was taken. Try again."
            else:
                why += ". Try again." if scope["method"] in ("GET", "HEAD") else f", and {UNKNOWN}"
            await _refusal(scope, 408, "Try again in a moment", why)(scope, receive, send)

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


def _refusal(scope: Scope, status: int, title: str, error: str) -> Response:
    """A page for people, who come by a link; ``Refusal`` for programs."""
    response: Response
    if scope["path"].startswith("/answer/"):
        response = pages.page("said.html", status, title=title, text=error, question=None)
    else:
        response = JSONResponse({"error": error, "problems": []}, status)
    response.headers["Connection"] = "close"
    return response
