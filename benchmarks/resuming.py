"""Real suspended runs: some that a signal wakes, and as many that stock Prefect's resume does, with the same input."""

from __future__ import annotations

import json
from time import perf_counter
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State
from prefect.states import Suspended
from sqlalchemy import update

from benchmarks.open_waits import open_waits, runs, waits
from benchmarks.work import Reading
from standby.ledger import Ledger

SIZE = 50

_SCHEMA = json.dumps(Reading.model_json_schema())


class Resuming:
    """Makes ``size`` suspended runs at a time of a deployment that no worker serves."""

    size = SIZE

    async def __aenter__(self) -> Resuming:
        self._client: PrefectClient = get_client()
        await self._client.__aenter__()
        flow = await self._client.create_flow_from_name("gatekeeper")
        self._deployment = await self._client.create_deployment(flow, "benchmark")
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.__aexit__(None, None, None)

    async def open_waits(self, ledger: Ledger, prefix: str) -> None:
        """Suspended runs that the ledger knows as parked, at waits with the keys ``{prefix}{n}``."""
        await open_waits(ledger, prefix, SIZE)
        for number in range(SIZE):
            run_id = str(await self._suspended(f"{prefix}{number}", {}))
            async with ledger.database.transaction() as connection:
                await connection.execute(
                    update(runs)
                    .where(runs.c.id == f"run-{prefix}{number}")
                    .values(id=run_id, deployment_id=str(self._deployment))
                )
                await connection.execute(
                    update(waits).where(waits.c.id == f"wait-{prefix}{number}").values(run_id=run_id)
                )

    async def resume_stock(self) -> list[float]:
        """Suspend as many with Prefect's own form, and resume each with input; the milliseconds of each answer."""
        taken = []
        for number in range(SIZE):
            keys = {name: f"suspended-1-{name}" for name in ("schema", "description", "response")}
            run_id = await self._suspended("1", keys)
            await self._client.create_flow_run_input(run_id, keys["schema"], _SCHEMA)
            body = {"run_input": {"number": number, "place": "north gate", "level": number / 7}}
            start = perf_counter()
            answer = await self._client.request("POST", "/flow_runs/{id}/resume", path_params={"id": run_id}, json=body)
            taken.append((perf_counter() - start) * 1000)
            if answer.json()["status"] != "ACCEPT":
                raise RuntimeError(f"A run was not resumed: {answer.text}")
        return taken

    async def _suspended(self, pause_key: str, keyset: dict[str, str]) -> UUID:
        state: State[None] = Suspended(pause_key=pause_key)
        if keyset:
            state.state_details.run_input_keyset = keyset
        flow_run = await self._client.create_flow_run_from_deployment(self._deployment)
        await self._client.set_flow_run_state(flow_run.id, state, force=True)
        return flow_run.id
