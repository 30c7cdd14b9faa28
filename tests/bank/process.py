"""The sandbox bank as a process of its own, to be killed and restarted; `running_bank` starts it."""

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

from tests.support.forks import ROOT, Fork, Forks

STARTS_WITHIN = 60.0
"""Seconds until a started bank answers /health; it takes half a second on an idle machine."""

T = TypeVar("T")


async def until(condition: Callable[[], Awaitable[T | None]], *, within: float = 45.0) -> T:
    """The first truthy answer of `condition`, asked every 20 ms for `within` seconds."""
    deadline = time.monotonic() + within
    while not (answer := await condition()):
        assert time.monotonic() < deadline, f"not true within {within} s; the last answer was {answer!r}"
        await asyncio.sleep(0.02)
    return answer


class Bank:
    """A bank on one port and one database, through any number of processes."""

    def __init__(self, port: int, directory: Path, flags: dict[str, Any], forks: Forks | None = None) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.database = directory / "bank.db"
        self.output = directory / "bank.out"
        self.errors = directory / "bank.err"
        self.client = httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {flags.get('api_key', 'sandbox')}"},
            trust_env=False,
            timeout=10.0,
        )
        self._port = port
        self._flags = flags
        self._forks = forks
        self._process: subprocess.Popen[bytes] | Fork | None = None

    @property
    def running(self) -> bool:
        return self._process is not None

    async def start(self) -> None:
        assert self._process is None, "the bank is running"
        command = ["deployments.sandbox_bank", "--port", str(self._port), "--database", str(self.database)]
        for name, value in self._flags.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        # The first start sets settle_after; a restart must find what `configure` made of it since.
        self._flags = {name: value for name, value in self._flags.items() if name != "settle_after"}
        if self._forks is not None:
            self._process = Fork()
            self._forks.start(self._process, command, env={}, cwd=ROOT, log=self.output, errors=self.errors)
        else:
            with self.output.open("ab") as output, self.errors.open("ab") as errors:
                # A plain process: it belongs to no event loop, and starting it takes a millisecond.
                self._process = subprocess.Popen(  # noqa: ASYNC220
                    [sys.executable, "-m", *command], cwd=ROOT, stdout=output, stderr=errors
                )
        await until(self._answers, within=STARTS_WITHIN)

    async def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the bank ended at its start: {self.errors.read_text()}"
        try:
            return (await self.client.get("/health")).is_success
        except httpx.TransportError:
            return False

    async def kill(self) -> None:
        """SIGKILL: it gets no chance to put anything in order."""
        await self._end(signal.SIGKILL)

    async def stop(self, by: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop; returns its exit code."""
        return await self._end(by)

    async def _end(self, by: signal.Signals) -> int:
        assert self._process is not None, "the bank is not running"
        process, self._process = self._process, None
        process.send_signal(by)
        return await asyncio.to_thread(process.wait, 15)

    async def restart(self) -> None:
        """Start it again on the same port and database; a running one is killed first."""
        if self._process is not None:
            await self.kill()
        await self.start()

    async def close(self) -> None:
        if self._process is not None:
            await self.kill()
        await self.client.aclose()

    async def configure(self, **controls: Any) -> dict[str, Any]:
        """PUT /sandbox: change these controls, leave the others."""
        changed: dict[str, Any] = await self._json("PUT", "/sandbox", json=controls)
        return changed

    async def counts(self) -> dict[str, Any]:
        counts: dict[str, Any] = await self._json("GET", "/sandbox/counts")
        return counts

    async def log(self) -> list[dict[str, Any]]:
        log: list[dict[str, Any]] = await self._json("GET", "/sandbox/log")
        return log

    async def reports(self) -> list[dict[str, Any]]:
        reports: list[dict[str, Any]] = await self._json("GET", "/sandbox/reports")
        return reports

    async def _json(self, method: str, path: str, **options: Any) -> Any:
        response = await self.client.request(method, path, **options)
        assert response.is_success, f"{response.status_code} {response.text}"
        return response.json()


@asynccontextmanager
async def running_bank(tmp_path: Path, *, forks: Forks | None = None, **flags: Any) -> AsyncIterator[Bank]:
    """A bank on a free port, its files in `tmp_path`; `flags` are the command's: settle_after=0.2, api_key="x"."""
    # Bound but not listening: nobody else is given the port while the bank is dead, the bank itself may have it.
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        bank = Bank(reserved.getsockname()[1], tmp_path, flags, forks)
        try:
            await bank.start()
            yield bank
        finally:
            await bank.close()
