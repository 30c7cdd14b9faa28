"""The keeper: it outlives what goes wrong in a round, ten thousand deadlines in a second, and a clock that is set."""

import asyncio
from collections.abc import AsyncIterator, Callable
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
from prefect.states import Cancelled, Cancelling, Completed, Failed, Running
from sqlalchemy import func, select, update

from standby import clock, confirming, settings
from standby.keeper import Keeper
from standby.ledger import Ledger
from standby.ledger.tables import Decision, Run, Wait, table_of
from standby.policy import Policy
from standby.states import Hold, Need, Outcome, RunState, Verdict, WaitKind, WaitState
from standby.waker import Waker
from tests.fundamentals.conftest import Desk
from tests.ledger.acts import approval, claim, parked
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
