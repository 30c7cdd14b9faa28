"""Real hosts and stock workers to run agents in, each a process of its own, beside a real gateway and Prefect server.

The agents tell what they do by datagrams with the time on them, so that nothing is polled for a figure.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from time import time
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import psutil
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import StateType
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from benchmarks.gateways import Gateway, gateway
from benchmarks.sending import Block, Sent, send
from standby import settings
from standby.ledger import Ledger
from standby.projection import states_of
from standby.states import RunState

AGENTS = Path(__file__).parent / "agents"
QUICK = bool(os.environ.get("BENCHMARK_QUICK"))
PATIENCE_SECONDS = 900.0
"""How long a thousand agents may take to one point. On SQLite Prefect takes 0.1 s for each of their changes."""


_SHOWN = {
    RunState.PARKED: {StateType.PAUSED},
    RunState.READY: {StateType.PAUSED, StateType.SCHEDULED, StateType.RUNNING},
    RunState.RUNNING: {StateType.RUNNING},
    RunState.COMPLETED: {StateType.COMPLETED},
    RunState.FAILED: {StateType.FAILED, StateType.CRASHED},
    RunState.CANCELLED: {StateType.CANCELLED},
}


class Marks(asyncio.DatagramProtocol):
    """What the agents have said: when, by what and key."""

    def __init__(self) -> None:
        self.at: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._something = asyncio.Event()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        what, key, at = json.loads(data)
        self.at[what, key].append(at)
        self._something.set()

    async def of(self, what: str, keys: Iterable[str], *, after: float = 0.0) -> list[float]:
        """When each has said it for the first time after a time; returns when all have."""
        wanted = list(keys)

        def first(key: str) -> float | None:
            return min((at for at in self.at[what, key] if at >= after), default=None)

        async with asyncio.timeout(PATIENCE_SECONDS):
            while None in (found := [first(key) for key in wanted]):
                self._something.clear()
                await self._something.wait()
        return [at for at in found if at is not None]


class Counter:
    """Stands between a host and Prefect, and counts the requests."""

    def __init__(self, target: int) -> None:
        self._target, self.port = target, 0
        self.seen: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._target)
            await asyncio.gather(self._pass(reader, to_writer, count=True), self._pass(to_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, count: bool = False) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if count:
                    self.seen += [line.decode() for line in re.findall(rb"([A-Z]+ /api[^ ]*) HTTP/1", data)]
                writer.write(data)
                await writer.drain()
        writer.close()


class House:
    """A pool with its deployments, a gateway to signal through, and what agents have said."""

    def __init__(self, client: PrefectClient, door: Gateway, folder: Path, marks: Marks, environment: dict[str, str]):
        self.client, self.gateway, self.ledger, self.marks = client, door, door.ledger, marks
        self.pool = f"benchmark {uuid4().hex[:8]}"
        self._folder, self._environment = folder, environment
        self._deployments: dict[str, UUID] = {}
        self._lines: dict[int, Any] = {}
        self._names: dict[str, list[str]] = {}

    async def open(self) -> None:
        await self.client.create_work_pool(WorkPoolCreate(name=self.pool, type="process"))
        for name in ("waiter", "worker", "stock"):
            self._deployments[name] = await self.client.create_deployment(
                await self.client.create_flow_from_name(name), f"{name} {self.pool}",
                entrypoint=f"waiting.py:{name}", path=str(AGENTS), work_pool_name=self.pool,
                tags=[settings.AGENT_TAG] if name != "stock" else [],
            )  # fmt: skip

    @asynccontextmanager
    async def host(self, *, api_url: str | None = None) -> AsyncIterator[psutil.Process]:
        """A host, which is ready. Killed at the end."""
        async with self._process("standby", "host", "--pool", self.pool, api_url=api_url) as process:
            yield process

    @asynccontextmanager
    async def stock_worker(self) -> AsyncIterator[psutil.Process]:
        """Prefect's own process worker, with Prefect's own settings."""
        async with self._process("prefect", "worker", "start", "--pool", self.pool, "--type", "process") as process:
            yield process

    @asynccontextmanager
    async def _process(self, *command: str, api_url: str | None = None) -> AsyncIterator[psutil.Process]:
        told = {"PREFECT_API_URL": api_url} if api_url else {}
        with (self._folder / f"{command[0]}-{uuid4().hex[:6]}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", *command, env=os.environ | self._environment | told, cwd=AGENTS,
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            yield psutil.Process(process.pid)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def start(self, agent: str, count: int, **parameters: Any) -> list[str]:
        """So many runs, each with a key of its own; the keys. Returns when Prefect has made them.

        All but the last one are made one after the other while the pool is paused: on SQLite, Prefect refuses most
        creations while a host writes, too. The last one has the host look for all.
        """
        prefix = f"{agent}-{uuid4().hex[:6]}-"
        keys = [f"{prefix}{number}" for number in range(count)]
        names = self._names[prefix] = []
        if count > 1:
            await self._pause(True)
        for key in keys:
            if key == keys[-1] and count > 1:
                await self._pause(False)
            names.append(await self._create(agent, key, parameters))
        return keys

    async def _pause(self, is_paused: bool) -> None:
        await self.client.update_work_pool(self.pool, WorkPoolUpdate(is_paused=is_paused))

    async def _create(self, agent: str, key: str, parameters: dict[str, Any]) -> str:
        while True:
            try:
                with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):  # it would wait for seconds
                    made = await self.client.create_flow_run_from_deployment(
                        self._deployments[agent], parameters={"key": key, **parameters}, idempotency_key=key
                    )
                return str(made.id)
            except PrefectHTTPStatusError as busy:
                if busy.response.status_code < 500:
                    raise
                await asyncio.sleep(0.02)

    def ids(self, keys: list[str]) -> list[str]:
        return self._names[keys[0].rpartition("-")[0] + "-"]

    async def are_parked(self, keys: list[str]) -> None:
        """Return when all are parked, in the ledger and in Prefect."""
        ids = set(self.ids(keys))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                rows = {run.id: run.state for run in await self.ledger.runs.all(ended=False) if run.id in ids}
                if len(rows) == len(ids) and set(rows.values()) == {RunState.PARKED}:
                    break
                await asyncio.sleep(0.1)
            last = UUID(self.ids(keys)[-1])
            await self.is_suspended(last)

    async def is_suspended(self, run_id: UUID) -> None:
        while True:
            state = (await self.client.read_flow_run(run_id)).state
            if state is not None and state.type is StateType.PAUSED:
                return
            await asyncio.sleep(0.1)

    async def signal(self, keys: list[str], connections: int = 1, *, topic: str = "go") -> Sent:
        """Signal each through the gateway."""
        block = Block(
            port=self.gateway.port, path=f"/signals/{quote(topic)}", authorization=self.gateway.authorization,
            connections=connections, prefix=keys[0].rpartition("-")[0] + "-", count=len(keys),
        )  # fmt: skip
        return await send(block, self._lines)

    async def signal_one(self, keys: list[str], number: int) -> float:
        """Signal one of them; when that was sent."""
        block = Block(
            port=self.gateway.port, path="/signals/go", authorization=self.gateway.authorization, connections=1,
            prefix=f"{keys[number][:-len(str(number))]}", count=1,
        )  # fmt: skip
        return (await send(block, self._lines, first=number))["sent_at"][0]

    def id_of(self, key: str) -> UUID:
        prefix, _, number = key.rpartition("-")
        return UUID(self._names[f"{prefix}-"][int(number)])

    async def are_quiet(self, of: list[str] | None = None, *, since: float = 0.0) -> None:
        """Return when Prefect knows of all runs, or those of these keys, what the ledger does, and has learned it after
        a time."""
        ids = set(self.ids(of)) if of is not None else None
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                rows = [run for run in await self.ledger.runs.all(ended=True) if run.deployment_id is not None]
                rows = [run for run in rows if ids is None or run.id in ids]
                states = await states_of(self.client, [run.id for run in rows])
                shown = [(run, states[run.id]) for run in rows if run.id in states]
                if len(shown) == len(rows) and all(
                    state.type in _SHOWN[run.state] and state.timestamp.timestamp() >= since for run, state in shown
                ):
                    return
                await asyncio.sleep(0.2)

    async def resume(self, run_id: str, answer: dict[str, Any] | None = None) -> float:
        """Resume through the Prefect API; when it has answered."""
        body = {"run_input": answer} if answer is not None else {}
        made = await self.client.request("POST", "/flow_runs/{id}/resume", path_params={"id": run_id}, json=body)
        if made.json()["status"] != "ACCEPT":
            raise RuntimeError(f"A run was not resumed: {made.text}")
        return time()

    async def close(self) -> None:
        for lines in self._lines.values():
            for line in lines:
                line.writer.close()


@asynccontextmanager
async def house(kind: str, folder: Path) -> AsyncIterator[House]:
    """On a fresh ledger of the kind. Raises ``NoDatabase``."""
    async with AsyncExitStack() as stack:
        door = await stack.enter_async_context(gateway(kind, folder, 0, with_prefect=True))
        transport, marks = await asyncio.get_running_loop().create_datagram_endpoint(Marks, local_addr=("127.0.0.1", 0))
        stack.callback(transport.close)
        place = "{}:{}".format(*transport.get_extra_info("sockname"))
        client = await stack.enter_async_context(get_client())
        environment = {"BENCHMARK_MARKS": place, "STANDBY_HOME": str(folder / f"home-{uuid4().hex[:6]}")}
        made = House(client, door, folder, marks, environment)
        await made.open()
        stack.push_async_callback(made.close)
        yield made


@asynccontextmanager
async def counting() -> AsyncIterator[Counter]:
    """A counter before the benchmark's Prefect server; ``port`` is where it listens."""
    target = int(os.environ["PREFECT_API_URL"].removesuffix("/api").rpartition(":")[2])
    counter = Counter(target)
    server = await asyncio.start_server(counter.serve, "127.0.0.1", 0)
    counter.port = server.sockets[0].getsockname()[1]
    try:
        yield counter
    finally:
        server.close()


def median_of(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


__all__ = ["QUICK", "Counter", "House", "Ledger", "counting", "house", "median_of"]
