"""The keeper and the machine's clock, which is set now and then."""

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.states import Cancelled, Running, Scheduled, Suspended
from sqlalchemy import update

from standby import clock, holder, reconciling, settings
from standby import keeper as keeper_module
from standby.keeper import Keeper
from standby.ledger.hosted import LEASES
from standby.ledger.tables import Run, table_of
from standby.parking import wake
from standby.pulse import pulse
from standby.states import Hold, RunState, Verdict, WaitState
from standby.view import wait_view
from tests.fundamentals.conftest import Desk
from tests.ledger.acts import approval, claim, parked, state_of_run
from tests.support.waiting import wait_until

runs = table_of(Run)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
FAR_AWAY = "another machine/1/1"


class SetClock:
    """The machine's clock, and by how much it was set."""

    def __init__(self) -> None:
        self.by = timedelta()
        clock.set_source(lambda: datetime.now(UTC) + self.by)


@pytest.fixture
def set_clock() -> Iterator[SetClock]:
    yield SetClock()
    clock.set_source(None)


@pytest.fixture
def opened(desk: Desk) -> Callable[[], Keeper]:
    """Another keeper, as another process has it."""
    return lambda: Keeper(desk.ledger, lambda: PrefectClient(desk.url))


@pytest.mark.parametrize("by", [-HOUR, -timedelta(seconds=90), DAY])
async def test_deadlines_are_times_of_the_clock_whatever_it_is_set_to(
    desk: Desk, opened: Callable[[], Keeper], set_clock: SetClock, by: timedelta
):
    """Row 38: a step forward fires what it has passed, once; a step back fires nothing anew, and no age is negative."""
    far, near, run = (str(uuid4()) for _ in range(3))
    now = clock.utcnow()
    for run_id, deadline in ((far, now + 2 * DAY), (near, now + timedelta(minutes=1)), (run, now)):
        await parked(desk.ledger, [approval(deadline=deadline)], run=run_id)
    keeper = opened()
    await keeper.tick()
    set_clock.by = by
    await keeper.tick()
    await keeper.tick()
    states = {id_: (await desk.ledger.waits.of_run(id_))[0] for id_ in (far, near, run)}
    assert {id_: wait.state for id_, wait in states.items()} == {
        far: WaitState.OPEN, near: WaitState.SETTLED if by > HOUR else WaitState.OPEN, run: WaitState.SETTLED,
    }  # fmt: skip
    assert all(wait_view(wait)["age_seconds"] >= 0 for wait in states.values())
    assert await desk.ledger.waits.decided_more_than_once() == []
    set_clock.by = timedelta()
    await keeper.tick()
    assert [decision.verdict for decision in await desk.ledger.waits.decisions_of(run)] == [Verdict.WON]


async def test_a_keeper_that_died_before_the_clock_was_set_back_keeps_nobody_out(
    desk: Desk, opened: Callable[[], Keeper], set_clock: SetClock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(keeper_module, "LEASE", timedelta(minutes=5))
    assert await opened().tick()
    assert not await opened().tick(), "the first one's lease lasts"
    set_clock.by = -HOUR
    assert await opened().tick()


async def test_a_source_is_asked_again_after_the_clock_was_set_back(
    desk: Desk, opened: Callable[[], Keeper], set_clock: SetClock
):
    poll = json.dumps({"function": "tests.fundamentals.test_keeper:not_yet", "args": {}, "every": 60, "at_most": 60})
    run = str(uuid4())
    await parked(desk.ledger, [approval(poll=poll)], run=run)
    keeper = opened()
    await keeper.tick()
    set_clock.by = -HOUR
    await keeper.tick()
    [wait] = await desk.ledger.waits.of_run(run)
    assert wait.polls == 1


async def not_yet() -> str | None:
    return None


async def at_work(desk: Desk, holder: str) -> str:
    """A run that an attempt of this process works on, both in the ledger and in Prefect."""
    run_id = await deployed(desk)
    await desk.client.set_flow_run_state(run_id, Running(), force=True)  # type: ignore[arg-type]
    await desk.ledger.runs.claim(
        run_id, flow="an-agent", name="at work", deployment_id="deployment", holder=holder, lease=settings.LEASE
    )
    return run_id


async def deployed(desk: Desk) -> str:
    """A run of a deployment that no worker looks after."""
    flow_id = await desk.client.create_flow_from_name("an-agent")
    deployment = await desk.client.create_deployment(flow_id, f"of-{uuid4().hex[:8]}")
    return str((await desk.client.create_flow_run_from_deployment(deployment)).id)


async def test_a_run_that_is_retried_while_prefect_is_asked_goes_on(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    """Cancelled as it was seen, and at work again by the time that what was seen is acted on."""
    run_id = await deployed(desk)
    await parked(desk.ledger, [approval()], run=run_id)
    await desk.client.set_flow_run_state(run_id, Cancelled(), force=True)  # type: ignore[arg-type]
    see = reconciling.states_of

    async def see_and_be_overtaken(client: PrefectClient, run_ids: Iterable[str]) -> dict[str, Any]:
        seen = await see(client, run_ids)
        assert seen[run_id].is_cancelled()
        await claim(desk.ledger, run_id)
        return seen

    monkeypatch.setattr(reconciling, "states_of", see_and_be_overtaken)
    assert await Keeper(desk.ledger, lambda: PrefectClient(desk.url)).tick()
    assert await state_of_run(desk.ledger, run_id) == RunState.RUNNING
    assert [wait.state for wait in await desk.ledger.waits.of_run(run_id)] == [WaitState.OPEN]


async def test_a_silent_attempt_is_given_up_though_its_lease_seems_to_last(
    desk: Desk, opened: Callable[[], Keeper], set_clock: SetClock, monkeypatch: pytest.MonkeyPatch
):
    """Row 38: set back an hour, a dead machine's lease would last that much longer."""
    run_id = await at_work(desk, FAR_AWAY)
    keeper = opened()
    await keeper.tick()
    set_clock.by = -HOUR
    await keeper.tick()
    assert await state_of_run(desk.ledger, run_id) == RunState.RUNNING
    monkeypatch.setattr(settings, "LEASE", timedelta(0))  # as if it had been silent for that long

    async def rescued() -> bool:
        await keeper.tick()
        return await state_of_run(desk.ledger, run_id) == RunState.READY

    await wait_until(rescued, every=0.1)


async def test_a_living_attempt_is_not_given_up_because_the_clock_was_set_forward(
    desk: Desk, opened: Callable[[], Keeper], set_clock: SetClock, monkeypatch: pytest.MonkeyPatch
):
    """Row 38: its lease has ended by the clock, until it renews it."""
    monkeypatch.setattr(settings, "RENEW_EVERY", timedelta(minutes=5))
    run_id = await at_work(desk, FAR_AWAY)
    keeper = opened()
    await keeper.tick()
    set_clock.by = DAY
    await keeper.tick()
    await keeper.tick()
    assert await state_of_run(desk.ledger, run_id) == RunState.RUNNING
    assert await desk.ledger.runs.renew(run_id, 1, settings.LEASE), "it has the run, and goes on"
    monkeypatch.setattr(settings, "RENEW_EVERY", timedelta(0))
    await keeper.tick()
    assert await state_of_run(desk.ledger, run_id) == RunState.RUNNING
    await desk.ledger.database.write(
        update(runs).where(runs.c.id == run_id).values(lease_expires_at=clock.utcnow() - timedelta(seconds=1))
    )
    await keeper.tick()
    assert await state_of_run(desk.ledger, run_id) == RunState.READY, "it has not renewed it in time"


async def test_a_keeper_that_has_just_begun_gives_up_nobody_by_the_clock(
    desk: Desk, opened: Callable[[], Keeper], set_clock: SetClock, monkeypatch: pytest.MonkeyPatch
):
    """Row 38: it has not seen whether the clock was set forward; who lives renews its lease meanwhile. So do hosts."""
    run_id, warm = await at_work(desk, FAR_AWAY), str(uuid4())
    await parked(desk.ledger, [approval()], run=warm)
    host = f"{FAR_AWAY}/host"
    await desk.ledger.leases.take(f"{LEASES}127.0.0.1:9/1", host, settings.LEASE)
    await desk.ledger.database.write(update(runs).where(runs.c.id == warm).values(hold=Hold.WARM, holder=host))
    set_clock.by = DAY
    keeper = opened()
    await keeper.tick()
    assert await state_of_run(desk.ledger, run_id) == RunState.RUNNING
    assert await desk.ledger.hosted.warm_in(host) == {warm: 1}
    monkeypatch.setattr(settings, "RENEW_EVERY", timedelta(0))
    await keeper.tick()
    assert await state_of_run(desk.ledger, run_id) == RunState.READY
    assert await desk.ledger.hosted.warm_in(host) == {}


async def test_who_keeps_once_waits_whether_a_lease_that_has_ended_is_renewed(
    desk: Desk, opened: Callable[[], Keeper], monkeypatch: pytest.MonkeyPatch
):
    """As the housekeeping flow does, each time as a keeper that has just begun."""
    gone, there = await at_work(desk, FAR_AWAY), await at_work(desk, FAR_AWAY)
    ended = update(runs).where(runs.c.id.in_([gone, there])).values(lease_expires_at=clock.utcnow() - HOUR)
    await desk.ledger.database.write(ended)
    monkeypatch.setattr(settings, "RENEW_EVERY", timedelta(seconds=2))
    keeping = asyncio.create_task(opened().once())
    assert await desk.ledger.runs.renew(there, 1, settings.LEASE)
    assert await keeping
    assert [await state_of_run(desk.ledger, run) for run in (gone, there)] == [RunState.READY, RunState.RUNNING]


async def test_a_keeper_takes_its_own_process_for_alive_when_the_ledger_was_away_for_longer_than_a_lease(
    desk: Desk, opened: Callable[[], Keeper], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """It is the first to look when the ledger is back: before what works beside it has renewed its leases."""
    caplog.set_level(logging.INFO, "standby.keeper")
    monkeypatch.setattr(settings, "RENEW_EVERY", timedelta(seconds=0.2))
    me = holder.this_process()
    busy, ended, far = await at_work(desk, me), await at_work(desk, me), await at_work(desk, FAR_AWAY)
    warm = {host: str(uuid4()) for host in (me, FAR_AWAY)}
    for host, run_id in warm.items():
        await parked(desk.ledger, [approval()], run=run_id)
        await desk.ledger.database.write(update(runs).where(runs.c.id == run_id).values(hold=Hold.WARM, holder=host))
    expire = update(runs).where(runs.c.id.in_([busy, ended, far])).values(lease_expires_at=clock.utcnow() - HOUR)
    await desk.ledger.database.write(expire)
    attempt = SimpleNamespace(id=busy, attempt=1, lingering=True, sure_at=0.0, fence=lambda: None)  # not renewed yet
    with pulse.holding(desk.ledger.database.url.render_as_string(hide_password=False), attempt):
        assert await opened().once()
    states = [await state_of_run(desk.ledger, run_id) for run_id in (busy, ended, far)]
    assert states == [RunState.RUNNING, RunState.READY, RunState.READY]
    assert [list(await desk.ledger.hosted.warm_in(host)) for host in warm] == [[warm[me]], []]
    assert {line for line in caplog.messages if "parked cold" in line or "is rescued" in line} == {
        f"1 runs that were parked warm are parked cold: {FAR_AWAY} has not renewed its lease.",
        f"Run {ended} is rescued: {me} has not renewed its lease.",
        f"Run {far} is rescued: {FAR_AWAY} has not renewed its lease.",
    }


async def test_who_was_ready_when_the_clock_was_set_back_is_woken(
    desk: Desk, opened: Callable[[], Keeper], set_clock: SetClock
):
    """Row 38: ready an hour from now, as it seems."""
    run_id = await deployed(desk)
    await desk.client.set_flow_run_state(run_id, Suspended(), force=True)  # type: ignore[arg-type]
    await parked(desk.ledger, [approval(deadline=clock.utcnow())], run=run_id)
    await desk.ledger.deadlines.fire(await desk.ledger.waits.due())
    set_clock.by = -HOUR
    await opened().tick()
    state = (await desk.client.read_flow_run(run_id)).state  # type: ignore[arg-type]
    assert state is not None
    assert state.name == "Resuming"


async def test_a_wake_for_a_time_that_was_is_brought_forward(desk: Desk):
    """Row 38: woken for an hour from now, as it seems, no worker would take it."""
    run_id = await deployed(desk)
    later = Scheduled(name="Resuming", scheduled_time=clock.utcnow() + HOUR)
    await desk.client.set_flow_run_state(run_id, later, force=True)  # type: ignore[arg-type]
    await wake(desk.client, run_id)
    state = (await desk.client.read_flow_run(run_id)).state  # type: ignore[arg-type]
    assert state is not None
    assert state.state_details.scheduled_time is not None
    assert state.state_details.scheduled_time < clock.utcnow() + timedelta(minutes=1)
