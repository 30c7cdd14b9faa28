"""A Prefect server of the benchmark's own: a child process with its own home and SQLite database, gone afterwards.

Nothing here imports Prefect, which reads its settings when it is imported: start the server, put what it returns into
the environment, and only then import what is to be measured.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

START_SECONDS = 90.0
"""How long the server may take to answer; 12 s on an idle machine."""


@contextmanager
def data_folder() -> Iterator[Path]:
    """A folder for all data of the benchmark, deleted afterwards.

    In ``/var/tmp``, which is on a disk: ``/tmp`` may be memory, where fsync is free.
    """
    disk = "/var/tmp" if os.path.isdir("/var/tmp") else None
    with tempfile.TemporaryDirectory(dir=disk, prefix="standby-benchmark-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def prefect_server(folder: Path, *, as_up_does: bool = False) -> Iterator[dict[str, str]]:
    """Run a stock Prefect server with its data in ``folder``. Yields the environment of its clients.

    ``as_up_does``: as ``standby up`` starts it, for a stock one on SQLite stands still for a minute now and then when
    several clients write, which would be all that is measured; its scan of paused runs is slowed down, too.

    Settings are Prefect's own defaults, but for two: no analytics, and the client prints no logs (they still go to the
    server). Raises ``RuntimeError`` with the server's last words when it does not start.
    """
    port = free_port()
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "STANDBY_"))}
    environment = {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "DO_NOT_TRACK": "1",
    }
    command, scan = (["standby.up.prefect_server"], "300") if as_up_does else (["prefect", "server", "start"], "5")
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, "--host", "127.0.0.1", "--port", str(port)],
            env=inherited | environment | {"PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_LOOP_SECONDS": scan},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _until_healthy(process, environment["PREFECT_API_URL"], log)
        yield environment
    finally:
        _stop(process)


def _until_healthy(process: subprocess.Popen[bytes], api_url: str, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{api_url}/health", timeout=1).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"The Prefect server did not start:\n{log.read_text(errors='replace')[-2000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and what it started, by its own process group."""
    for number, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
        return


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
