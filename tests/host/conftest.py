"""An inn: a host in this process, on a real Prefect server, with a ledger and a work pool of the test's own."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import State, StateType
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from standby import doors, settings
from standby.host.guest import Guest, Phase
from standby.host.host import Host
from standby.host.worker import HostWorker
from standby.ledger import Ledger
from standby.states import RunState
from tests.support import outside
from tests.support.server import PrefectServer
from tests.support.waiting import WITHIN, wait_until

Spoil = Callable[..., list[int]]
Spoiled = Callable[[int, httpx.Request], httpx.Response]

AGENTS = Path(__file__).parent / "agents"


class Run:
    def __init__(self, inn: Inn, run_id: str) -> None:
        self.inn, self.id = inn, run_id

    async def row(self) -> Any:
        return await self.inn.ledger.runs.get(self.id)

    async def prefect(self) -> State[Any]:
        state = (await self.inn.client.read_flow_run(UUID(self.id))).state
        assert state is not None
        return state

    @property
    def guest(self) -> Guest:
        return self.inn.host.guests[self.id]

    async def is_in(self, *states: RunState, within: float = WITHIN) -> Any:
        """Its row in the ledger, once it is in one of these states."""

        async def row() -> Any:
            row = await self.row()
            return row if row is not None and row.state in states else None

        return await wait_until(row, within, shows=self.shown)

    async def is_shown(self, *types: StateType) -> State[Any]:
        """Its state in Prefect, once it is one of these."""

        async def state() -> State[Any] | None:
            state = await self.prefect()
            return state if state.type in types else None

        found = await wait_until(state, every=0.1, shows=self.shown)
        assert found is not None
        return found

    async def is_shown_as(self, name: str) -> None:
        """Return when Prefect shows it under this name."""

        async def named() -> bool:
            return (await self.prefect()).name == name

        await wait_until(named, every=0.1, shows=self.shown)

    async def is_warm(self) -> None:
        """Return when it is parked warm, and Prefect shows it as suspended."""
        await self.is_in(RunState.PARKED)
        await wait_until(lambda: self.id in self.inn.host.guests and self.guest.phase is Phase.WARM, shows=self.shown)
        await self.inn.host.following.drained(self.id)
        assert (await self.prefect()).name == "Suspended", await self.shown()

    async def states(self) -> set[StateType]:
        """All that Prefect has shown it as."""
        return {state.type for state in await self.inn.client.read_flow_run_states(UUID(self.id))}

    async def result(self, within: float = WITHIN) -> Any:
        row = await self.is_in(RunState.COMPLETED, RunState.FAILED, RunState.CANCELLED, within=within)
        assert row.state == RunState.COMPLETED, await self.shown()
        await self.is_shown(StateType.COMPLETED)
        return json.loads(row.result)

    async def signal(self, topic: str, number: int) -> None:
        await self.inn.signal(topic, self.id, number)

    def deeds(self, what: str) -> int:
        return len([deed for deed in outside.deeds(what) if deed.key.startswith(self.id)])

    async def shown(self) -> str:
        guest = self.inn.host.guests.get(self.id)
        return f"{await self.row()}\n{await self.prefect()!r}\nhere: {guest.phase if guest else 'not'}"


class Inn:
    def __init__(self, client: PrefectClient, ledger: Ledger, url: str, limit: int | None) -> None:
        self.client, self.ledger, self.url = client, ledger, url
        self.pool = f"inn {uuid4().hex[:8]}"
        self.limit = limit
        self.worker: HostWorker
        self._deployments: dict[tuple[str, str], UUID] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def host(self) -> Host:
        assert self.worker.host is not None
        return self.worker.host

    async def opens(self) -> None:
        self.worker = HostWorker(work_pool_name=self.pool, name=f"worker of {self.pool}", limit=self.limit)
        self._task = asyncio.create_task(self.worker.start(printer=lambda *_: None))

        def is_open() -> bool:
            assert self._task is not None
            if self._task.done():
                self._task.result()
            return self.worker.host is not None and self.worker.host.open

        await wait_until(is_open)

    async def closes(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            self.worker.stop()
            await task

    async def deploy(self, function: str, **options: Any) -> UUID:
        key = (function, json.dumps(options, sort_keys=True, default=str))
        if key not in self._deployments:
            self._deployments[key] = await self.client.create_deployment(
                await self.client.create_flow_from_name(function),
                f"{function} {uuid4().hex[:6]}",
                **({"entrypoint": f"guests.py:{function}", "path": str(AGENTS), "work_pool_name": self.pool,
                    "tags": [settings.AGENT_TAG]} | options),
            )  # fmt: skip
        return self._deployments[key]

    async def start(self, function: str, **parameters: Any) -> Run:
        flow_run = await self.client.create_flow_run_from_deployment(await self.deploy(function), parameters=parameters)
        return Run(self, str(flow_run.id))

    async def signal(self, topic: str, key: str, number: int) -> None:
        made = await doors.signal(
            self.ledger, topic=topic, key=key, payload=json.dumps(number), source="test", delivery_id=None,
            api_url=self.url,
        )  # fmt: skip
        assert made.disposition == "delivered", made


@pytest.fixture
def calls(inn: Inn) -> Callable[[], list[str]]:
    """What the host has asked of the Prefect API since the last look."""
    seen: list[str] = []

    async def note(response: Any) -> None:
        if response.is_success:  # a busy server is asked again
            seen.append(f"{response.request.method} {response.request.url.path}")

    inn.host.client._client.event_hooks["response"].append(note)

    def since() -> list[str]:
        now = list(seen)
        seen.clear()
        return now

    return since


def page(status: int, request: httpx.Request) -> httpx.Response:
    return httpx.Response(status, html="<p>maintenance</p>", request=request)


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spoil]:
    """The next requests of this kind (``holding``: in their body) are answered with a page, by default one, or as
    ``answer`` says; the statuses of those that were. ``lands``: Prefect has them all the same."""
    rules: list[tuple[str, str, int, bytes, int, bool, Spoiled, list[int]]] = []
    send = httpx.AsyncClient.send

    async def sent(self: httpx.AsyncClient, request: httpx.Request, **options: Any) -> httpx.Response:
        for rule in rules:
            method, ending, status, holding, times, lands, answer, done = rule
            asked = request.method == method and request.url.path.endswith(ending)
            if asked and len(done) < times and holding in request.content:
                done.append(status)
                if lands:
                    await send(self, request, **options)
                return answer(status, request)
        return await send(self, request, **options)

    monkeypatch.setattr(httpx.AsyncClient, "send", sent)

    def add(
        method: str,
        ending: str,
        status: int,
        holding: bytes = b"",
        times: int = 1,
        lands: bool = False,
        answer: Spoiled = page,
    ) -> list[int]:
        done: list[int] = []
        rules.append((method, ending, status, holding, times, lands, answer, done))
        return done

    yield add
    assert all(done for *_, done in rules)


@pytest.fixture
def limit(request: pytest.FixtureRequest) -> int | None:
    return getattr(request, "param", None)


@pytest.fixture
async def inn(
    prefect_server: PrefectServer,
    ledger_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: int | None,
) -> AsyncIterator[Inn]:
    monkeypatch.setenv("STANDBY_LEDGER_URL", ledger_url)
    monkeypatch.setenv("STANDBY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OUTSIDE", str(tmp_path / "outside"))
    monkeypatch.chdir(AGENTS)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "outside").touch()
    async with AsyncExitStack() as stack:
        stack.enter_context(
            temporary_settings({PREFECT_API_URL: prefect_server.url, PREFECT_LOGGING_TO_API_ENABLED: False})
        )
        client = await stack.enter_async_context(PrefectClient(prefect_server.url))
        ledger = await Ledger.connect(ledger_url)
        stack.push_async_callback(ledger.close)
        inn = Inn(client, ledger, prefect_server.url, limit)
        await client.create_work_pool(WorkPoolCreate(name=inn.pool, type="process"))
        await inn.opens()
        stack.push_async_callback(inn.closes)
        yield inn
