"""Run by hand: the same command goes on with what was interrupted."""

import asyncio
import os
import signal
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from prefect.exceptions import Abort

from standby import agent, flows, run_here, settings, step
from standby.errors import RunStopped
from standby.ledger import database
from tests.fundamentals.conftest import Desk


class Lock:
    """Another process's, on the ledger: as long as it is held nobody can write."""

    def __init__(self, file: str) -> None:
        self._connection = sqlite3.connect(file, isolation_level=None)

    def take(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def let_go(self) -> None:
        self._connection.rollback()

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def lock(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lock]:
    """With attempts that give up soon, and leases that are over soon."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 50)
    monkeypatch.setattr(settings, "LEASE", timedelta(seconds=1))
    monkeypatch.setattr(settings, "RENEW_EVERY", timedelta(seconds=0.2))
    lock = Lock(os.environ["STANDBY_LEDGER_URL"].partition("///")[2])
    yield lock
    lock.close()


@pytest.fixture
def by_hand(desk: Desk) -> Any:
    """Runs an agent as its command does, at the desk."""

    async def command(agent: Any, **parameters: Any) -> Any:
        async def here() -> Any:
            with desk.prefect.model_copy():
                return await run_here(agent, **parameters)

        return await asyncio.wait_for(asyncio.create_task(here()), 30)

    return command


async def test_a_ledger_that_is_away_for_a_while_loses_no_run(desk: Desk, lock: Lock, by_hand: Any) -> None:
    """G1: away when a step is done, and still away when the same command is given again."""
    charged = []

    @step
    async def charge(amount: int) -> int:
        charged.append(amount)
        return amount

    @step
    async def report() -> str:
        if len(charged) == 1 and not reported:
            lock.take()
        reported.append("report")
        return "reported"

    @agent
    async def pay_by_hand(amount: int) -> str:
        await charge(amount)
        return await report()

    reported: list[str] = []
    with pytest.raises(RunStopped, match=r"'report'.*run the same again, and it goes on"):
        await by_hand(pay_by_hand, amount=7)
    with pytest.raises(RunStopped, match=r"database is locked.*run the same again, and it goes on"):
        await by_hand(pay_by_hand, amount=7)
    lock.let_go()
    assert await by_hand(pay_by_hand, amount=7) == "reported"
    assert charged == [7]
    [run] = await desk.ledger.runs.all(ended=True)
    assert (run.flow, run.state) == ("pay-by-hand", "completed")


@pytest.mark.parametrize("in_group", [False, True])
async def test_a_ledger_that_is_back_when_the_attempt_ends_loses_no_run(
    desk: Desk, lock: Lock, by_hand: Any, in_group: bool
) -> None:
    """What was not written down in time does not fail a run that nobody could retry."""
    charged = []

    @step
    async def charge() -> int:
        charged.append("charge")
        return 7

    @step
    async def report() -> str:
        if not reported:
            lock.take()
        reported.append("report")
        return "reported"

    @agent
    async def pay_late_by_hand(in_group: bool) -> str:
        await charge()
        try:
            if not in_group:
                return await report()
            async with asyncio.TaskGroup() as group:
                reporting = group.create_task(report.with_options(key="report")())
            return reporting.result()
        finally:
            lock.let_go()

    reported: list[str] = []
    with pytest.raises(RunStopped, match="'report'"):
        await by_hand(pay_late_by_hand, in_group=in_group)
    assert await by_hand(pay_late_by_hand, in_group=in_group) == "reported"
    assert charged == ["charge"]


async def test_a_run_whose_end_prefect_has_not_heard_of_gives_its_result(
    desk: Desk, by_hand: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two, or with Prefect away by then."""
    charged = []

    @step
    async def charge() -> int:
        charged.append("charge")
        return 7

    @agent
    async def charge_by_hand() -> int:
        return await charge()

    def dies(point: str) -> None:
        if point == "run.ended":
            raise Abort("It goes no further.")

    with monkeypatch.context() as patched:
        patched.setattr(flows, "reach", dies)
        with pytest.raises(RunStopped):
            await by_hand(charge_by_hand)
    assert await by_hand(charge_by_hand) == 7
    assert charged == ["charge"]


class Tidying:
    """Agents with a step that tidies up when the one before it is cut off, and what their steps have done."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.begun = asyncio.Event()
        self.quick = False

        @step
        async def work() -> str:
            self.did.append("work")
            self.begun.set()
            if not self.quick:
                await asyncio.Event().wait()
            return "worked"

        @step
        async def tidy_up() -> None:
            self.did.append("tidy up")

        @agent
        async def tidies_finally() -> str:
            try:
                return await work.with_options(key="work")()
            finally:
                await tidy_up.with_options(key="tidy-up")()

        @agent
        async def tidies_when_cancelled() -> str:
            try:
                return await work.with_options(key="work")()
            except asyncio.CancelledError:
                await tidy_up()
                raise

        @agent
        async def goes_on_when_cancelled() -> str:
            try:
                return await work.with_options(key="work")()
            except asyncio.CancelledError:
                await tidy_up()
                return "cancelled"

        @agent
        async def tidies_in_a_branch() -> str:
            async def branch() -> str:
                try:
                    return await work.with_options(key="work")()
                finally:
                    await tidy_up.with_options(key="tidy-up")()

            async with asyncio.TaskGroup() as group:
                task = group.create_task(branch())
            return task.result()

        self.agents: dict[str, Any] = {
            "finally": tidies_finally,
            "except": tidies_when_cancelled,
            "on": goes_on_when_cancelled,
            "branch": tidies_in_a_branch,
        }


EACH_WAY = pytest.mark.parametrize("way", ["finally", "except", "on", "branch"])


async def goes_on_after_it(desk: Desk, by_hand: Any, tidying: Tidying, way: str) -> None:
    """Nothing stands in the journal that was only the end of the process."""
    assert tidying.did == ["work"]
    [run] = await desk.ledger.runs.all(ended=True)
    assert (run.holder, await desk.ledger.checkpoints.journal(run.id)) == (None, [])
    tidying.quick = True
    assert await by_hand(tidying.agents[way]) == "worked"
    assert tidying.did == ["work", "work"] + ["tidy up"] * (way in ("finally", "branch"))
    assert [one.id for one in await desk.ledger.runs.all(ended=True)] == [run.id]


@pytest.fixture
def interrupts() -> Iterator[list[asyncio.Task[Any]]]:
    """What SIGINT cancels, as ``asyncio.run`` has it for its one task."""
    tasks: list[asyncio.Task[Any]] = []

    def cancel(*_: object) -> None:
        for task in tasks:
            task.cancel()

    before = signal.signal(signal.SIGINT, cancel)
    yield tasks
    after = signal.signal(signal.SIGINT, before)
    assert after is cancel, "it stands again when the attempts are over"


@EACH_WAY
async def test_ctrl_c_is_not_taken_for_a_cut_that_the_agent_has_dealt_with(
    desk: Desk, by_hand: Any, interrupts: list[asyncio.Task[Any]], way: str
) -> None:
    tidying = Tidying()
    attempt = asyncio.create_task(by_hand(tidying.agents[way]))
    interrupts.append(attempt)
    await asyncio.wait_for(tidying.begun.wait(), 30)
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(asyncio.CancelledError):
        await attempt
    await goes_on_after_it(desk, by_hand, tidying, way)


async def test_two_attempts_in_one_process_hear_of_ctrl_c_and_the_first_to_end_takes_nothing_from_the_other(
    desk: Desk, by_hand: Any, interrupts: list[asyncio.Task[Any]]
) -> None:
    @agent
    async def short() -> str:
        await tidying.begun.wait()
        return "short"

    tidying = Tidying()
    first = asyncio.create_task(by_hand(short))
    attempt = asyncio.create_task(by_hand(tidying.agents["finally"]))
    assert await first == "short"
    interrupts.append(attempt)
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(asyncio.CancelledError):
        await attempt
    assert tidying.did == ["work"]


class Ends(BaseException):
    """What ends an event loop in the middle, as Prefect's engine does by SIGTERM."""


@EACH_WAY
async def test_the_end_of_its_event_loop_is_not_taken_for_a_cut_either(desk: Desk, by_hand: Any, way: str) -> None:
    tidying = Tidying()

    async def process() -> None:
        attempt = asyncio.create_task(by_hand(tidying.agents[way]))
        await asyncio.wait_for(tidying.begun.wait(), 30)
        assert not attempt.done()
        raise Ends

    with pytest.raises(Ends):
        await asyncio.to_thread(lambda: asyncio.run(process()))
    await goes_on_after_it(desk, by_hand, tidying, way)


async def test_what_the_agent_itself_cuts_off_is_still_dealt_with(desk: Desk, by_hand: Any) -> None:
    tidying = Tidying()

    @agent
    async def hurries() -> str:
        try:
            async with asyncio.timeout(1):
                return str(await tidying.agents["finally"].fn.__wrapped__())
        except TimeoutError:
            return "late"

    assert await by_hand(hurries) == "late"
    assert tidying.did == ["work", "tidy up"]
