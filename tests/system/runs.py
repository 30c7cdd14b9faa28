"""Agent runs of a project that is up, as the ledger, Prefect, the bank and a person at the terminal see them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import StateType

from standby import doors
from standby.ledger import Ledger
from standby.states import ENDED, Door, RunState, WaitKind, WaitState
from tests.bank.process import Bank
from tests.support.waiting import wait_until
from tests.system.project import Project

AGENT = "invoice-agent/invoices"

STEP_WITHIN = 120.0
"""Seconds from one wait of a run to the next, or to its end: a new process for it, which takes three when idle."""


class Runs:
    def __init__(self, project: Project, ledger: Ledger, client: PrefectClient, bank: Bank) -> None:
        self.project, self.ledger, self.client, self.bank = project, ledger, client, bank

    @classmethod
    @asynccontextmanager
    async def of(cls, project: Project) -> AsyncIterator[Runs]:
        async with project.ledger() as ledger, PrefectClient(project.api_url) as client, project.bank() as bank:
            yield cls(project, ledger, client, bank)

    async def start(self, deployment: str = AGENT, *, idempotency_key: str | None = None, **parameters: Any) -> str:
        """Start a run of a deployment, one for each key; its id."""
        found = await self.client.read_deployment_by_name(deployment)
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in parameters.items()}
        run = await self.client.create_flow_run_from_deployment(
            found.id, parameters=plain, idempotency_key=idempotency_key
        )
        return str(run.id)

    async def row(self, run_id: str) -> Any:
        return await self.ledger.runs.get(run_id)

    async def ends(self, run_id: str, within: float = STEP_WITHIN) -> Any:
        """Its row when it has ended, in the ledger and in Prefect."""

        async def ended() -> Any:
            row = await self.row(run_id)
            if row is None or RunState(row.state) not in ENDED:
                return None
            state = (await self.client.read_flow_run(run_id)).state
            return row if state is not None and state.is_final() else None

        return await wait_until(ended, within, every=0.1, shows=lambda: self.shown(run_id))

    async def receipt(self, run_id: str, within: float = STEP_WITHIN) -> dict[str, Any]:
        """What it returned when it has completed."""
        row = await self.ends(run_id, within)
        assert row.state == RunState.COMPLETED, await self.shown(run_id)
        receipt: dict[str, Any] = json.loads(row.result)
        return receipt

    async def error(self, run_id: str) -> str:
        """Why it failed, the same in Prefect."""
        row = await self.ends(run_id)
        state = (await self.client.read_flow_run(run_id)).state
        assert row.state == RunState.FAILED, await self.shown(run_id)
        assert state is not None
        assert state.type is StateType.FAILED, state
        return str(row.error)

    async def waits(self, run_id: str, kind: WaitKind = WaitKind.APPROVAL, within: float = STEP_WITHIN) -> Any:
        """The open wait of a kind, when the run is parked at it."""

        async def parked() -> Any:
            row = await self.row(run_id)
            if row is None or row.state != RunState.PARKED:
                assert row is None or RunState(row.state) not in ENDED, f"it has ended: {row}"
                return None
            opened = await self.ledger.waits.open_ones([run_id])
            return next((wait for wait in opened if wait.kind == kind), None)

        return await wait_until(parked, within, every=0.1, shows=lambda: self.shown(run_id))

    async def answer(self, run_id: str, by: str = "ada", within: float = STEP_WITHIN, **form: Any) -> doors.Answered:
        """Answer the approval it asks for, as the terminal does."""
        wait = await self.waits(run_id, within=within)
        return await doors.answer(
            self.ledger, wait, json.dumps(form), door=Door.TERMINAL, actor=by, api_url=self.project.api_url
        )

    async def answer_twice(self, run_id: str, **form: Any) -> None:
        """The same answer of two people, which together decide."""
        assert (await self.answer(run_id, "ada", **form)).counted
        assert (await self.answer(run_id, "bob", **form)).won

    async def payments(self, run_id: str) -> list[dict[str, Any]]:
        """What the bank has been ordered to pay for the run."""
        found = await self.bank.client.get("/payments", params={"idempotency_key": f"{run_id}/pay"})
        assert found.is_success, found.text
        payments: list[dict[str, Any]] = found.json()
        return payments

    async def asked(self, run_id: str) -> list[tuple[str, int | None]]:
        """Every request the bank has had about the run's payment: method and answer, in order."""
        return [(each["method"], each["status"]) for each in await self.bank.log()
                if each["idempotency_key"] == f"{run_id}/pay"]  # fmt: skip

    async def shown(self, run_id: str) -> str:
        """All there is to know, for a test that fails."""
        lines = [f"run {run_id}", f"  ledger  {await self.row(run_id)}"]
        lines += [f"  {entry.key} {entry.state}" for entry in await self.ledger.checkpoints.journal(run_id)]
        lines += [f"  {wait.key} {wait.state} {wait.outcome} {wait.reason}"
                  for wait in await self.ledger.waits.of_run(run_id) if wait.state != WaitState.CLOSED]  # fmt: skip
        return "\n".join([*lines, self.project.logs()])
