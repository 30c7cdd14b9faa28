"""The Prefect server of `standby up`: what it does better than a stock one on SQLite."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import httpx

from tests.support.server import PrefectServer

AT_ONCE = 8
TIMES = 5


async def test_what_is_written_at_the_same_time_is_never_refused(prefect_server: PrefectServer) -> None:
    """A stock server answers 503 to some: what they had read was old when they came to write."""
    async with httpx.AsyncClient(base_url=prefect_server.url, timeout=60, trust_env=False) as client:

        async def asked(path: str, body: dict[str, Any]) -> Any:
            answer = await client.post(path, json=body)
            assert answer.is_success, f"{path}: {answer.status_code} {answer.text}"
            return answer.json()

        flow = await asked("/flows/", {"name": f"flow {uuid4().hex}"})
        deployment = await asked("/deployments/", {"name": "written", "flow_id": flow["id"]})

        async def wait_and_resume() -> None:
            for _ in range(TIMES):
                run = await asked(f"/deployments/{deployment['id']}/create_flow_run", {})
                suspended = {"type": "PAUSED", "name": "Suspended"}
                await asked(f"/flow_runs/{run['id']}/set_state", {"state": suspended, "force": True})
                assert (await asked(f"/flow_runs/{run['id']}/resume", {}))["status"] == "ACCEPT"

        await asyncio.gather(*(wait_and_resume() for _ in range(AT_ONCE)))


async def test_a_queue_is_paused_and_goes_on(prefect_server: PrefectServer) -> None:
    """Prefect opens a second session in that transaction, which must not wait for it."""
    async with httpx.AsyncClient(base_url=prefect_server.url, timeout=30, trust_env=False) as client:
        pool = f"pool {uuid4().hex}"
        assert (await client.post("/work_pools/", json={"name": pool, "type": "process"})).is_success
        made = await client.post(f"/work_pools/{pool}/queues", json={"name": "urgent"})
        for address in (f"/work_queues/{made.json()['id']}", f"/work_pools/{pool}/queues/urgent"):
            for is_paused in (True, False):
                assert (await client.patch(address, json={"is_paused": is_paused})).is_success
                queue = (await client.get(f"/work_pools/{pool}/queues/urgent")).json()
                assert queue["is_paused"] is is_paused
        assert (await client.delete(f"/work_pools/{pool}")).is_success
