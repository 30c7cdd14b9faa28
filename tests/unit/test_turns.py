"""Cold runs have their turn in a host in the order they were heard of, as those do that are warm or new."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from standby.host.health import report
from standby.host.host import Host
from standby.host.intake import AT_ONCE
from standby.ledger import Ledger
from standby.parking import following
from tests.support.waiting import wait_until
from tests.unit.test_guests import Placing, Prefect

pytestmark = pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)

COLD = [f"cold {number}" for number in range(3 * AT_ONCE)]


@pytest.fixture
async def host(ledger: Ledger, ledger_url: str) -> AsyncIterator[Host]:
    """One agent at a time, and that is busy. It takes cold runs up, and finds each taken by another."""

    async def deployments() -> set[str]:
        return set()

    made = Host(
        ledger, ledger_url, Prefect("Running"), Placing(), deployments=deployments, open_client=lambda: None,
        limit=1,  # type: ignore[arg-type, return-value]
    )  # fmt: skip
    made.open = True
    await made.slots.enter("busy")
    loop = asyncio.create_task(made.intake.loop())
    yield made
    made.open = False
    for task in (loop, *made._tasks):
        task.cancel()
    await asyncio.gather(loop, *made._tasks, return_exceptions=True)
    await made.following.close()


@pytest.fixture
def taken_up(host: Host, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which runs were taken up, in this order."""
    seen: list[str] = []

    async def claim_ready(run_id: str, *_: object) -> None:
        seen.append(run_id)

    monkeypatch.setattr(host.ledger.hosted, "claim_ready", claim_ready)
    return seen


async def test_who_comes_later_waits_behind_however_many_are_cold(host: Host, taken_up: list[str]) -> None:
    host.intake.want(COLD)
    await wait_until(lambda: host.slots.waiting >= AT_ONCE)
    later = asyncio.create_task(host.slots.enter("later"))
    await wait_until(lambda: host.slots.awaits("later"))
    host.intake.want(["last", *COLD])
    assert report(host)["waiting_for_a_turn"] == len(COLD) + 2
    host.slots.leave("busy")
    await later
    assert taken_up == COLD
    host.slots.leave("later")
    await wait_until(lambda: taken_up == [*COLD, "last"])
    await wait_until(lambda: not host.slots.taken)
    assert (host.slots.waiting, host.intake.wanted) == (0, {})


async def test_while_prefect_is_behind_who_is_warm_goes_before(
    host: Host, taken_up: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cold run cannot be taken up then, and its slot would be nobody's."""
    monkeypatch.setattr(following, "LATE_SECONDS", 0.0)
    told = asyncio.Event()
    host.following.later("run", told.wait)
    host.intake.want(COLD)
    warm = asyncio.create_task(host.slots.enter("warm"))
    await wait_until(lambda: host.slots.awaits("warm"))
    host.slots.leave("busy")
    await warm
    host.intake.want(["last"])
    assert (taken_up, report(host)["waiting_for_a_turn"]) == ([], len(COLD) + 1)
    host.slots.leave("warm")
    told.set()
    await wait_until(lambda: taken_up == [*COLD, "last"])


async def test_a_host_that_ends_takes_nothing_up_though_it_was_to_have_its_turn(
    host: Host, taken_up: list[str]
) -> None:
    host.intake.want(COLD)
    await host.leave(0)
    host.intake.want(["last"])
    host.slots.leave("busy")
    assert (host.slots.taken, host.slots.waiting, taken_up) == (0, 0, [])


async def test_ten_thousand_may_wait_for_their_turn(host: Host, taken_up: list[str]) -> None:
    many = [f"run {number}" for number in range(10_000)]
    for _ in range(10):  # as often as they are heard of
        host.intake.want(many)
    host.slots.leave("busy")
    await wait_until(lambda: len(taken_up) == len(many))
    assert taken_up == many
