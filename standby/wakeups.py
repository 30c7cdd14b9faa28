"""How a process that waits hears that a wait of its run has settled: a datagram to a loopback address it names.

From other machines it hears by the ledger's notifications, where the ledger is on PostgreSQL. Only a hint, sent after
the ledger's transaction: who listens looks at the ledger, and looks anyway now and then.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress


class Ear(asyncio.DatagramProtocol):
    """Listens at ``address`` for many runs: ``heard`` is called with what is said, which is a run's id or ``look``."""

    ROOM = 4 * 2**20
    """Bytes of what was said and not yet heard, as far as the system allows."""

    def __init__(self, heard: Callable[[str], None]) -> None:
        self._heard = heard
        self.address = ""

    @classmethod
    @asynccontextmanager
    async def open(cls, heard: Callable[[str], None]) -> AsyncIterator[Ear]:
        transport, ear = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: cls(heard), local_addr=("127.0.0.1", 0)
        )
        with suppress(OSError):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, cls.ROOM)
        host, port = transport.get_extra_info("sockname")
        ear.address = f"{host}:{port}"
        try:
            yield ear
        finally:
            transport.close()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._heard(data.decode(errors="replace"))


class Listener:
    """Listens at ``address`` (``127.0.0.1:port``) for one run."""

    def __init__(self) -> None:
        self._heard = asyncio.Event()
        self.address = ""

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Listener]:
        listener = cls()
        async with Ear.open(lambda _: listener.hear()) as ear:
            listener.address = ear.address
            yield listener

    def hear(self) -> None:
        self._heard.set()

    async def wait(self, seconds: float) -> None:
        """Return when something is heard, or after ``seconds``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._heard.wait()
        self._heard.clear()


def call(address: str) -> bool:
    """Tell who listens at ``address`` (``127.0.0.1:port``, or ``127.0.0.1:port#run``) to look at the ledger.

    Never raises and never waits. False when it is a host's address and certainly nobody listens there, which only that
    machine can tell: another worker may take up a run that a host had, but not one that pauses in its process.
    """
    place, _, run_id = address.partition("#")
    host, _, port = place.rpartition(":")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.connect((host, int(port)))
            sender.send(run_id.encode() or b"look")
            # What the first one met is told to the second.
            return not run_id or sender.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    except ConnectionRefusedError:
        return not run_id
    except (OSError, ValueError):
        return True
