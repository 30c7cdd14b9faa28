"""Whether a host is well, over HTTP: ``GET /health`` on the port of ``STANDBY_HOST_HEALTH_PORT``.

200 while its lease is kept and Prefect is not too far behind, else 503; in either case how it stands, as JSON.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from standby.errors import UsageError
from standby.host.guest import Phase

if TYPE_CHECKING:
    from standby.host.host import Host

PORT_VARIABLE = "STANDBY_HOST_HEALTH_PORT"
WORKER_PORT = 8080
"""Where Prefect's own workers serve theirs, with ``--with-healthcheck``."""

PATIENCE_SECONDS = 5.0
"""How long a caller may take to say what it wants."""


class Health:
    def __init__(self, host: Host, place: str, port: int) -> None:
        self._host, self._place, self.port = host, place, port
        self._server: asyncio.Server | None = None

    @classmethod
    def wanted(cls, host: Host, with_healthcheck: bool) -> Health | None:
        """The endpoint that the environment, or Prefect's option, asks for."""
        if (port := told_port()) is not None:
            return cls(host, "127.0.0.1", port)
        return cls(host, "0.0.0.0", WORKER_PORT) if with_healthcheck else None

    async def __aenter__(self) -> Health:
        try:
            self._server = await asyncio.start_server(self._answer, self._place, self.port)
        except OSError as error:
            raise _not_there(self.port, error) from error
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: Any) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(TimeoutError, OSError, ValueError, asyncio.IncompleteReadError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                line = await reader.readline()
                known = line.split(b" ")[1:2] == [b"/health"]
                about = report(self._host)
                status = "404 Not Found" if not known else "200 OK" if about["well"] else "503 Service Unavailable"
                body = json.dumps(about if known else {"detail": "GET /health"}).encode()
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        writer.close()


def told_port() -> int | None:
    """Of ``STANDBY_HOST_HEALTH_PORT``; None where it is not set. Raises ``UsageError`` for what is no port."""
    told = os.environ.get(PORT_VARIABLE)
    if not told:
        return None
    if not told.isdecimal() or int(told) > 65535:
        raise UsageError(f"{PORT_VARIABLE} is a port, not {told!r}.")
    return int(told)


def require_free(first: int, processes: int) -> None:
    """Of the ports of so many hosts, one after the other. Raises ``UsageError`` naming what is not free."""
    if first + processes - 1 > 65535:
        raise UsageError(f"--health-port {first} leaves no ports for {processes} processes. Choose a lower one.")
    for port in range(first, first + processes):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise _not_there(port, error) from error


def _not_there(port: int, error: OSError) -> UsageError:
    why = "is taken by another program" if error.errno == errno.EADDRINUSE else f"cannot be used: {error}"
    return UsageError(
        f"Port {port} {why}, and this host was to serve GET /health there. Choose another with --health-port or "
        f"{PORT_VARIABLE}; several processes take as many ports, from that one on."
    )


def report(host: Host) -> dict[str, Any]:
    """How the host stands. ``lag_seconds``: how far Prefect is behind the ledger, ``behind``: by how many changes."""
    phases = Counter(guest.phase for guest in host.guests.values())
    queued = sum(guest.queued for guest in host.guests.values())
    return {
        "well": host.open and host.leased and not host.following.is_late,
        "running": phases[Phase.RUNNING] + phases[Phase.BEGINNING],
        "warm": phases[Phase.WARM],
        "paused": phases[Phase.PAUSED],
        "waiting_for_a_turn": host.slots.waiting + host.intake.unplaced + queued,
        "behind": host.following.behind,
        "lag_seconds": round(host.following.lag, 3),
        "address": host.address,
    }
