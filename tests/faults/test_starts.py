"""A gateway dies between taking a signal that starts a run and starting it: it is started all the same, once."""

from __future__ import annotations

import asyncio
import signal
from datetime import timedelta
from uuid import UUID

import httpx
import pytest

from standby import settings
from standby.gateway.keys import make_key
from standby.states import Role, RunState
from tests.gateway.test_processes import Process
from tests.support.forks import Forks
from tests.support.stage import Run, Stage
from tests.support.waiting import wait_until


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
async def test_a_gateway_killed_around_the_start_starts_one_run(
    stage: Stage, forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 22, for starts; row 30: who got no answer sends again, and is told of the run that was started."""
    monkeypatch.setattr(settings, "RECONCILE_EVERY", timedelta(0))
    await stage.deploy("paying.py:paying")
    key, _ = await make_key(stage.ledger, "shop", Role.SENDER)
    points = ("signal.delivered", "start.created")
    dying = [
        Process(forks, stage.ledger_url, stage.folder, point, PREFECT_API_URL=stage.server.url) for point in points
    ]
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=60) as sender:
        try:
            for gateway, name in zip(await asyncio.gather(*(one.ready() for one in dying)), points, strict=True):
                start = {"deployment": "paying/paying", "payload_as": "number"}
                body = {"key": name, "delivery_id": name, "payload": name, "start": start}
                with pytest.raises(httpx.TransportError):
                    await sender.post(f"{gateway.url}/signals/order.placed", json=body)
                assert gateway.process.wait(30) == -signal.SIGKILL
        finally:
            for gateway in dying:
                gateway.close()

    async def started() -> bool:
        await stage.tick()
        return all(start.run_id is not None for start in await stage.ledger.starts.all())

    await wait_until(started, 30)
    starts = {start.correlation: start for start in await stage.ledger.starts.all()}
    assert sorted(starts) == sorted(points)
    flow_runs = await stage.client.read_flow_runs(limit=200)
    for name, start in starts.items():
        made = [flow_run.id for flow_run in flow_runs if flow_run.parameters.get("number") == name]
        assert made == [UUID(start.run_id)], "one, whoever made it"
    run = Run(stage, starts["signal.delivered"].run_id)
    stage.runs.append(run)
    assert await run.rests() is RunState.PARKED
