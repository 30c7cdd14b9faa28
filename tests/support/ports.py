"""Ports that nobody else on this machine is given."""

from __future__ import annotations

import socket


def reserved_port() -> tuple[int, socket.socket]:
    """A free port of 127.0.0.1 and what keeps it: bound and not listening, so whoever shares it may listen there.

    The system gives the port to nobody else until the socket is closed, also while a server on it is dead.
    """
    keeper = socket.socket()
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keeper.bind(("127.0.0.1", 0))
    return keeper.getsockname()[1], keeper
