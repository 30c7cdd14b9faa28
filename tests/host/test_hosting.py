"""Agents in a host: parked warm, woken, evicted, cancelled, left; whatever happens, each step once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelling, Scheduled, Suspended
from prefect.workers.process import ProcessWorker

from standby import settings
from standby.cli_host import tell_of_new
from standby.connect import open_prefect
from standby.host.guest import Phase
from standby.host.health import report
from standby.states import Hold, RunState
from tests.host.conftest import Inn
from tests.support.server import PrefectServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.filterwarnings(
    r"ignore:unclosed (<socket\.|transport <_SelectorSocketTransport):ResourceWarning"
)

on_sqlite = pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)


async def test_a_parked_run_lingers_and_goes_on_where_it_was(inn: Inn) -> None:
    """G7: to Prefect and to everybody it is parked; its own Suspended event does not stop the attempt that goes on."""
    heard: list[str | None] = []
    hear_of_state = inn.host.hear_of_state
    inn.host.hear_of_state = lambda run_id, state: heard.append(state.name) or hear_of_state(run_id, state)  # type: ignore[method-assign, func-returns-value]
    run = await inn.start("visitor", rounds=2)
    await run.is_warm()
    row = await run.row()
    assert (row.state, row.hold, row.attempt, row.lease_expires_at) == (RunState.PARKED, Hold.WARM, 1, None)
    await wait_until(lambda: "Suspended" in heard)
    first = run.guest
    await run.signal("round-0", 3)
    await wait_until(lambda: run.deeds("round 0"))
    await run.is_warm()
    assert run.guest is first, "the same coroutine"
    assert (await run.row()).attempt == 2
    await run.signal("round-1", 4)
    assert await run.result() == 7
    assert (run.deeds("came"), run.deeds("round 0"), run.deeds("round 1")) == (1, 1, 1)


async def test_a_cold_run_is_taken_up_by_its_host_with_few_calls(inn: Inn, calls: Callable[[], list[str]]) -> None:
    """G1, G9: evicted, it replays what it did; a claim in the ledger and five calls of the Prefect API at most."""
    run = await inn.start("visitor", steps=20)
    await run.is_warm()
    assert inn.host.warmth.make_room(1) == 1
    await wait_until(lambda: run.id not in inn.host.guests)
    row = await run.row()
    assert (row.state, row.hold, row.holder) == (RunState.PARKED, Hold.SUSPEND, None)
    calls()
    await run.signal("round-0", 5)
    assert await run.result() == 25
    made = [call for call in calls() if run.id in call or "/deployments/" in call]
    assert len(made) <= 5, made
    assert (run.deeds("came"), run.deeds("round 0")) == (1, 1)


@on_sqlite
async def test_what_is_submitted_in_prefect_is_the_answer(inn: Inn) -> None:
    run = await inn.start("visitor")
    await run.is_warm()
    resumed = await inn.client.resume_flow_run(UUID(run.id), run_input={"answer": 8})
    assert resumed.status.value == "ACCEPT"
    assert await run.result() == 8


@on_sqlite
async def test_a_resume_without_an_answer_passes_no_gate(inn: Inn) -> None:
    """It wakes, finds its wait open and parks again, in the same place."""
    run = await inn.start("visitor")
    await run.is_warm()
    guest = run.guest
    await inn.client.set_flow_run_state(UUID(run.id), _scheduled())
    await wait_until(lambda: guest.run is not None and guest.run.attempt > 1)
    await run.is_warm()
    assert run.deeds("round 0") == 0
    await run.signal("round-0", 1)
    assert await run.result() == 1


@on_sqlite
@pytest.mark.parametrize("where", ["warm", "cold", "running"])
async def test_a_run_is_cancelled_in_prefect_wherever_it_is(inn: Inn, where: str) -> None:
    """Row 18: it ends cancelled in both, its wait is closed, and what it held until then is billed."""
    run = await inn.start("worker" if where == "running" else "visitor")
    if where == "running":
        await wait_until(lambda: run.id in inn.host.guests and run.guest.phase is Phase.RUNNING)
        await run.is_shown(StateType.RUNNING)
    else:
        await run.is_warm()
    if where == "cold":
        inn.host.warmth.make_room(1)
        await wait_until(lambda: run.id not in inn.host.guests)
    await inn.client.set_flow_run_state(UUID(run.id), Cancelling())
    await run.is_in(RunState.CANCELLED)
    await run.is_shown(StateType.CANCELLED)
    await wait_until(lambda: run.id not in inn.host.guests)
    assert not await inn.ledger.waits.open_ones([run.id])

    async def billed() -> bool:
        [wait] = await inn.ledger.waits.of_run(run.id)
        return bool(wait.gib_seconds > 0) and (wait.let_go_at is not None) == (where == "cold")

    if where != "running":
        await wait_until(billed)


@on_sqlite
async def test_a_run_that_somebody_suspends_stops_at_its_next_task_and_can_be_resumed(inn: Inn) -> None:
    """Row 19: the UI's Pause button."""
    run = await inn.start("visitor", rounds=2)
    await run.is_warm()
    # While it goes on from the first wait it is Running in Prefect; paused there, it stops before it parks again.
    inn.host.following.later(run.id, lambda: asyncio.sleep(0))
    await run.signal("round-0", 1)
    await run.is_warm()
    guest = run.guest
    guest.phase = Phase.RUNNING
    await guest.suspended_by_somebody()
    assert guest._engine is not None
    assert not guest._engine._flow_run_suspension_request.is_requested(), "by its own park, which is told of late"
    await inn.client.set_flow_run_state(UUID(run.id), Suspended(), force=True)
    await guest.suspended_by_somebody()
    guest.phase = Phase.WARM
    await run.signal("round-1", 1)
    await wait_until(lambda: run.id not in inn.host.guests)
    assert run.deeds("round 1") == 0, "it stopped before its next task"
    await inn.host.following.drained(run.id)
    await inn.client.set_flow_run_state(UUID(run.id), Suspended(), force=True)
    await inn.client.set_flow_run_state(UUID(run.id), _scheduled())
    assert await run.result() == 2
    assert run.deeds("round 0") == 1


@on_sqlite
@pytest.mark.parametrize("limit", [1], indirect=True)
async def test_parked_runs_take_no_place_of_running_ones(inn: Inn) -> None:
    first = await inn.start("visitor")
    await first.is_warm()
    second = await inn.start("visitor")
    await second.is_warm()
    busy = await inn.start("worker", steps=10**6)
    await wait_until(lambda: busy.id in inn.host.guests and busy.guest.phase is Phase.RUNNING)
    await first.signal("round-0", 1)
    await second.signal("round-0", 2)
    await wait_until(lambda: first.guest.phase is Phase.WAKING and second.guest.phase is Phase.WAKING)
    stood = report(inn.host)
    assert (stood["running"], stood["waiting_for_a_turn"]) == (1, 2)
    await inn.client.set_flow_run_state(UUID(busy.id), Cancelling())
    assert (await first.result(), await second.result()) == (1, 2)


@on_sqlite
@pytest.mark.parametrize("limit", [1], indirect=True)
async def test_a_new_run_has_its_turn_though_somebody_always_waits_for_one(inn: Inn) -> None:
    """In the order of coming, as those that wake."""
    slots = inn.host.slots
    names = (f"other {number}" for number in count())
    await slots.enter(here := next(names))
    waits = asyncio.create_task(slots.enter(follows := next(names)))
    runs = [await inn.start("visitor") for _ in range(2)]
    while not all(run.deeds("came") for run in runs):
        later = asyncio.create_task(slots.enter(after := next(names)))
        await asyncio.sleep(0.02)
        slots.leave(here)
        async with asyncio.timeout(20):
            await waits
        here, follows, waits = follows, after, later
    waits.cancel()
    slots.leave(here)
    for run in runs:
        await run.signal("round-0", 1)
        assert await run.result() == 1
    await wait_until(lambda: (slots.taken, slots.waiting) == (0, 0))


@on_sqlite
@pytest.mark.parametrize("limit", [1], indirect=True)
async def test_the_turn_of_a_new_run_that_is_not_to_begin_is_the_next_ones(inn: Inn) -> None:
    slots = inn.host.slots
    await slots.enter("other")
    gone, run = await inn.start("visitor"), await inn.start("visitor")
    await wait_until(lambda: slots.waiting == 2)
    await inn.client.set_flow_run_state(UUID(gone.id), Cancelling())
    slots.leave("other")
    await run.is_warm()
    assert not gone.deeds("came")
    await wait_until(lambda: (slots.taken, slots.waiting) == (0, 0))


@on_sqlite
async def test_each_process_of_a_run_has_a_place_of_its_own(inn: Inn, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first still ends when the run is begun again."""
    processes: list[asyncio.Event] = []

    async def process(_: Any, flow_run: Any, task_status: Any) -> None:
        processes.append(over := asyncio.Event())
        task_status.started(len(processes))
        await over.wait()

    monkeypatch.setattr(ProcessWorker, "_submit_run_and_capture_errors", process)
    made = await inn.client.create_flow_run_from_deployment(
        await inn.deploy("visitor", job_variables={"isolation": "process"})
    )
    try:
        for begun in (1, 2):
            await wait_until(lambda begun=begun: len(processes) == begun and not inn.worker._submitting_flow_run_ids)
            assert inn.host.slots.taken == begun
            if begun == 1:
                await inn.client.set_flow_run_state(made.id, _scheduled(), force=True)
        for over, left in zip(processes, (1, 0), strict=True):
            over.set()
            await wait_until(lambda left=left: inn.host.slots.taken <= left)
            assert inn.host.slots.taken == left
    finally:
        for over in processes:
            over.set()


@on_sqlite
@pytest.mark.parametrize("limit", [1], indirect=True)
async def test_a_run_in_prefects_own_pause_takes_no_place_and_goes_on_in_its_turn(inn: Inn) -> None:
    run = await inn.start("pauser")
    await run.is_shown_as("Paused")
    assert (report(inn.host)["paused"], inn.host.slots.taken) == (1, 0)
    async with asyncio.timeout(5):
        await inn.host.slots.enter("other")
    await run.signal("round-0", 3)
    await wait_until(lambda: run.guest.phase is Phase.WAKING)
    assert not run.deeds("went on")
    inn.host.slots.leave("other")
    assert await run.result() == 3
    assert (run.deeds("came"), run.deeds("went on")) == (1, 1)


@on_sqlite
async def test_a_host_that_ends_leaves_what_is_in_prefects_own_pause_at_once(
    inn: Inn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next host takes it up, and it waits on there."""
    monkeypatch.setenv("STANDBY_HOST_GRACE", "60")
    run = await inn.start("pauser")
    await run.is_shown_as("Paused")
    async with asyncio.timeout(20):
        await inn.closes()
    left = await run.row()
    assert (left.state, left.holder) == (RunState.READY, None)
    assert (await run.prefect()).type is StateType.SCHEDULED
    await inn.opens()
    await run.is_in(RunState.PARKED)
    await run.signal("round-0", 4)
    assert await run.result() == 4
    assert run.deeds("came") == 1


@pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)
async def test_a_host_that_ends_leaves_nothing_behind(inn: Inn) -> None:
    """Row 13: what is parked is parked cold, what runs stops at a checkpoint, and another host goes on with both."""
    warm, busy = await inn.start("visitor"), await inn.start("worker", steps=400)
    await warm.is_warm()
    await wait_until(lambda: busy.id in inn.host.guests and busy.guest.phase is Phase.RUNNING)
    await inn.closes()
    parked, left = await warm.row(), await busy.row()
    assert (parked.state, parked.hold, parked.holder, parked.wake_address) == (
        RunState.PARKED, Hold.SUSPEND, None, None,
    )  # fmt: skip
    assert (left.state, left.holder) == (RunState.READY, None)
    [wait] = await inn.ledger.waits.of_run(warm.id)
    assert wait.gib_seconds > 0, "what it held is billed"
    assert wait.let_go_at is not None
    assert (await busy.prefect()).type is StateType.SCHEDULED
    await inn.opens()
    await warm.signal("round-0", 2)
    assert await warm.result() == 2
    assert await busy.result() == 400
    assert warm.deeds("came") == 1


@on_sqlite
async def test_a_run_that_another_worker_has_taken_is_forgotten(inn: Inn) -> None:
    """G8: the ledger says whose it is; the coroutine that lingers is fenced and ends."""
    run = await inn.start("visitor")
    await run.is_warm()
    row = await run.row()
    claim = await inn.ledger.runs.claim(
        run.id, flow=row.flow, name=row.name, deployment_id=row.deployment_id, holder="elsewhere/1/1",
        lease=settings.LEASE,
    )  # fmt: skip
    assert claim.attempt == 2
    guest = run.guest
    inn.host.compare_soon()
    await wait_until(lambda: guest.phase is Phase.OVER)
    assert (await run.row()).holder == "elsewhere/1/1"
    assert run.deeds("round 0") == 0
    await inn.ledger.runs.end(run.id, 2, RunState.CANCELLED)


@on_sqlite
async def test_an_agent_that_keeps_the_host_for_itself_is_named(inn: Inn, caplog: pytest.LogCaptureFixture) -> None:
    run = await inn.start("hog", seconds=2.5)
    said = await wait_until(
        lambda: [line for line in caplog.messages if "keeps the host for itself" in line and "guests.py:" in line]
    )
    assert run.id in said[0]
    assert "'quick'" in said[0]


def _scheduled() -> State[Any]:
    return Scheduled(name="Resuming")


async def test_a_pool_that_is_not_there_is_told_of(
    prefect_server: PrefectServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """A host makes it, as Prefect's workers do; a misspelt one would host nothing without a word."""
    async with open_prefect(prefect_server.url) as client:
        await client.create_work_pool(WorkPoolCreate(name="there", type="process"))
    await tell_of_new("there", prefect_server.url)
    assert capsys.readouterr().out == ""
    await tell_of_new("thr", prefect_server.url)
    assert capsys.readouterr().out.startswith("There is no work pool 'thr' yet: it is made, ")
