"""A stage for agent runs: a Prefect server, a ledger, an outside world, and processes that can be killed at will.

The tests are the worker (``attempt``, ``dies_at``) and call the keeper (``recover``) or let both do what they do
(``rests``).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import ObjectAlreadyExists
from prefect.states import Scheduled

from standby import clock, doors, holder, settings
from standby.keeper import Keeper
from standby.ledger import Ledger
from standby.ledger.signals import Delivery
from standby.states import ENDED, CheckpointState, Door, RunState, WaitState
from tests.support import outside
from tests.support.attempts import ENDS_WITHIN, Attempt, Attempts
from tests.support.laws import SHOWN_AS, broken_laws
from tests.support.server import PrefectServer
from tests.support.waiting import wait_until

POOL = "stage"

AT_ONCE = 2
"""Attempts that run at the same time. A Prefect server on SQLite does fewer a minute with three or four: its writers
get in each other's way, and calls that have to be repeated take up to half a minute."""

ASK_EVERY = 0.2
"""Seconds between two looks at a run, where each look is a call to the server that the attempts need, too."""


class Stage:
    def __init__(
        self, server: PrefectServer, attempts: Attempts, ledger: Ledger, ledger_url: str, folder: Path, project: Path
    ) -> None:
        self.server, self.attempts = server, attempts
        self.client = self.open_client()
        self.ledger, self.ledger_url = ledger, ledger_url
        self.folder, self.project = folder, project
        self.keeper = Keeper(ledger, self.open_client)
        self.outside = folder / "outside"
        self.runs: list[Run] = []
        self.begun: list[Attempt] = []
        self.slots = asyncio.Semaphore(AT_ONCE)
        self._acknowledged: list[str] = []
        self._keeping = False
        self._turn = asyncio.Lock()

    def open_client(self) -> PrefectClient:
        return PrefectClient(self.server.url)

    async def start(self, entrypoint: str, **parameters: Any) -> Run:
        """Schedule a run of the agent (``file.py:function`` in the project); no process works on it yet."""
        deployment = await self.deploy(entrypoint)
        flow_run = await self.client.create_flow_run_from_deployment(deployment, parameters=parameters)
        run = Run(self, str(flow_run.id))
        self.runs.append(run)
        return run

    async def deploy(self, entrypoint: str) -> UUID:
        """The deployment of an agent, ``flow/function``: one for all the tests of a server."""
        deployments = self.server.deployed.setdefault(self.project, {})
        if entrypoint not in deployments:
            with suppress(ObjectAlreadyExists):
                await self.client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
            function = entrypoint.rpartition(":")[2]
            # No worker runs for the pool: the tests start the attempts.
            deployments[entrypoint] = await self.client.create_deployment(
                await self.client.create_flow_from_name(function.replace("_", "-")),
                function,
                entrypoint=entrypoint,
                path=str(self.project),
                work_pool_name=POOL,
                tags=[settings.AGENT_TAG],
            )
        return deployments[entrypoint]

    async def signal(
        self, topic: str, payload: Any, *, key: str | None = None, delivery_id: str | None = None
    ) -> Delivery:
        """Deliver a signal as every door does."""
        delivery = await doors.signal(
            self.ledger, topic=topic, key=key, payload=json.dumps(payload), source="test", delivery_id=delivery_id,
            api_url=self.server.url,
        )  # fmt: skip
        self._acknowledged.append(delivery.signal_id)
        return delivery

    def deeds(self, what: str | None = None, key: str | None = None) -> list[outside.Deed]:
        """What the outside world was asked to do."""
        return outside.deeds(what, key, place=self.outside)

    def open_gate(self, name: str) -> None:
        outside.gate(self.outside, name).touch()

    def close_gate(self, name: str) -> None:
        outside.gate(self.outside, name).unlink()

    async def tick(self) -> None:
        """One round of the keeper, unless one works in the background."""
        async with self._turn:
            if not self._keeping:
                await self.keeper.tick()

    @asynccontextmanager
    async def keeping(self) -> AsyncIterator[None]:
        """A keeper at work in the background, as in any installation; on PostgreSQL it listens already."""
        heard = asyncio.Event()
        work = asyncio.create_task(Keeper(self.ledger, self.open_client).run())
        self._keeping = True
        try:
            if not self.ledger.database.sqlite:
                async with self.ledger.notifications.to(lambda _: heard.set()):
                    await heard.wait()
            yield
        finally:
            self._keeping = False
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def check(self) -> None:
        """The four conditions, after everything has come to rest."""
        assert not (left := [attempt.number for attempt in self.begun if attempt.running]), f"still running: {left}"
        broken = await broken_laws(self.ledger, self.client, self.deeds(), self._acknowledged)
        assert not broken, "\n".join([*broken, *[await run.shown() for run in self.runs]])

    async def clear(self) -> None:
        """Kill the attempts that a failed test has left."""
        for attempt in self.begun:
            if attempt.running:
                await attempt.killed()


@asynccontextmanager
async def playing(stage: Stage) -> AsyncIterator[Stage]:
    """Play on the stage; at the end the conditions are checked, and nothing is left."""
    async with stage.client:
        try:
            yield stage
            await stage.check()
        finally:
            await stage.clear()


class Run:
    """One agent run on the stage."""

    def __init__(self, stage: Stage, run_id: str) -> None:
        self.stage, self.id = stage, run_id
        self.last: Attempt | None = None

    # What a worker does.

    def begin(self, crash_at: str | None = None, *, plain: bool = False, traced: bool = False) -> Attempt:
        """Start a process that works on the run, and do not wait for it. ``plain``: an interpreter of its own."""
        env = {
            "PREFECT__FLOW_RUN_ID": self.id,
            "STANDBY_LEDGER_URL": self.stage.ledger_url,
            "STANDBY_HOME": str(self.stage.folder / "home"),
            "OUTSIDE": str(self.stage.outside),
        }
        if crash_at is not None:
            env["STANDBY_CRASH_AT"] = crash_at
        self.last = self.stage.attempts.begin(env, plain=plain, traced=traced)
        self.stage.begun.append(self.last)
        return self.last

    async def attempt(self, *, plain: bool = False, traced: bool = False) -> Attempt:
        """One attempt to its end: the run waits, has ended, or was another's."""
        async with self.stage.slots:
            attempt = self.begin(plain=plain, traced=traced)
            assert await attempt.ended() >= 0, f"it was killed:\n{attempt.output}"
        return attempt

    async def dies_at(self, point: str, *, plain: bool = False) -> None:
        """One attempt that is killed at ``point`` or ``point:n``."""
        async with self.stage.slots:
            attempt = self.begin(crash_at=point, plain=plain)
            code = await attempt.ended()
        assert code == -9, f"it was not killed at {point} but ended with {code}:\n{attempt.output}"

    # What others do.

    async def recover(self) -> None:
        """The keeper works until the run is scheduled again, or needs nothing."""

        async def recovered() -> bool:
            await self.stage.tick()
            return (await self.prefect()).type is StateType.SCHEDULED or await self.at_rest()

        await wait_until(recovered, 30, every=ASK_EVERY, shows=self.shown)

    async def rests(self, within: float = ENDS_WITHIN) -> RunState:
        """Worker and keeper do what they do until the run waits or has ended; which of it."""

        async def resting() -> bool:
            if await self.at_rest():
                return True
            if (await self.prefect()).type is StateType.SCHEDULED:
                await self.attempt()
            else:
                await self.stage.tick()
            return await self.at_rest()

        await wait_until(resting, within, every=ASK_EVERY, shows=self.shown)
        return RunState((await self.row()).state)

    async def answer(self, answer: Any, *, actor: str = "ada", wait: Any = None) -> doors.Answered:
        """Answer the wait that is open, or this one, as the terminal does."""
        return await doors.answer(
            self.stage.ledger, wait or await self.open_wait(), json.dumps(answer), door=Door.TERMINAL, actor=actor,
            api_url=self.stage.server.url,
        )  # fmt: skip

    async def resume(self, answer: dict[str, Any] | None = None) -> SetStateStatus:
        """Resume through the Prefect API, as the Resume form of its UI does."""
        result = await self.stage.client.resume_flow_run(UUID(self.id), run_input=answer)
        return result.status

    async def retry(self) -> None:
        """What Retry in the Prefect UI does to a run that has ended."""
        result = await self.stage.client.set_flow_run_state(UUID(self.id), Scheduled(name="AwaitingRetry"))
        assert result.status is SetStateStatus.ACCEPT, result

    # What it is.

    async def row(self) -> Any:
        """Its row in the ledger; None before its first attempt."""
        return await self.stage.ledger.runs.get(self.id)

    async def prefect(self) -> State[Any]:
        state = (await self.stage.client.read_flow_run(UUID(self.id))).state
        assert state is not None
        return state

    async def at_rest(self) -> bool:
        """Whether nobody has anything to do for it until somebody answers, and Prefect shows that."""
        row = await self.row()
        if row is None or (expected := SHOWN_AS.get(RunState(row.state))) is None:
            return False
        if row.holder is not None and holder.is_dead(row.holder):
            return False
        now = clock.utcnow()
        if any(wait.deadline is not None and wait.deadline <= now for wait in await self._open_waits()):
            return False
        if (await self.prefect()).type is not expected:
            return False
        # These were several looks: if a wait was settled between them, the run is not where it was.
        return (await self.row()).state == row.state

    async def result(self) -> Any:
        """What it returned, as JSON; it must have completed."""
        row = await self.row()
        assert row is not None, await self.shown()
        assert row.state == RunState.COMPLETED, await self.shown()
        return json.loads(row.result)

    async def error(self) -> str:
        """Why it failed, in the ledger; it must have failed, and Prefect must say the same."""
        row, state = await self.row(), await self.prefect()
        assert row is not None, await self.shown()
        assert row.state == RunState.FAILED, await self.shown()
        kind, _, text = row.error.partition(": ")
        assert state.type is StateType.FAILED, await self.shown()
        assert text[:60] in (state.message or ""), f"Prefect says {state.message!r}, the ledger {row.error!r}"
        assert kind, row.error
        return str(row.error)

    async def waits(self) -> list[Any]:
        return await self.stage.ledger.waits.of_run(self.id)

    async def open_wait(self) -> Any:
        """The one wait that is open."""
        opened = await self._open_waits()
        assert len(opened) == 1, await self.shown()
        return opened[0]

    async def _open_waits(self) -> list[Any]:
        return [wait for wait in await self.waits() if wait.state == WaitState.OPEN]

    async def recorded(self) -> list[str]:
        """Keys of what is recorded in its journal, in order."""
        journal = await self.stage.ledger.checkpoints.journal(self.id)
        done = [entry for entry in journal if entry.state == CheckpointState.RECORDED]
        return [entry.key for entry in sorted(done, key=lambda entry: (entry.position is None, entry.position))]

    async def ended(self) -> bool:
        row = await self.row()
        return row is not None and RunState(row.state) in ENDED

    def deeds(self, what: str) -> list[outside.Deed]:
        """What the outside world was asked to do for this run."""
        return [deed for deed in self.stage.deeds(what) if deed.key.startswith(self.id)]

    async def shown(self) -> str:
        """All there is to know, for a test that fails."""
        lines = [f"run {self.id}", f"  ledger  {await self.row()}", f"  prefect {await self.prefect()!r}"]
        lines += [f"  {entry}" for entry in await self.stage.ledger.checkpoints.journal(self.id)]
        lines += [f"  {wait}" for wait in await self.waits()]
        lines += [f"  {decision}" for decision in await self.stage.ledger.waits.decisions_of(self.id)]
        lines += [f"  {deed}" for deed in self.stage.deeds() if deed.key.startswith(self.id)]
        if self.last is not None:
            lines.append(f"  last attempt ({self.last.number}):\n{self.last.output[-4000:]}")
        return "\n".join(lines)
