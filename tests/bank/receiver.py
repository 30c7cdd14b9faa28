"""A place for the bank's webhooks: it answers as scripted, and remembers what came and was signed as it should be."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from standardwebhooks.webhooks import Webhook

from tests.bank.process import Bank

SECRET = "whsec_" + base64.b64encode(b"a secret between bank and us").decode()
ANOTHER = "whsec_" + base64.b64encode(b"the one that comes after it").decode()

Answer = tuple[int, Any]
TAKEN: Answer = (200, {"disposition": "delivered"})
REFUSED: Answer = (401, {"error": "not verified"})


class Heard(NamedTuple):
    """One delivery: its id, and its JSON."""

    id: str
    body: dict[str, Any]


class Receiver:
    def __init__(self) -> None:
        self.url = ""
        self.answers: list[Answer] = []
        """Given one each, first to last; after them, and from the start if there are none, `always`."""
        self.always: Answer = TAKEN
        self.secret = SECRET
        self.heard: list[Heard] = []

    async def enter_at(self, bank: Bank, secret: str = SECRET) -> None:
        """Have the bank report here, and believe what is signed with this secret."""
        self.secret = secret
        entered = await bank.client.put("/webhook", json={"url": self.url, "secret": secret})
        assert entered.status_code == 204, entered.text

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):  # a bank killed as it spoke
            await self._answer(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
        self.heard.append(Heard(headers["webhook-id"], Webhook(self.secret).verify(body, headers)))
        status, answer = self.answers.pop(0) if self.answers else self.always
        body = b"" if answer is None else json.dumps(answer).encode()
        writer.write(f"HTTP/1.1 {status} -\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        await writer.drain()


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    heard = Receiver()
    server = await asyncio.start_server(heard.serve, "127.0.0.1", 0)
    heard.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/settled"
    async with server:
        yield heard
