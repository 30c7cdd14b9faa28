"""What a host hears late of its runs, and who waits for a place in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelled, Cancelling, Crashed, Running, Scheduled, Suspended
from sqlalchemy import text, update

from standby import clock, keeper, settings
from standby.errors import LedgerUnavailable
from standby.host import worker
from standby.host.ends import Ends
from standby.host.worker import HostWorker
from standby.ledger import tables
from standby.ledger.runs import Runs
from standby.ledger.tables import table_of
from standby.parking import suspending
from standby.states import RunState
from tests.host.conftest import Inn, Run
from tests.support import outside
from tests.support.waiting import WITHIN, wait_until

pytestmark = [
    # Prefect's engine leaves sockets of its event clients to the garbage collector.
    pytest.mark.filterwarnings(r"ignore:unclosed (<socket\.|transport <_SelectorSocketTransport):ResourceWarning"),
    pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True),
]


async def test_an_answer_that_comes_while_a_late_crash_is_put_right_does_not_fail_the_run(
    inn: Inn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker of an earlier attempt reports a crash while Prefect is told that the run has parked."""
    run = await inn.start("visitor", rounds=3)
    await run.is_warm()
    real, done = suspending.propose_state, []

    async def proposed(client: PrefectClient, state: State[Any], flow_run_id: UUID) -> State[Any]:
        if not done:
            done.append(1)
            await inn.client.set_flow_run_state(UUID(run.id), Crashed(message="exit code -9"))
            attempt = (await run.row()).attempt
            await run.signal("round-1", 4)

            async def has_gone_on() -> bool:
                return bool((await run.row()).attempt > attempt)

            await wait_until(has_gone_on, shows=run.shown)
        return await real(client, state, flow_run_id=flow_run_id)

    monkeypatch.setattr(suspending, "propose_state", proposed)
    await run.signal("round-0", 3)
    await wait_until(lambda: run.deeds("round 1"), shows=run.shown)
    assert (await run.is_in(RunState.PARKED, RunState.FAILED)).state == RunState.PARKED
    await run.signal("round-2", 1)
    assert await run.result() == 8


async def test_a_cancel_that_is_heard_of_late_does_not_end_a_run_that_was_retried_since(inn: Inn) -> None:
    held: list[tuple[str, State[Any]]] = []
    hear = inn.host.hear_of_state

    def held_back(run_id: str, state: State[Any]) -> Any:
        if state.type in (StateType.CANCELLED, StateType.CANCELLING):
            return held.append((run_id, state))
        return hear(run_id, state)

    run = await inn.start("visitor", rounds=1)
    await run.is_warm()
    inn.host.hear_of_state = held_back  # type: ignore[method-assign]
    await inn.client.set_flow_run_state(UUID(run.id), Cancelled(message="oops"))
    await run.is_in(RunState.CANCELLED)
    await wait_until(lambda: held and run.id not in inn.host.guests)
    await inn.client.set_flow_run_state(UUID(run.id), Scheduled(name="AwaitingRetry"))
    await run.is_warm()
    for run_id, state in held:
        await inn.host.ends._end(run_id, state)
        await inn.host.ends._end(run_id, None)
    assert (await run.row()).state == RunState.PARKED
    await run.signal("round-0", 2)
    assert await run.result() == 2


async def test_a_retry_is_known_by_no_clock(inn: Inn) -> None:
    """The ledger's clock was ahead of Prefect's when the attempt failed, which the ledger had woken and not Prefect."""
    run = await inn.start("stumbler")
    await run.is_warm()
    assert inn.host.warmth.make_room(1) == 1
    await wait_until(lambda: run.id not in inn.host.guests)
    await run.signal("round-0", 3)
    await run.is_in(RunState.FAILED)
    await run.is_shown(StateType.FAILED)
    async with inn.ledger.database.transaction() as connection:
        ahead = update(table_of(tables.Run)).values(ended_at=clock.utcnow() + timedelta(minutes=5))
        await connection.execute(ahead)
    await inn.client.set_flow_run_state(UUID(run.id), Scheduled(name="AwaitingRetry"))
    await run.is_in(RunState.COMPLETED)
    assert await run.result() == 3


async def test_a_host_that_opens_hears_of_the_last_minute_and_undoes_no_retry(
    inn: Inn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect tells whoever connects of the last minute once more."""
    heard: list[State[Any]] = []
    hear = HostWorker._heard

    def noted(self: HostWorker, run_id: str, state: State[Any]) -> None:
        hear(self, run_id, state)
        if run_id == run.id and state.type is StateType.CANCELLED:
            heard.append(state)

    run = await inn.start("visitor", rounds=1)
    await run.is_warm()
    await inn.client.set_flow_run_state(UUID(run.id), Cancelled(message="oops"))
    await run.is_in(RunState.CANCELLED)
    await wait_until(lambda: run.id not in inn.host.guests)
    await inn.client.set_flow_run_state(UUID(run.id), Scheduled())
    await run.is_warm()
    await inn.closes()
    monkeypatch.setattr(HostWorker, "_heard", noted)
    await inn.opens()
    await wait_until(lambda: heard, shows=run.shown)
    await inn.host.ends._end(run.id, heard[0])  # as has been begun
    assert (await run.row()).state == RunState.PARKED
    await run.signal("round-0", 2)
    assert await run.result() == 2


async def test_a_park_whose_answer_was_lost_is_made_good(inn: Inn, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger has it, its attempt does not know, and Prefect shows no question."""
    monkeypatch.setattr(settings, "START_GRACE", timedelta(seconds=0.5))
    monkeypatch.setattr(settings, "RECONCILE_EVERY", timedelta(seconds=0.2))
    park, lost = Runs.park, []

    async def reply_lost(self: Runs, run_id: str, *args: Any) -> RunState | None:
        parked = await park(self, run_id, *args)
        if not lost:
            lost.append(run_id)
            raise LedgerUnavailable("the ledger", "the connection was cut")
        return parked

    async def away(self: Runs, run_id: str, attempt: int) -> bool:
        raise LedgerUnavailable("the ledger", "it is still away as the attempt ends")

    monkeypatch.setattr(Runs, "park", reply_lost)
    monkeypatch.setattr(Runs, "release", away)
    run = await inn.start("visitor", rounds=1)
    await wait_until(lambda: lost and run.id not in inn.host.guests, shows=run.shown)
    await inn.host.refresh()
    await run.is_warm()
    await run.signal("round-0", 2)
    assert await run.result() == 2


async def test_what_a_frozen_host_has_still_to_tell_of_a_run_that_was_taken_over_is_not_told(inn: Inn) -> None:
    run = await inn.start("visitor", rounds=1)
    await run.is_warm()
    group = await inn.ledger.waits.group(run.id, "round-0")
    taken = text("UPDATE runs SET attempt = attempt + 1, holder = 'another' WHERE id = :run")
    await inn.ledger.database.write(taken, {"run": run.id})
    await inn.client.set_flow_run_state(UUID(run.id), Running(), force=True)
    assert run.guest.run is not None
    run.guest.run.attempt += 100  # else Prefect knows this pause already
    run.guest.parks(group)
    await inn.host.following.drained(run.id)
    assert (await run.prefect()).is_running()
    await inn.host.ledger.hosted.abandon("another")
    await inn.host.refresh()
    await wait_until(lambda: run.id not in inn.host.guests, shows=run.shown)


async def test_the_form_of_an_earlier_question_is_replaced(inn: Inn, monkeypatch: pytest.MonkeyPatch) -> None:
    """A late attempt has had Prefect show it just before: it would take an answer for the question of then."""
    run = await inn.start("visitor", rounds=2)
    await run.is_warm()
    [first] = await inn.ledger.waits.open_ones([run.id])
    real, done = suspending.propose_state, []

    async def proposed(client: PrefectClient, state: State[Any], flow_run_id: UUID) -> State[Any]:
        if not done:
            done.append(1)
            await inn.client.set_flow_run_state(flow_run_id, Suspended(pause_key=f"{first.id}-1-1"), force=True)
        return await real(client, state, flow_run_id=flow_run_id)

    monkeypatch.setattr(suspending, "propose_state", proposed)
    await run.signal("round-0", 1)

    async def shows_the_second() -> bool:
        waiting = await inn.ledger.waits.open_ones([run.id])
        key = (await run.prefect()).state_details.pause_key
        return bool(waiting and key and key.startswith(waiting[0].id) and waiting[0].id != first.id)

    await wait_until(shows_the_second, shows=run.shown)
    await run.is_shown_as("Suspended")
    await run.signal("round-1", 1)
    assert await run.result() == 2


@pytest.mark.parametrize("limit", [1], indirect=True)
async def test_who_waits_for_a_place_gets_it_when_it_is_free(inn: Inn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when the host happens to look at Prefect's queue the next time, here an hour later."""
    monkeypatch.setattr(worker, "POLL_SECONDS", 3600)
    runs = [await inn.start("worker", steps=5) for _ in range(4)]
    for run in runs:
        assert await run.result(within=150) == 5


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect's events do not reach the host, which opens after this: it has its poll."""
    monkeypatch.setattr(HostWorker, "_heard", lambda *_: None)
    monkeypatch.setattr(worker, "POLL_SECONDS", 0.3)


@pytest.mark.usefixtures("deaf")
async def test_a_warm_run_that_is_resumed_without_an_event_goes_on(inn: Inn) -> None:
    run = await inn.start("visitor", rounds=1)
    await run.is_warm()
    attempt = (await run.row()).attempt
    await inn.client.set_flow_run_state(UUID(run.id), Scheduled(name="Resuming"))

    async def has_been_on() -> bool:
        return bool((await run.row()).attempt > attempt)

    await wait_until(has_been_on, shows=run.shown)
    await run.is_shown_as("Suspended")
    await run.signal("round-0", 2)
    assert await run.result() == 2


@pytest.mark.usefixtures("deaf")
async def test_a_cancel_of_a_working_run_that_nobody_told_of_is_seen(inn: Inn) -> None:
    run = await inn.start("worker", steps=100_000)
    await run.is_in(RunState.RUNNING)
    await run.is_shown(StateType.RUNNING)
    await inn.client.set_flow_run_state(UUID(run.id), Cancelling(message="not wanted"))
    await inn.host.refresh()  # as it does every half minute
    await run.is_in(RunState.CANCELLED)
    await run.is_shown(StateType.CANCELLED)


@pytest.mark.usefixtures("deaf")
async def test_a_cancel_of_a_warm_run_that_a_wake_has_overtaken_is_kept_to(inn: Inn) -> None:
    run = await inn.start("visitor", rounds=1)
    await run.is_warm()
    await inn.client.set_flow_run_state(UUID(run.id), Cancelled(message="not wanted"))
    await inn.client.set_flow_run_state(UUID(run.id), Scheduled(name="Resuming"))
    await run.is_in(RunState.CANCELLED)
    await run.is_shown(StateType.CANCELLED)


async def to_come(inn: Inn) -> Run:
    """A run that no host takes up yet."""
    later = Scheduled(scheduled_time=clock.utcnow() + timedelta(hours=1))
    deployment = await inn.deploy("worker")
    flow_run = await inn.client.create_flow_run_from_deployment(deployment, parameters={"steps": 100_000}, state=later)
    return Run(inn, str(flow_run.id))


@pytest.mark.usefixtures("deaf")
async def test_a_cancel_that_a_wake_has_overtaken_is_kept_to_though_nobody_told(inn: Inn) -> None:
    """Who woke the run had seen it suspended."""
    run = await to_come(inn)
    await inn.client.set_flow_run_state(UUID(run.id), Cancelled(message="not wanted"))
    await inn.client.set_flow_run_state(UUID(run.id), Scheduled(name="Resuming"))
    await run.is_shown(StateType.RUNNING, StateType.CANCELLED)
    await wait_until(lambda: run.id not in inn.host.guests, shows=run.shown)
    await run.is_shown(StateType.CANCELLED)
    row = await run.row()
    assert row is None or row.state == RunState.CANCELLED, "it may not have begun"


@pytest.mark.usefixtures("deaf")
async def test_a_run_that_is_claimed_while_its_cancel_is_looked_up_is_cancelled(
    inn: Inn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host has seen that the ledger has no such run, and asks Prefect; meanwhile the attempt claims it."""
    looks = asyncio.Event()
    claim, standing = Runs.claim, Ends._standing

    async def claimed(self: Runs, *args: Any, **options: Any) -> Any:
        await looks.wait()
        return await claim(self, *args, **options)

    async def stands(self: Ends, run_id: str, state: State[Any] | None) -> State[Any] | None:
        looks.set()
        await run.is_in(RunState.RUNNING, RunState.CANCELLED)
        return await standing(self, run_id, state)

    async def never(*_: Any) -> None: ...

    monkeypatch.setattr(keeper, "end_as_prefect_says", never)  # which would do it later
    monkeypatch.setattr(Runs, "claim", claimed)
    monkeypatch.setattr(Ends, "_standing", stands)
    run = await to_come(inn)
    await inn.client.set_flow_run_state(UUID(run.id), Cancelled(message="not wanted"))
    await inn.client.set_flow_run_state(UUID(run.id), Scheduled(name="Resuming"))
    await run.is_in(RunState.CANCELLED)
    await wait_until(lambda: run.id not in inn.host.guests, shows=run.shown)
    await run.is_shown(StateType.CANCELLED)


@pytest.mark.parametrize("cancelled", [Cancelling, Cancelled])
async def test_a_run_that_has_completed_before_its_cancel_is_shown_so(
    inn: Inn, monkeypatch: pytest.MonkeyPatch, cancelled: Callable[..., State[Any]]
) -> None:
    """Prefect takes its end later than the cancel; no hooks of a cancel are called."""
    let, set_state = asyncio.Event(), PrefectClient.set_flow_run_state

    async def held_back(self: PrefectClient, run_id: UUID, state: State[Any], force: bool = False) -> Any:
        if state.is_completed():
            await let.wait()
        return await set_state(self, run_id, state, force)

    monkeypatch.setattr(PrefectClient, "set_flow_run_state", held_back)
    run = await inn.start("noted")
    await run.is_warm()
    outside.gate(outside._place(), "go").touch()
    await run.signal("round-0", 3)
    await run.is_in(RunState.COMPLETED)
    await run.is_shown(StateType.RUNNING)
    await inn.client.set_flow_run_state(UUID(run.id), cancelled())
    await inn.host.ends._end(run.id, await run.prefect())  # as it does when it hears of it
    let.set()
    assert await run.result() == 3
    await wait_until(lambda: run.id not in inn.host.guests)
    await inn.host.returns.made()
    await inn.host.following.drained(run.id)
    assert (await run.prefect()).is_completed()
    assert run.deeds("hook") == 0


async def test_a_retry_that_is_cancelled_before_it_has_the_run_does_not_go_on(
    inn: Inn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger still has how the attempt before it ended."""
    run = await inn.start("stumbler")
    await run.is_warm()
    await run.signal("round-0", 3)
    await run.is_shown(StateType.FAILED)
    await wait_until(lambda: run.id not in inn.host.guests)
    claims, let, claim = asyncio.Event(), asyncio.Event(), Runs.claim

    async def held_back(self: Runs, *args: Any, **options: Any) -> Any:
        claims.set()
        await let.wait()
        return await claim(self, *args, **options)

    monkeypatch.setattr(Runs, "claim", held_back)
    await inn.client.set_flow_run_state(UUID(run.id), Scheduled(name="AwaitingRetry"), force=True)
    await asyncio.wait_for(claims.wait(), WITHIN)
    await run.is_shown(StateType.RUNNING)
    await inn.client.set_flow_run_state(UUID(run.id), Cancelled(message="not wanted"))
    await inn.host.ends._end(run.id, await run.prefect())  # as it does when it hears of it
    let.set()
    await wait_until(lambda: run.id not in inn.host.guests, shows=run.shown)
    await inn.host.following.drained(run.id)
    assert (await run.prefect()).is_cancelled()
    assert (await run.row()).state == RunState.FAILED
