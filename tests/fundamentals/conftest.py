"""A desk to run agents at: in this process, on a real Prefect server, with a ledger of the test's own."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.context import SettingsContext, get_settings_context
from prefect.flow_engine import run_flow_async
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
from prefect.states import Pending

from standby import doors
from standby.ledger import Ledger
from standby.ledger.signals import Delivery
from standby.states import Door, WaitState
from tests.support.server import PrefectServer
from tests.support.waiting import wait_until

# Prefect's engine leaves sockets of its event clients to the garbage collector.
SOCKETS = pytest.mark.filterwarnings(r"ignore:unclosed (<socket\.|transport <_SelectorSocketTransport):ResourceWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(SOCKETS)


class Interrupted(Exception):
    """What ends a first attempt."""


class Interruption:
    """Called in an agent it ends the first attempt there; the ones after it pass."""

    def __init__(self) -> None:
        self.over = False

    def __call__(self) -> None:
        if not self.over:
            self.over = True
            raise Interrupted("The first attempt ends here.")


class Desk:
    def __init__(self, client: PrefectClient, ledger: Ledger, url: str, prefect: SettingsContext) -> None:
        self.client, self.ledger, self.url, self.prefect = client, ledger, url, prefect
        self.runs: list[Run] = []

    async def start(self, agent: Flow[..., Any], **parameters: Any) -> "Run":
        """A new run, at work beside the test."""
        flow_run = await self.client.create_flow_run(agent, parameters=parameters, state=Pending())
        run = Run(self, agent, str(flow_run.id), parameters)
        self.runs.append(run)
        run.begin()
        return run

    async def run(self, agent: Flow[..., Any], **parameters: Any) -> Any:
        """A new run to its end; what it returns."""
        return await (await self.start(agent, **parameters)).result()

    async def interrupted(self, agent: Flow[..., Any], **parameters: Any) -> "Run":
        """A new run whose first attempt has been interrupted."""
        run = await self.start(agent, **parameters)
        with pytest.raises(Interrupted):
            await run.result()
        return run

    async def signal(self, topic: str, payload: Any = None, *, key: str | None = None) -> Delivery:
        """A message from outside."""
        return await doors.signal(
            self.ledger, topic=topic, key=key, payload=json.dumps(payload), source="test", delivery_id=None,
            api_url=self.url,
        )  # fmt: skip


class Run:
    """One agent run."""

    def __init__(self, desk: Desk, agent: Flow[..., Any], run_id: str, parameters: dict[str, Any]) -> None:
        self.desk, self.agent, self.id, self.parameters = desk, agent, run_id, parameters
        self.attempt: asyncio.Task[Any] | None = None

    def begin(self, agent: Flow[..., Any] | None = None) -> None:
        """Another attempt, which replays what the earlier ones did; with the code of ``agent`` from here on."""
        assert self.attempt is None or self.attempt.done()
        self.agent = agent or self.agent
        self.attempt = asyncio.create_task(self._attempt())

    async def _attempt(self) -> Any:
        with self.desk.prefect.model_copy():
            flow_run = await self.desk.client.read_flow_run(self.id)  # type: ignore[arg-type]
            return await run_flow_async(self.agent, flow_run=flow_run, parameters=self.parameters)

    async def result(self) -> Any:
        """What the attempt returns or raises."""
        assert self.attempt is not None
        return await asyncio.wait_for(asyncio.shield(self.attempt), 30)

    async def again(self, agent: Flow[..., Any] | None = None) -> Any:
        """Another attempt to its end."""
        self.begin(agent)
        return await self.result()

    async def paused(self) -> Any:
        """Its flow run on the server, once that shows it as paused."""

        async def found() -> Any:
            flow_run = await self.desk.client.read_flow_run(UUID(self.id))
            return flow_run if flow_run.state is not None and flow_run.state.is_paused() else None

        return await wait_until(found, 30)

    async def open_waits(self) -> list[Any]:
        """What it waits for, once it waits."""

        async def waiting() -> list[Any]:
            assert self.attempt is not None
            if self.attempt.done():
                raise AssertionError(f"it does not wait, it ended: {self.attempt.exception() or self.attempt.result()}")
            return [wait for wait in await self.waits() if wait.state == WaitState.OPEN]

        return await wait_until(waiting, 30)

    async def waits(self) -> list[Any]:
        """All its waits, in the order they were opened."""
        return await self.desk.ledger.waits.of_run(self.id)

    async def answer(self, answer: Any, *, key: str | None = None, actor: str = "ada") -> doors.Answered:
        """Answer the wait that is open, or the one of several with this key."""

        async def found() -> Any:
            return next((wait for wait in await self.open_waits() if key in (None, wait.key)), None)

        wait = await wait_until(found, 30)
        return await self.answer_to(wait, answer, actor=actor)

    async def answer_to(self, wait: Any, answer: Any, *, actor: str = "ada") -> doors.Answered:
        return await doors.answer(
            self.desk.ledger, wait, json.dumps(answer), door=Door.TERMINAL, actor=actor, api_url=self.desk.url
        )

    async def journal(self) -> dict[str, str]:
        """Its checkpoints in order: key and state."""
        entries = await self.desk.ledger.checkpoints.journal(self.id)
        entries.sort(key=lambda entry: (entry.position is None, entry.position, entry.key))
        return {entry.key: entry.state for entry in entries}

    async def task_runs(self, *, up_to: str) -> Counter[str]:
        """Its task runs on the server, by name: Prefect reports them in order, so with ``up_to`` all are there."""

        async def names() -> Counter[str] | None:
            mine = FlowRunFilter(id=FlowRunFilterId(any_=[self.id]))  # type: ignore[list-item]
            found = Counter(run.name for run in await self.desk.client.read_task_runs(flow_run_filter=mine))
            return found if up_to in found else None

        found = await wait_until(names, 30, every=0.1)
        assert found is not None
        return found


@pytest.fixture(scope="session")
def prefect_settings(prefect_server: PrefectServer) -> SettingsContext:
    """Prefect's settings in an attempt, made once: that takes a tenth of a second."""
    with temporary_settings({PREFECT_API_URL: prefect_server.url, PREFECT_LOGGING_TO_API_ENABLED: False}):
        return get_settings_context().model_copy()


@pytest.fixture
def desk_url(request: pytest.FixtureRequest) -> str:
    """The desk's ledger: on SQLite, or as the test's indirect parameter says."""
    return str(request.getfixturevalue(getattr(request, "param", "sqlite_url")))


@pytest.fixture
async def desk(
    prefect_server: PrefectServer,
    prefect_settings: SettingsContext,
    desk_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Desk]:
    url = desk_url
    monkeypatch.setenv("STANDBY_LEDGER_URL", url)
    monkeypatch.setenv("STANDBY_HOME", str(tmp_path / "home"))
    ledger = await Ledger.connect(url)
    async with PrefectClient(prefect_server.url) as client:
        desk = Desk(client, ledger, prefect_server.url, prefect_settings)
        yield desk
        left = [run.attempt for run in desk.runs if run.attempt is not None and not run.attempt.done()]
        for attempt in left:
            attempt.cancel()
        await asyncio.gather(*left, return_exceptions=True)
    await ledger.close()
    assert not left, "a test leaves no attempt at work"


@pytest.fixture
def interruption() -> Interruption:
    return Interruption()
