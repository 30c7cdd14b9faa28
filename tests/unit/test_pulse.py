"""The pulse keeps the leases of all attempts of a process: whatever happens to one of them, and with few statements."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest

from standby import settings
from standby.errors import LedgerUnavailable
from standby.host import lease as host_lease
from standby.host.lease import HostLease
from standby.ledger import Ledger
from standby.ledger.runs import Runs
from standby.pulse import Pulse
from tests.ledger.acts import LEASE, claim, take_over
from tests.support.waiting import wait_until

on_sqlite = pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)


class Attempt:
    def __init__(self, run_id: str, attempt: int = 1) -> None:
        self.id, self.attempt, self.lingering, self.fenced, self.sure_at = run_id, attempt, False, False, 0.0

    def fence(self) -> None:
        self.fenced = True


class Watched:
    """An attempt that counts how often anybody looks at any of its kind."""

    looks = 0
    lingering, sure_at = True, 0.0

    def __init__(self, run_id: str, attempt: int = 1) -> None:
        self._id, self._attempt = run_id, attempt

    @property
    def id(self) -> str:
        Watched.looks += 1
        return self._id

    @property
    def attempt(self) -> int:
        Watched.looks += 1
        return self._attempt

    def fence(self) -> None: ...


class Broken:
    """A lease whose renewal fails in a way nobody has thought of."""

    id = "broken"
    tries = 0

    async def renew(self, ledger: Ledger) -> bool:
        self.tries += 1
        raise ZeroDivisionError

    def fence(self) -> None: ...


async def test_one_statement_keeps_the_leases_of_all_and_tells_who_is_fenced(ledger: Ledger) -> None:
    for run in ("mine", "taken"):
        await claim(ledger, run)
    await take_over(ledger, "taken")
    before = (await ledger.runs.get("mine")).lease_expires_at  # type: ignore[union-attr]
    now = await ledger.runs.renew_all([("mine", 1), ("taken", 1), ("gone", 1)], LEASE + timedelta(hours=1))
    assert now == {"mine": 1, "taken": 2}
    mine, taken = await ledger.runs.get("mine"), await ledger.runs.get("taken")
    assert mine is not None
    assert taken is not None
    assert mine.lease_expires_at - before > timedelta(minutes=59)
    assert taken.lease_expires_at < mine.lease_expires_at


@on_sqlite
async def test_what_fails_for_one_does_not_end_the_pulse_of_the_others(
    ledger: Ledger, ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "RENEW_EVERY", timedelta(milliseconds=20))
    asked: list[int] = []
    renew_all = Runs.renew_all

    async def counted(self: Runs, attempts: Any, lease: timedelta) -> dict[str, int]:
        asked.append(len(attempts))
        return await renew_all(self, attempts, lease)

    monkeypatch.setattr(Runs, "renew_all", counted)
    for run in ("mine", "taken"):
        await claim(ledger, run)
    await take_over(ledger, "taken")
    pulse, broken, mine, taken = Pulse(), Broken(), Attempt("mine"), Attempt("taken")
    again = Attempt("taken", 2)
    with (
        pulse.keeping(ledger_url, broken),
        pulse.holding(ledger_url, mine),
        pulse.holding(ledger_url, taken),
        pulse.holding(ledger_url, again),
    ):
        await wait_until(lambda: taken.fenced and broken.tries > 2)
        assert not mine.fenced
        assert not again.fenced, "the attempt that took over, in the same process"
        assert pulse._thread is not None
        assert pulse._thread.is_alive()
    assert 3 in asked, "one statement for all"


def test_whether_a_run_is_at_work_here_is_seen_without_a_look_at_all_others() -> None:
    """A keeper in a host asks for each of its runs, every second."""
    pulse, many = Pulse(), 200
    with ExitStack() as stack:
        for number in range(many):
            stack.enter_context(pulse.holding("sqlite://", Watched(f"run {number}")))
        Watched.looks = 0
        assert all(pulse.holds(f"run {number}", 1) for number in range(many))
        assert not any(pulse.holds(f"run {number}", 1) for number in range(many, 2 * many))
        assert Watched.looks <= 2 * many


def test_a_run_is_at_work_here_while_any_of_its_attempts_is() -> None:
    pulse, first, second = Pulse(), Attempt("run", 1), Attempt("run", 2)
    held = ExitStack()
    held.enter_context(pulse.holding("sqlite://", first))
    assert [pulse.holds("run"), pulse.holds("run", 1), pulse.holds("run", 2)] == [True, True, False]
    with pulse.holding("sqlite://", second):
        assert [pulse.holds("run"), pulse.holds("run", 1), pulse.holds("run", 2)] == [True, True, True]
        held.close()
        assert [pulse.holds("run"), pulse.holds("run", 1), pulse.holds("run", 2)] == [True, False, True]
        second.attempt = 3  # it has parked and gone on
        assert [pulse.holds("run", 2), pulse.holds("run", 3)] == [False, True]
    assert not pulse.holds("run")


@on_sqlite
async def test_a_host_whose_loop_stands_still_does_not_renew_its_lease(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[bool] = []
    lease = HostLease("127.0.0.1:7", "machine/1/1", lost=lambda: lost.append(True))
    assert await lease.renew(ledger)
    first = lease.renewed
    monkeypatch.setattr(settings, "LEASE", timedelta(0))
    assert await lease.renew(ledger), "nobody could do anything about it now"
    assert lease.renewed == first
    beating = asyncio.create_task(lease.beats())
    await asyncio.sleep(0)
    monkeypatch.setattr(settings, "LEASE", timedelta(minutes=1))
    assert await lease.renew(ledger)
    assert lease.renewed != first
    beating.cancel()
    monkeypatch.setattr(ledger.leases, "take", _refused)
    assert not await lease.renew(ledger), "another has it"


@on_sqlite
@pytest.mark.parametrize(("away_until", "why"), [(29, "the ledger could not be used"), (5, "the host stood still")])
async def test_a_host_whose_lease_ran_out_says_why(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, away_until: float, why: str
) -> None:
    """It stands still where it did not ask, and not where the ledger did not answer: also if that was away before."""
    now, lost = 0.0, []
    monkeypatch.setattr(host_lease, "monotonic", lambda: now)
    lease = HostLease("127.0.0.1:7", "machine/1/1", lost=lambda: lost.append(True))
    assert await lease.renew(ledger)
    with monkeypatch.context() as away:
        away.setattr(ledger.leases, "take", _unavailable)
        for now in (5.0, float(away_until)):
            lease._beat = now
            with pytest.raises(LedgerUnavailable):
                await lease.renew(ledger)
    lease._beat = now = 34.0
    assert not await lease.renew(ledger)
    lease.fence()
    await wait_until(lambda: lost)
    assert [line for line in caplog.messages if f"{why}, and for 34 s it was not renewed" in line]
    assert await lease.renew(ledger), "from here on"


async def _refused(*_: Any) -> bool:
    return False


async def _unavailable(*_: Any) -> bool:
    raise LedgerUnavailable("sqlite:///ledger.db", OSError("it is away"))
