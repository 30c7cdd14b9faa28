"""A place for the bank's reports: it answers as scripted and remembers what came."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

Answer = tuple[int, Any]
ACCEPT: Answer = (200, {"status": "ACCEPT"})
ABORT: Answer = (200, {"status": "ABORT"})


class Receiver:
    def __init__(self) -> None:
        self.url = ""
        self.answers: list[Answer] = []
        """Given one each, first to last; after them, and from the start if there are none, `always`."""
        self.always: Answer = ACCEPT
        self.heard: list[dict[str, Any]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):  # a bank killed as it spoke
            await self._answer(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length:")[2].split()[0])
        self.heard.append(json.loads(await reader.readexactly(length)))
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
