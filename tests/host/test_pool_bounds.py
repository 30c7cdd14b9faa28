"""Work pools that are paused, or have a limit: Prefect's queue says who goes on, whoever wakes it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelling

from standby import settings
from standby.host import worker
from standby.host.guest import Phase
from standby.states import RunState
from tests.host.conftest import Inn, Run
from tests.support import outside
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:unclosed (<socket\.|transport <_SelectorSocketTransport):ResourceWarning"),
    pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True),
]


@pytest.fixture(autouse=True)
def _no_safety_net(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is heard only by a poll comes never, and the keeper does not help."""
    monkeypatch.setattr(worker, "POLL_SECONDS", 3600.0)
    monkeypatch.setattr(settings, "WAKE_GRACE", timedelta(hours=1))


async def pool_is(inn: Inn, *, limit: int | None = None, paused: bool = False, bound: bool = True) -> None:
    """Returns when the host knows."""
    await inn.client.update_work_pool(inn.pool, WorkPoolUpdate(concurrency_limit=limit, is_paused=paused))
    await wait_until(lambda: inn.host.bound is bound)


async def waiting(inn: Inn, where: str) -> Run:
    run = await inn.start("visitor")
    await run.is_warm()
    if where == "cold":
        assert inn.host.warmth.make_room(1) == 1
        await wait_until(lambda: run.id not in inn.host.guests)
    return run


async def is_queued(run: Run) -> None:
    """Return when it is woken and stands in Prefect's queue; it has not gone on."""
    await run.is_shown_as("Resuming")
    assert not run.deeds("round 0")


@pytest.mark.parametrize("where", ["warm", "cold"])
async def test_a_woken_run_waits_for_a_slot_of_the_pool_and_goes_on_when_one_is_free(inn: Inn, where: str) -> None:
    """The limit is one of running runs: who waits for an answer has no slot, who goes on has."""
    first = await waiting(inn, where)
    await pool_is(inn, limit=1)
    busy = await inn.start("gated")
    await wait_until(lambda: busy.deeds("came"), shows=busy.shown)
    await first.signal("round-0", 3)
    await is_queued(first)
    new = await inn.start("visitor")
    await wait_until(lambda: not inn.worker._sought)
    assert not first.deeds("round 0")
    assert not new.deeds("came")
    outside.gate(outside._place(), "go").touch()  # the busy one parks
    assert await first.result() == 3
    await new.is_warm()
    await busy.signal("round-0", 4)
    assert await busy.result() == 4
    await new.signal("round-0", 5)
    assert await new.result() == 5


async def test_the_slot_of_a_run_that_ends_is_used_at_once(inn: Inn) -> None:
    await pool_is(inn, limit=1)
    busy = await inn.start("worker", steps=300)
    await wait_until(lambda: busy.id in inn.host.guests and busy.guest.phase is Phase.RUNNING)
    new = await inn.start("visitor")
    await wait_until(lambda: not inn.worker._sought)
    assert not new.deeds("came")
    assert await busy.result() == 300
    await new.is_warm()


@pytest.mark.parametrize("where", ["warm", "cold"])
async def test_in_a_paused_pool_nothing_goes_on_whichever_door_woke_it(inn: Inn, where: str) -> None:
    by_signal, by_prefect = await waiting(inn, where), await waiting(inn, where)
    await pool_is(inn, paused=True)
    await by_signal.signal("round-0", 3)
    await inn.client.resume_flow_run(UUID(by_prefect.id), run_input={"answer": 8})
    await is_queued(by_signal)
    await is_queued(by_prefect)
    await wait_until(lambda: not inn.worker._sought)
    assert not by_signal.deeds("round 0")
    assert not by_prefect.deeds("round 0")
    await pool_is(inn, bound=False)
    assert (await by_signal.result(), await by_prefect.result()) == (3, 8)
    assert (by_signal.deeds("came"), by_prefect.deeds("came")) == (1, 1)


async def test_a_warm_run_whose_deployment_was_deleted_goes_on_with_a_slot(inn: Inn) -> None:
    run = await waiting(inn, "warm")
    await pool_is(inn, limit=1)
    await inn.client.delete_deployment(await inn.deploy("visitor"))
    await run.signal("round-0", 3)
    assert await run.result() == 3


async def test_a_queue_with_a_limit_binds_as_the_pool_does(inn: Inn) -> None:
    run = await waiting(inn, "warm")
    [queue] = await inn.client.read_work_queues(work_pool_name=inn.pool)
    await inn.client.update_work_queue(queue.id, concurrency_limit=0)
    await wait_until(lambda: inn.host.bound)
    await run.signal("round-0", 3)
    await is_queued(run)
    await inn.client.update_work_queue(queue.id, concurrency_limit=1)
    assert await run.result() == 3


async def test_a_host_that_runs_once_leaves_who_waits_for_a_slot(inn: Inn) -> None:
    """It asks for what is scheduled once, so that nothing would ever give it the slot."""
    run = await waiting(inn, "warm")
    await pool_is(inn, paused=True)
    await run.signal("round-0", 3)
    await is_queued(run)
    await wait_until(lambda: run.guest.queued)
    async with asyncio.timeout(20):
        await inn.worker._once(inn.host)


async def test_who_waits_for_a_slot_can_be_cancelled_and_left(inn: Inn) -> None:
    gone, left = await waiting(inn, "warm"), await waiting(inn, "warm")
    await pool_is(inn, paused=True)
    for run in (gone, left):
        await run.signal("round-0", 3)
        await is_queued(run)
    await inn.client.set_flow_run_state(UUID(gone.id), Cancelling())
    await gone.is_in(RunState.CANCELLED)
    await gone.is_shown(StateType.CANCELLED)
    await inn.closes()
    assert (await left.row()).state == RunState.READY
    await inn.client.update_work_pool(inn.pool, WorkPoolUpdate(is_paused=False))
    await inn.opens()
    assert await left.result() == 3
    assert (gone.deeds("round 0"), left.deeds("came"), left.deeds("round 0")) == (0, 1, 1)
