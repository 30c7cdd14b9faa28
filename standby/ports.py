"""Looking whether a port is free before something is started that would listen on it."""

from __future__ import annotations

import errno
import socket

from standby.errors import UsageError


def require_free(host: str, port: int, remedy: str) -> None:
    """Raise ``UsageError`` if nobody can listen there: with why, and then ``remedy``."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            why = "is taken by another program" if error.errno == errno.EADDRINUSE else f"cannot be used: {error}"
            raise UsageError(f"Port {port} {why}. {remedy}") from error
