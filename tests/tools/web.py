"""A small web for `fetch_page`: hosts with addresses of our choice, and pages, without a network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tasks.fetch_page import Page, fetch_page

PUBLIC = "93.184.216.34"

Answer = Callable[[httpx.Request], httpx.Response]


class Web:
    """Names, the addresses they resolve to, and what is answered at them."""

    def __init__(self) -> None:
        self.addresses: dict[str, list[list[str]]] = defaultdict(lambda: [[PUBLIC]])
        """For each name the answers to its lookups, one after the other; the last one stays."""
        self.pages: dict[str, Answer] = {}
        """By host and path, as the request states them."""
        self.connected: list[str] = []
        """The address of each connection."""

    def page(self, place: str, body: str | bytes = "", status: int = 200, **headers: str) -> None:
        named = {"content-type": "text/html"} | {name.replace("_", "-"): value for name, value in headers.items()}
        content = body.encode() if isinstance(body, str) else body
        self.pages[place] = lambda _: httpx.Response(status, headers=named, stream=_Raw(content))

    async def fetch(self, url: str, *hosts: str, **limits: Any) -> Page:
        return await fetch_page(url, hosts=hosts, resolve=self.resolve, client=self.client, **limits)

    async def resolve(self, host: str, port: int) -> list[str]:
        answers = self.addresses[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    @asynccontextmanager
    async def client(self, seconds: float) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(transport=httpx.MockTransport(self._answer), timeout=seconds) as client:
            yield client

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        self.connected.append(request.url.host)
        return self.pages[f"{request.headers['host']}{request.url.raw_path.decode()}"](request)


class _Raw(httpx.AsyncByteStream):
    """A body as it goes over the wire."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.body), 16 * 1024):
            yield self.body[start : start + 16 * 1024]
