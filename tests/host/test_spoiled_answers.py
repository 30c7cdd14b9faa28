"""What a host asks of Prefect is answered by a proxy before it, now and then, which says nothing of what was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.settings import PREFECT_WORKER_HEARTBEAT_SECONDS, temporary_settings

from standby.host import worker
from standby.states import RunState
from tests.host.conftest import Inn
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:unclosed (<socket\.|transport <_SelectorSocketTransport):ResourceWarning"),
    pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True),
]

Spoil = Callable[[str, str, int], list[int]]
STATUSES = pytest.mark.parametrize("status", [200, 404], ids=["html", "not found"])


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spoil]:
    """The next request of this kind is answered with a page; the statuses of those that were."""
    rules: list[tuple[str, str, int, list[int]]] = []
    send = httpx.AsyncClient.send

    async def sent(self: httpx.AsyncClient, request: httpx.Request, **options: Any) -> httpx.Response:
        for rule in rules:
            method, ending, status, done = rule
            if request.method == method and request.url.path.endswith(ending) and not done:
                done.append(status)
                return httpx.Response(status, html="<p>maintenance</p>", request=request)
        return await send(self, request, **options)

    monkeypatch.setattr(httpx.AsyncClient, "send", sent)

    def add(method: str, ending: str, status: int) -> list[int]:
        done: list[int] = []
        rules.append((method, ending, status, done))
        return done

    yield add
    assert all(done for *_, done in rules)


@STATUSES
async def test_a_warm_run_that_is_answered_goes_on(inn: Inn, spoil: Spoil, status: int) -> None:
    run = await inn.start("visitor")
    await run.is_warm()
    spoil("GET", f"/flow_runs/{run.id}", status)
    await inn.client.resume_flow_run(UUID(run.id), run_input={"answer": 8})
    await run.is_in(RunState.COMPLETED, RunState.FAILED)
    assert await run.result() == 8


@STATUSES
async def test_a_run_at_work_is_not_failed(inn: Inn, spoil: Spoil, status: int) -> None:
    """It is said that somebody has suspended it."""
    run = await inn.start("worker", steps=1)
    await wait_until(lambda: run.id in inn.host.guests)
    guest = run.guest
    await run.result()
    spoil("GET", f"/flow_runs/{run.id}", status)
    await guest.suspended_by_somebody()


@STATUSES
async def test_a_host_polls_again(inn: Inn, spoil: Spoil, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    await inn.closes()
    monkeypatch.setattr(worker, "POLL_SECONDS", 0.1)
    with temporary_settings({PREFECT_WORKER_HEARTBEAT_SECONDS: 1}):
        await inn.opens()
    done = spoil("POST", "/get_scheduled_flow_runs", status)
    synced = spoil("POST", "/deployments/filter", status)
    await wait_until(lambda: done and synced)
    assert inn._task is not None
    run = await inn.start("visitor", rounds=0)
    assert await run.result() == 0
    assert not inn._task.done()
