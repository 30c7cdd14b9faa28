"""A network to PostgreSQL that can be cut, and that can lose the answer to a COMMIT."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit


class Link:
    """``url`` leads through it to the database at ``to``."""

    def __init__(self, to: str) -> None:
        self._to = urlsplit(to)
        self.url = ""
        self.up = True
        self.loses_commits = False
        self.lost = False  # a COMMIT that was made, and its answer not given
        self.breaks_at: bytes | None = None  # the statement at which one connection breaks, once
        self.breaks_after = False  # when it was done, and its answer is not given
        self._mute = False
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """Break all connections, and take no new ones."""
        self.up = False
        for task in self._tasks - {asyncio.current_task()}:
            task.cancel()

    def mend(self) -> None:
        self.up, self._mute = True, False

    async def serve(self, questions: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        if not self.up:
            answers.transport.abort()
            return
        reader, writer = await self._database()
        try:
            broken = asyncio.Event()
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass_on(questions, writer, broken, asks=True))
                both.create_task(self._pass_on(reader, answers, broken, asks=False))
        except* (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            for one in (answers, writer):
                one.transport.abort()
            self._tasks.discard(task)

    async def close(self) -> None:
        left = list(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _database(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        folder = parse_qs(self._to.query).get("host")
        if self._to.hostname or not folder:
            return await asyncio.open_connection(self._to.hostname, self._to.port or 5432)
        return await asyncio.open_unix_connection(f"{folder[0]}/.s.PGSQL.{self._to.port or 5432}")

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, broken: asyncio.Event, *, asks: bool
    ) -> None:
        while data := await reader.read(65536):
            if asks and self.breaks_at is not None and self.breaks_at in data:
                self.breaks_at = None
                broken.set()
            if broken.is_set() and asks != self.breaks_after:
                raise ConnectionResetError
            loses = asks and self.loses_commits and b"COMMIT;" in data
            self._mute |= loses
            if asks or not self._mute:
                writer.write(data)
                await writer.drain()
            elif self._mute and b"COMMIT" in data:  # it is made, and nobody hears of it
                self.loses_commits, self.lost = False, True
                self.cut()
        raise ConnectionResetError


@asynccontextmanager
async def link_to(url: str) -> AsyncIterator[Link]:
    link = Link(url)
    listening = await asyncio.start_server(link.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    to = urlsplit(url)
    who = to.netloc.rpartition("@")[0]
    link.url = f"postgresql://{who}@127.0.0.1:{port}{to.path}"
    try:
        yield link
    finally:
        listening.close()
        await link.close()
