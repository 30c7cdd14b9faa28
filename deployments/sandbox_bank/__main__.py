"""`python -m deployments.sandbox_bank`: take the port, open the database, say so, serve until stopped."""

import argparse
import errno
import math
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn
from sqlalchemy.exc import DatabaseError

from deployments.sandbox_bank.app import create_app
from deployments.sandbox_bank.place import HOST, PORT, Port, port_of
from deployments.sandbox_bank.store import Store
from standby.settings import home


class StartError(RuntimeError):
    """The bank cannot start; the sentence says why."""


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    # Exit code 0 on both signals: before uvicorn takes them over, and when it raises them again at its end.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, _leave)
    try:
        listener = _listen(port_of(options.port))
        store = _open(options.database, options.settle_after)
    except (StartError, ConnectionError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    try:
        # The socket listens already: who connects on reading this line is served.
        print(f"Sandbox bank on http://{HOST}:{listener.getsockname()[1]}", flush=True)
        config = uvicorn.Config(
            create_app(store, options.api_key),
            log_level="warning",
            access_log=False,
            ws="none",
            lifespan="on",
            timeout_graceful_shutdown=2,
        )
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        store.close()
        listener.close()


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m deployments.sandbox_bank",
        description="A small payment provider that runs on this machine alone and moves no money.",
    )
    parser.add_argument(
        "--port",
        type=_port,
        help="TCP port on 127.0.0.1, 0 for any free one (that of PAYMENT_PROVIDER_URL if it is here, else of the block "
        f"payment-provider/default, else {PORT})",
    )
    parser.add_argument(
        "--database", type=Path, default=home() / "bank.db", help="SQLite file (bank.db in the data folder)"
    )
    parser.add_argument(
        "--settle-after",
        type=_seconds,
        help="seconds from acceptance to settlement (what the database says; 2.0 in a new one)",
    )
    parser.add_argument("--api-key", default="sandbox", help="the bearer key callers send (sandbox)")
    return parser.parse_args(arguments)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port: 0 to 65535")
    return port


def _seconds(text: str) -> float:
    seconds = float(text)
    if not math.isfinite(seconds) or not 0 <= seconds <= 31_536_000:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds from 0 to 31536000")
    return seconds


def _listen(port: Port) -> socket.socket:
    """Bind here rather than in uvicorn, whose answer to a busy port is a log line and a half-started app."""
    # asyncio turns Nagle's delay off only where TCP is named; otherwise each answer takes 40 ms longer.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    # A killed bank's connections may linger in TIME_WAIT; they must not keep its successor from the port.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port.number))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise StartError(
                f"Port {port.number} is in use; stop what listens there or choose another: {port.remedy}"
            ) from None
        raise StartError(f"Port {port.number} cannot be opened: {error.strerror}.") from None
    return listener


def _open(database: Path, settle_after: float | None) -> Store:
    try:
        return Store(database, settle_after=settle_after)
    except DatabaseError as error:
        raise StartError(f"The database {database} cannot be used: {error.orig}.") from None
    except OSError as error:
        raise StartError(f"The database {database} cannot be used: {error.strerror}.") from None


def _leave(_signal: int, _frame: Any) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    main()
