"""A limit on how long the headers of a request may take. Uvicorn has none; ``Limits`` begins when they are there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as Protocol
else:
    from uvicorn.protocols.http.auto import AutoHTTPProtocol as Protocol

HEADERS_SECONDS = 10.0
"""How long it may take from connecting, or from the first byte of a later request, until its headers are complete."""


class HeadersInTime(Protocol):
    """Closes a connection whose next request does not come to the end of its headers in time."""

    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._follow()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._follow()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop()

    def _follow(self) -> None:
        """Between two requests without a byte of the next one it is uvicorn's keep-alive that closes."""
        if not self._awaits_headers():
            self._stop()
        elif self._due is None:
            self._due = self.loop.call_later(HEADERS_SECONDS, self._close)

    def _awaits_headers(self) -> bool:
        # With the end of its headers each request has a cycle of its own.
        return self.cycle is None or self.cycle.response_complete

    def _close(self) -> None:
        if self._awaits_headers():
            self.transport.close()

    def _stop(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
