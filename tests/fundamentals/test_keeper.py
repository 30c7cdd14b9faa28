"""The keeper: it outlives what goes wrong in a round, ten thousand deadlines in a second, and a clock that is set."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Cancelled, Cancelling, Completed, Failed, Running, Scheduled, Suspended
from sqlalchemy import func, select, update

from standby import clock, confirming, reconciling, settings
from standby import keeper as keeper_module
from standby.keeper import Keeper
from standby.ledger import Ledger
from standby.ledger.hosted import LEASES
from standby.ledger.tables import Decision, Run, Wait, table_of
from standby.parking import wake
from standby.policy import Policy
from standby.states import Hold, Need, Outcome, RunState, Verdict, WaitKind, WaitState
from standby.view import wait_view
from standby.waker import Waker
from tests.fundamentals.conftest import Desk
from tests.ledger.acts import approval, claim, parked, state_of_run
from tests.support.waiting import wait_until

runs, waits, decisions = table_of(Run), table_of(Wait), table_of(Decision)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
FAR_AWAY = "another machine/1/1"


async def test_a_round_that_fails_is_not_the_last(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    """An error nobody thought of costs a round, and is logged."""
    rounds = []

    async def due(_: int) -> list[object]:
        rounds.append("due")
        if len(rounds) == 1:
            raise KeyError("nobody thought of this")
        return []

    monkeypatch.setattr(desk.ledger.waits, "due", due)
    monkeypatch.setattr(settings, "KEEPER_TICK", settings.KEEPER_TICK / 20)
    keeper = asyncio.create_task(Keeper(desk.ledger, lambda: PrefectClient(desk.url)).run())
    await wait_until(lambda: len(rounds) > 2)
    keeper.cancel()
    assert isinstance((await asyncio.gather(keeper, return_exceptions=True))[0], asyncio.CancelledError)


async def test_a_policy_that_cannot_be_followed_keeps_nobody_from_theirs(desk: Desk):
    """Such as one that a newer version has written, while both are at work."""
    policy = Policy(remind=(timedelta(microseconds=1),)).model_dump_json()
    odd_run, plain_run = str(uuid4()), str(uuid4())
    for run in (odd_run, plain_run):
        await parked(desk.ledger, [approval(policy=policy)], run=run)
    async with desk.ledger.database.transaction() as connection:
        await connection.execute(update(waits).where(waits.c.run_id == odd_run).values(policy='{"of_later": 1}'))
    keeper = Keeper(desk.ledger, lambda: PrefectClient(desk.url))
    await keeper.tick()
    assert [wait.chased for wait in await desk.ledger.waits.of_run(plain_run)] == [1]
    [odd] = await desk.ledger.waits.of_run(odd_run)
    assert (odd.state, odd.chased) == (WaitState.OPEN, 0)


async def test_a_duty_that_fails_keeps_nobody_from_the_others(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    """The round says so when all were tried."""

    async def fails(*_: object) -> None:
        raise KeyError("nobody thought of this")

    await parked(desk.ledger, [approval(deadline=clock.utcnow())], run=(due := str(uuid4())))
    await parked(desk.ledger, [approval()], run=(open_ := str(uuid4())))
    monkeypatch.setattr(desk.ledger.signals, "expire", fails)
    monkeypatch.setattr(desk.ledger.chases, "due", fails)
    keeper = Keeper(desk.ledger, lambda: PrefectClient(desk.url))
    with pytest.raises(KeyError, match="nobody thought of this"):
        await keeper.tick()
    [fired], [announced] = [await desk.ledger.waits.of_run(run) for run in (due, open_)]
    assert fired.state == WaitState.SETTLED
    assert announced.announced_at is not None


async def test_an_end_that_prefect_is_still_being_told_of_is_left_to_who_tells_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(confirming, "CONFIRM_AFTER", timedelta(0))
    deployment = await desk.client.create_deployment(await desk.client.create_flow_from_name("slow"), "slow")
    run_id = str((await desk.client.create_flow_run_from_deployment(deployment, state=Running())).id)
    attempt = (await claim(desk.ledger, run_id)).attempt
    assert await desk.ledger.runs.end(run_id, attempt, RunState.FAILED, error="no")
    being_told, shown = {run_id}, []
    keeper = Keeper(desk.ledger, lambda: PrefectClient(desk.url), being_told.__contains__)
    for _ in range(2):
        assert await keeper.tick()
        state = (await desk.client.read_flow_run(UUID(run_id))).state
        assert state is not None
        shown.append(state.name)
        being_told.clear()
    assert shown == ["Running", "Failed"]


@pytest.mark.parametrize(
    ("ended", "shown", "then"),
    [
        (RunState.COMPLETED, Failed, "Scheduled"),  # an attempt tells of it, with its result
        (RunState.COMPLETED, Cancelled, "Scheduled"),
        (RunState.COMPLETED, Cancelling, "Scheduled"),
        (RunState.FAILED, Cancelled, "Failed"),
        (RunState.FAILED, Completed, "Failed"),
        (RunState.CANCELLED, Cancelling, "Cancelled"),
        (RunState.CANCELLED, Running, "Cancelled"),
    ],
)
async def test_prefect_is_brought_to_the_end_that_the_ledger_has(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, ended: RunState, shown: Callable[[], State[Any]], then: str
):
    """One that is being cancelled has time to end."""
    monkeypatch.setattr(confirming, "CONFIRM_AFTER", timedelta(0))
    deployment = await desk.client.create_deployment(await desk.client.create_flow_from_name("ends"), "ends")
    run_id = str((await desk.client.create_flow_run_from_deployment(deployment, state=Running())).id)
    attempt = (await claim(desk.ledger, run_id)).attempt
    await desk.client.set_flow_run_state(UUID(run_id), shown())
    state = (await desk.client.read_flow_run(UUID(run_id))).state
    assert state is not None
    if ended is RunState.CANCELLED:
        assert await desk.ledger.runs.end_from_outside(run_id, ended, after=str(state.id))
    else:
        assert await desk.ledger.runs.end(run_id, attempt, ended, result="1")
    keeper, names = Keeper(desk.ledger, lambda: PrefectClient(desk.url)), []
    for within in (timedelta(minutes=1), timedelta(0)):
        monkeypatch.setattr(confirming, "CANCELLED_WITHIN", within)
        assert await keeper.tick()
        names.append((await desk.client.read_flow_run(UUID(run_id))).state_name)
    assert names == ["Cancelling" if shown is Cancelling else then, then]


async def test_an_attempt_that_renews_its_lease_is_left_alone_by_a_keeper_whose_clock_is_ahead(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    """Two machines whose clocks differ by more than a lease: alive is who is seen to renew it, dead who is not."""
    monkeypatch.setattr(settings, "RENEW_EVERY", timedelta(seconds=0.2))
    deployment = await desk.client.create_deployment(await desk.client.create_flow_from_name("far"), "far")
    run_id = str((await desk.client.create_flow_run_from_deployment(deployment, state=Running())).id)
    attempt = (await claim(desk.ledger, run_id, holder=FAR_AWAY)).attempt
    ahead = timedelta(seconds=30)
    keeper = Keeper(desk.ledger, lambda: PrefectClient(desk.url))

    async def round_of_the_keeper() -> RunState:
        clock.set_source(lambda: datetime.now(UTC) + ahead)
        try:
            await keeper.tick()
        finally:
            clock.set_source(None)
        row = await desk.ledger.runs.get(run_id)
        assert row is not None
        return RunState(row.state)

    began = monotonic()
    while monotonic() - began < 1.5:
        assert await desk.ledger.runs.renew(run_id, attempt, settings.LEASE)
        assert await round_of_the_keeper() is RunState.RUNNING

    async def rescued() -> bool:
        return await round_of_the_keeper() is RunState.READY

    await wait_until(rescued, 30)


# Many at once.


async def many(ledger: Ledger, count: int, deadline: datetime) -> None:
    """So many runs that wait in a process of their own until the same instant."""
    then = deadline - timedelta(days=3)
    ids = [str(uuid4()) for _ in range(count)]
    run = {"flow": "an-agent", "name": "one of many", "state": RunState.PARKED, "attempt": 1, "hold": Hold.PAUSE,
           "wake_address": "127.0.0.1:9", "started_at": then, "parked_at": then, "confirmed": False}  # fmt: skip
    wait = {"key": "approval", "group_key": "approval", "member": 0, "need": Need.ONE, "kind": WaitKind.APPROVAL,
            "reason": "Pay?", "has_default": True, "default_answer": '"no"', "deadline": deadline,
            "state": WaitState.OPEN, "opened_at": then, "announced_at": then}  # fmt: skip
    async with ledger.database.transaction() as connection:
        for first in range(0, count, 1000):
            some = ids[first : first + 1000]
            await connection.execute(runs.insert(), [{"id": id_, **run} for id_ in some])
            await connection.execute(waits.insert(), [{"id": f"w{id_}", "run_id": id_, **wait} for id_ in some])


@pytest.mark.parametrize("desk_url", ["sqlite_url", "postgres_url"], indirect=True)
async def test_ten_thousand_deadlines_in_the_same_second_fire_in_one_round(desk: Desk):
    """Row 37: each once, and the round does its other work. How late they are: ``python -m benchmarks deadlines``."""
    await many(desk.ledger, 10_000, clock.utcnow())
    told = (await parked(desk.ledger, [approval()], run=str(uuid4()))).waits[0]
    assert await Keeper(desk.ledger, lambda: PrefectClient(desk.url)).tick()
    won = select(func.count(), func.count(decisions.c.wait_id.distinct())).where(decisions.c.verdict == Verdict.WON)
    assert await desk.ledger.database.read(won) == [(10_000, 10_000)]
    outcomes = select(waits.c.outcome, runs.c.state, func.count()).join(runs, runs.c.id == waits.c.run_id)
    outcomes = outcomes.where(waits.c.id != told.id).group_by(waits.c.outcome, runs.c.state)
    assert await desk.ledger.database.read(outcomes) == [(Outcome.DEFAULTED, RunState.READY, 10_000)]
    announced = await desk.ledger.waits.get(told.id)
    assert announced is not None
    assert announced.announced_at is not None


async def test_runs_are_woken_in_their_order_and_one_that_cannot_be_holds_up_nobody(desk: Desk):
    woken: list[tuple[str, bool]] = []

    async def wakes(_: PrefectClient, run_id: str, *, presumed_dead: bool) -> None:
        if run_id == "gone":
            request = httpx.Request("POST", desk.url)
            raise PrefectHTTPStatusError("refused", request=request, response=httpx.Response(503, request=request))
        if run_id == "odd":
            raise KeyError("nobody thought of this")
        woken.append((run_id, presumed_dead))
        if woken == [("first", False)]:
            assert "first" in waker
            waker.add("first")  # it has parked and become ready again meanwhile

    waker = Waker(lambda: PrefectClient(desk.url), wakes)
    for run_id in ("first", "gone", "odd", "dead", "third", "dead"):
        waker.add(run_id, presumed_dead=run_id == "dead")
    waker.add("dead")
    await waker.finish()
    assert woken == [("first", False), ("dead", True), ("third", False), ("first", False)]
    assert "first" not in waker


async def test_who_is_to_be_woken_while_the_last_client_closes_is_woken():
    woken: list[str] = []
    waker: Waker

    @asynccontextmanager
    async def client() -> AsyncIterator[Any]:
        yield None
        if len(woken) == 1:
            waker.add("late")

    async def wakes(_: Any, run_id: str, **__: Any) -> None:
        woken.append(run_id)

    waker = Waker(client, wakes)
    waker.add("first")
    await waker.finish()
    assert woken == ["first", "late"]
    assert "late" not in waker


# The clock is set.


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
