"""Real gateways to send to: ``standby gateway`` as a process of its own, on a ledger with open waits."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil

from benchmarks.ledgers import ledger
from benchmarks.open_waits import open_waits
from benchmarks.server import free_port
from standby.gateway.keys import make_key
from standby.ledger import Ledger
from standby.states import Role

START_SECONDS = 60.0


class Gateway(NamedTuple):
    """A gateway on a ledger of its own. ``authorization`` is the header of a sender."""

    ledger: Ledger
    port: int
    authorization: str
    process: psutil.Process

    def busy_ms(self) -> float:
        """Processor time that it has used so far, in milliseconds."""
        times = self.process.cpu_times()
        return (times.user + times.system) * 1000


@asynccontextmanager
async def gateway(kind: str, folder: Path, waits: int, *, with_prefect: bool = False) -> AsyncIterator[Gateway]:
    """A gateway on a fresh ledger of the kind with so many open waits. Raises ``NoDatabase``.

    ``with_prefect``: it knows the benchmark's Prefect server, and wakes runs there.
    """
    async with ledger(kind, folder):
        url = os.environ["STANDBY_LEDGER_URL"]
        opened = await Ledger.connect(url)
        try:
            await open_waits(opened, "idle-", waits)
            key, _ = await make_key(opened, "benchmark", Role.SENDER)
            port = free_port()
            environment = {"STANDBY_LEDGER_URL": url, "STANDBY_HOME": str(folder / f"home-{port}")}
            log = folder / f"gateway-{port}.log"
            async with _process(port, environment, log, with_prefect=with_prefect) as process:
                yield Gateway(opened, port, f"Bearer {key}", process)
        finally:
            await opened.close()


@asynccontextmanager
async def _process(
    port: int, environment: dict[str, str], log: Path, *, with_prefect: bool
) -> AsyncIterator[psutil.Process]:
    inherited = {name: value for name, value in os.environ.items() if with_prefect or name != "PREFECT_API_URL"}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "standby", "gateway", "--port", str(port), env=inherited | environment,
            stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        async with asyncio.timeout(START_SECONDS), httpx.AsyncClient(trust_env=False) as client:
            while not await _answers(client, port):
                if process.returncode is not None:
                    raise RuntimeError(f"The gateway did not start:\n{log.read_text(errors='replace')[-2000:]}")
                await asyncio.sleep(0.1)
        yield psutil.Process(process.pid)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _answers(client: httpx.AsyncClient, port: int) -> bool:
    try:
        return (await client.get(f"http://127.0.0.1:{port}/health")).is_success
    except httpx.TransportError:
        return False
