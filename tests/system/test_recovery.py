"""SIGKILL of everything there is, while invoices are being approved: all of them end by themselves, paid once."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
from prefect.exceptions import PrefectHTTPStatusError
from sqlalchemy import func, select

from standby import doors, holder, settings
from standby.ledger.tables import Checkpoint, table_of
from standby.states import ENDED, CheckpointState, Door, RunState, WaitKind
from tests.support.server import PrefectServer
from tests.support.waiting import wait_until
from tests.system.invoices import write_invoice
from tests.system.project import Project, Up
from tests.system.runs import Runs

NOTICED_WITHIN = (settings.START_GRACE + settings.RECONCILE_EVERY).total_seconds()
"""Seconds until whatever was killed is noticed, at most (the recovery bounds in docs/guarantees.md): 40."""

WORK_WITHIN = 200.0
"""Seconds for the work that is left then: some processes of three seconds each, two at a time."""

AT_WORK = 2
"""Invoices that are on their way at each kill."""

Kill = Callable[[], Awaitable[None]]
checkpoints = table_of(Checkpoint)


class Storm:
    """A project that is up, and ways to hurt it. ``kills`` says what was killed, for a test that fails."""

    def __init__(self, project: Project, runs: Runs, up: Up, folder: Path) -> None:
        self.project, self.runs, self.up = project, runs, up
        self.folder = folder
        self.kills: list[str] = []
        self.started: list[str] = []

    async def a_flow_process_in_the_middle_of_a_payment(self) -> None:
        async def paying() -> psutil.Process | None:
            for run in await self.runs.ledger.runs.held():
                entry = await self.runs.ledger.checkpoints.find(run.id, "pay")
                if run.holder and entry is not None and entry.state == CheckpointState.INTENDED:
                    pid = int(run.holder.rsplit("/", 2)[1])
                    if not holder.is_dead(run.holder):
                        return psutil.Process(pid)
            return None

        (await wait_until(paying, NOTICED_WITHIN + WORK_WITHIN, every=0.01, shows=self.shown)).kill()

    async def the_worker(self) -> None:
        self.project.children()["worker"].kill()
        await self.up.says("The worker stopped (signal SIGKILL) and is started again.", 10)

    async def the_server(self) -> None:
        self.project.children()["server"].kill()
        await self.up.says("The server stopped (signal SIGKILL) and is started again.", 10)

    async def up_alone(self) -> None:
        """Its children live on without it, until the next one stops them."""
        left = self.project.children()
        self.up.kill()
        assert left.keys() == {"server", "bank", "gateway", "worker"}
        assert all(process.is_running() for process in left.values())
        self.up = await self.project.up().ready()
        assert not [name for name, process in left.items() if alive(process)]

    async def everything_at_once(self) -> None:
        self.up.kill()
        for process in self.project.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        await self.project.gone()
        self.up = await self.project.up().ready()

    async def checkpoints(self) -> int:
        """How many checkpoints there are, of all runs."""
        rows = await self.runs.ledger.database.read(select(func.count()).select_from(checkpoints))
        return int(rows[0][0])

    async def comes_further(self, by: int) -> None:
        """Return when the runs have, together, come ``by`` checkpoints further, and some are on their way."""
        goal = await self.checkpoints() + by

        async def further() -> bool:
            rows = {row.id: row.state for row in await self.runs.ledger.runs.all(ended=True)}
            if sum(rows.get(run) not in ENDED for run in self.started) < AT_WORK:
                with suppress(httpx.TransportError, PrefectHTTPStatusError):  # while the server comes back
                    self.started.append(await self.one_more())
                return False
            return await self.checkpoints() >= goal

        await wait_until(further, NOTICED_WITHIN + WORK_WITHIN, every=0.01, shows=self.shown)

    async def one_more(self) -> str:
        number = f"STORM-{len(self.started)}"
        return await self.runs.start(path=write_invoice(self.folder, number), idempotency_key=number)

    async def shown(self) -> str:
        rows = await self.runs.ledger.runs.all(ended=True)
        return "\n".join([f"killed: {self.kills}", *[await self.runs.shown(row.id) for row in rows]])


@asynccontextmanager
async def somebody_approves(runs: Runs) -> AsyncIterator[None]:
    """A person who answers every question as soon as it is asked, whatever else goes on."""

    async def approve() -> None:
        while True:
            for wait in await runs.ledger.waits.open_ones():
                if wait.kind == WaitKind.APPROVAL:
                    answer = json.dumps({"approved": True, "account": "6000"})
                    await doors.answer(
                        runs.ledger, wait, answer, door=Door.TERMINAL, actor="ada", api_url=runs.project.api_url
                    )
            await asyncio.sleep(0.2)

    person = asyncio.create_task(approve())
    try:
        yield
        assert not person.done(), person.exception()
    finally:
        person.cancel()
        await asyncio.gather(person, return_exceptions=True)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1])
async def test_whatever_is_killed_every_invoice_is_paid_once(
    project: Project, server_and_new_database: tuple[PrefectServer, Path], tmp_path: Path, seed: int
) -> None:
    """Each kill comes when the runs, together, have come some random way further since the one before."""
    chance = random.Random(seed)
    project.begin_with(server_and_new_database[1])
    up = await project.up().ready()
    async with Runs.of(project) as runs, somebody_approves(runs):
        storm = Storm(project, runs, up, tmp_path)
        await runs.bank.configure(slow_seconds=0.5, settle_after=0.5)
        kills: list[Kill] = [storm.the_worker, storm.the_server, storm.up_alone, storm.everything_at_once]
        chance.shuffle(kills)
        kills.insert(0, storm.a_flow_process_in_the_middle_of_a_payment)  # all the payments are still to come
        for kill in kills:
            await storm.comes_further(by=chance.randint(1, 5))
            storm.kills.append(kill.__name__)
            await kill()

        deadline = time.monotonic() + NOTICED_WITHIN + WORK_WITHIN
        for run in storm.started:
            receipt = await runs.receipt(run, within=deadline - time.monotonic())
            assert (receipt["outcome"], receipt["amount"], receipt["account"]) == ("paid", "340.20", "6000")
            assert len(await runs.payments(run)) == 1, await storm.shown()
        assert (await runs.bank.counts())["payments"] == len(storm.started)
        assert {row.state for row in await runs.ledger.runs.all(ended=True)} == {RunState.COMPLETED}
        doctor = await project.standby("doctor")
        assert (doctor.code, doctor.out) == (0, "All is well.\n"), doctor
    assert (await storm.up.interrupted()).code == 0
    await project.gone()


def alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
