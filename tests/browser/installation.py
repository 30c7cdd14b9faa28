"""What a browser meets: a Prefect server with both of its UIs, a stock worker, the sandbox bank, and the agents.

Neither gateway nor keeper: what the bank has settled is told to the run through Prefect's API, by ``settle``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from blocks.payment_provider import PaymentProvider
from deployments.bootstrap import WORK_POOL, bootstrap
from standby import settings
from standby.host.place import attempt_command, fork_server_place
from standby.ledger import Ledger
from standby.states import RunState, WaitState
from tests.bank.process import Bank, running_bank
from tests.support.forks import Forks
from tests.support.server import PrefectServer, prefect_env
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "deployments" / "samples" / "invoices"
AGENTS = Path(__file__).parent / "agents"

PARKS_WITHIN = 120.0
"""Seconds until a run that was started or resumed has parked or ended; most of it is imports, times the load."""


class ServerWithPages(PrefectServer):
    def __init__(self, folder: Path, forks: Forks | None) -> None:
        super().__init__(folder, forks)
        self.settings |= {
            "PREFECT_SERVER_UI_ENABLED": "true",
            "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(folder / "ui"),
            "PREFECT_API_URL": self.url,
        }


class Installation:
    def __init__(self, server: PrefectServer, bank: Bank, ledger: Ledger, client: PrefectClient, worker: Path) -> None:
        self.pages = server.url.removesuffix("/api")
        self.bank, self.ledger, self.client = bank, ledger, client
        self._worker_log = worker

    async def deploy(self, folder: Path, entrypoint: str, name: str) -> None:
        await self.client.create_deployment(
            await self.client.create_flow_from_name(name),
            "test",
            entrypoint=entrypoint,
            path=".",
            pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}],
            work_pool_name=WORK_POOL,
            # As `standby up` has it: an attempt is forked, where a worker would start two interpreters.
            job_variables={"command": attempt_command()},
            tags=[settings.AGENT_TAG],
        )

    async def start(self, name: str, **parameters: Any) -> str:
        """Schedule a run of an agent; the worker takes it up."""
        deployment = await self.client.read_deployment_by_name(f"{name}/test")
        return str((await self.client.create_flow_run_from_deployment(deployment.id, parameters=parameters)).id)

    async def parked(self, run_id: str, *, attempt: int = 1) -> Any:
        """Its one open wait, once this attempt or a later one has parked and Prefect shows it."""

        async def waits() -> Any:
            row = await self.ledger.runs.get(run_id)
            if row is None or row.state != RunState.PARKED or row.attempt < attempt:
                return None
            if (await self.prefect(run_id)).type is not StateType.PAUSED:
                return None
            [wait] = [wait for wait in await self.ledger.waits.of_run(run_id) if wait.state == WaitState.OPEN]
            return wait

        return await wait_until(waits, PARKS_WITHIN, every=0.1, shows=lambda: self._shown(run_id))

    async def parked_at(self, run_id: str, key: str) -> Any:
        """As ``parked``, at the wait ``key``."""
        attempt = 1
        while (wait := await self.parked(run_id, attempt=attempt)).key != key:
            attempt += 1
        return wait

    async def settle(self, run_id: str) -> None:
        """Have the bank settle the run's payment, and tell the run that waits for it."""
        await self.parked_at(run_id, "payment.settled")
        found = await self.bank.client.get("/payments", params={"idempotency_key": f"{run_id}/pay"})
        [payment] = found.json()
        settled = (await self.bank.client.post(f"/payments/{payment['id']}/settle")).json()
        message = {name: settled[name] for name in ("status", "amount", "currency", "settled_at", "reference")}
        told = await self.client.resume_flow_run(UUID(run_id), run_input={"payment_id": settled["id"]} | message)
        assert told.status is SetStateStatus.ACCEPT, told

    async def result(self, run_id: str) -> Any:
        """What it returned, as JSON text; once Prefect says that it has completed."""

        async def ended() -> bool:
            return (await self.prefect(run_id)).is_final()

        await wait_until(ended, PARKS_WITHIN, every=0.1, shows=lambda: self._shown(run_id))
        assert (await self.prefect(run_id)).is_completed(), await self._shown(run_id)
        row = await self.ledger.runs.get(run_id)
        assert row is not None
        return row.result

    async def prefect(self, run_id: str) -> State[Any]:
        state = (await self.client.read_flow_run(UUID(run_id))).state
        assert state is not None
        return state

    async def _shown(self, run_id: str) -> str:
        return "\n".join(
            [
                f"ledger  {await self.ledger.runs.get(run_id)}",
                f"prefect {await self.prefect(run_id)!r}",
                *[f"  {wait}" for wait in await self.ledger.waits.of_run(run_id)],
                *[f"  {decision}" for decision in await self.ledger.waits.decisions_of(run_id)],
                self._worker_log.read_text()[-4000:],
            ]
        )


@asynccontextmanager
async def installation(
    folder: Path, new: Path | None = None, forks: Forks | None = None
) -> AsyncIterator[Installation]:
    """Everything up, with empty databases in ``folder``. The bank settles no payment until it is told to.

    ``new``: a new Prefect database to begin with a copy of. ``forks``: forks the server and the bank.
    """
    home = folder / "home"
    home.mkdir()
    async with AsyncExitStack() as stack:
        server = ServerWithPages(folder / "server", forks)
        stack.callback(server.close)
        if new is not None:
            server.begin_with(new)
        server.launch()
        bank = await stack.enter_async_context(running_bank(folder, forks=forks, settle_after=0))
        await bank.configure(settle="manual")
        ledger_url = f"sqlite:///{home / 'ledger.db'}"
        ledger = await Ledger.connect(ledger_url)
        stack.push_async_callback(ledger.close)
        await server.ready()
        stack.push_async_callback(_let_go_of_events)
        with temporary_settings({PREFECT_API_URL: server.url}):
            await bootstrap()
            await PaymentProvider(base_url=bank.url).asave("default", overwrite=True)
        env = prefect_env(
            folder / "worker",
            PREFECT_API_URL=server.url,
            PREFECT_WORKER_QUERY_SECONDS="1",
            STANDBY_HOME=str(home),
            STANDBY_LEDGER_URL=ledger_url,
        )
        if place := stack.enter_context(fork_server_place(home)):
            env["STANDBY_FORK_SERVER"] = place
            stack.enter_context(_process([sys.executable, "-m", "standby.host.forkserver"], env, folder / "fork.log"))
        log = folder / "worker.log"
        # Without --limit: with one, the worker of Prefect 3.8.8 dies of a run that is resumed before its process ended.
        worker = [sys.executable, "-m", "prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process"]
        stack.enter_context(_process(worker, env, log))
        client = await stack.enter_async_context(PrefectClient(server.url))
        made = Installation(server, bank, ledger, client, log)
        await made.deploy(ROOT, "flows/invoice_agent.py:invoice_agent", "invoice-agent")
        for name in ("waits_for_time", "waits_for_message"):
            await made.deploy(AGENTS, f"waiting_agents.py:{name}", name.replace("_", "-"))
        yield made


async def _let_go_of_events() -> None:
    """Blocks that are read here emit events. One worker sends all of a process's, to the server it met first: this one,
    which ends."""
    await EventsWorker.drain_all(at_exit=False)


@contextmanager
def _process(command: list[str], env: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=log.parent, env=env, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield
    finally:
        # A session of its own, so its number is that of the group: the process and what it has started.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
