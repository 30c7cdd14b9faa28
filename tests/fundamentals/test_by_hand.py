"""Run by hand: the same command goes on with what was interrupted."""

import asyncio
import os
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
