"""Processes that die after a worker has taken a run and before the run is reached: the keeper schedules it again."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectAlreadyExists
from prefect.states import Cancelled, Completed, Crashed, Failed, Pending, Running, Scheduled, Suspended
from sqlalchemy import update

from standby import clock, confirming, doctor, holder, reconciling, settings
from standby.cancelling import cancelled
from standby.doctor import audit
from standby.errors import UsageError
from standby.keeper import Keeper
from standby.ledger import Ledger
from standby.ledger.tables import Run, table_of
from standby.patience import Patience
from standby.states import RunState
from tests.ledger import acts
from tests.support.server import PrefectServer
from tests.support.waiting import wait_until

LAST_SEEN = {"pending": Pending, "running": Running, "crashed": Crashed}
"""What Prefect shows of a run whose process died at its start, by how far it came."""


class Scene:
    """One deployed run on a server without a worker, and a keeper."""

    def __init__(self, ledger: Ledger, client: PrefectClient, run_id: UUID) -> None:
        self.ledger, self.client, self.run_id = ledger, client, run_id
        self.keeper = Keeper(ledger, lambda: PrefectClient(str(client.api_url)))

    async def passes(self, *states: State) -> None:
        for state in states:
            await self.client.set_flow_run_state(self.run_id, state, force=True)

    async def state_after_a_round(self) -> StateType:
        assert await self.keeper.tick()
        state = (await self.client.read_flow_run(self.run_id)).state
        assert state is not None
        return state.type

    async def is_scheduled(self) -> None:
        """The keeper goes round until it is."""

        async def scheduled() -> bool:
            return await self.state_after_a_round() is StateType.SCHEDULED

        await wait_until(scheduled, 30)


@pytest.fixture
async def scene(prefect_server: PrefectServer, sqlite_url: str) -> AsyncIterator[Scene]:
    ledger = await Ledger.connect(sqlite_url)
    async with PrefectClient(prefect_server.url) as client:
        with suppress(ObjectAlreadyExists):
            await client.create_work_pool(WorkPoolCreate(name="nobody", type="process"))
        flow = await client.create_flow_from_name("lost-agent")
        deployment = await client.create_deployment(flow, "lost", work_pool_name="nobody", tags=[settings.AGENT_TAG])
        run = await client.create_flow_run_from_deployment(deployment)
        yield Scene(ledger, client, run.id)
        await client.delete_flow_run(run.id)
    await ledger.close()


@pytest.fixture
def little_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "START_GRACE", timedelta(seconds=0.5))
    monkeypatch.setattr(settings, "WAKE_GRACE", timedelta(seconds=0.5))
    monkeypatch.setattr(settings, "RECONCILE_EVERY", timedelta(0))
    monkeypatch.setattr(confirming, "CONFIRM_AFTER", timedelta(seconds=0.5))


@pytest.mark.parametrize("last_seen", ["pending", "running"])
async def test_a_process_has_its_time_to_start(scene: Scene, last_seen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "START_GRACE", timedelta(hours=1))
    await scene.passes(Pending(), LAST_SEEN[last_seen]())
    assert await scene.state_after_a_round() is LAST_SEEN[last_seen]().type


@pytest.mark.usefixtures("little_grace")
@pytest.mark.parametrize("last_seen", LAST_SEEN)
async def test_a_run_whose_first_process_died_is_scheduled_again(scene: Scene, last_seen: str) -> None:
    await scene.passes(Pending(), LAST_SEEN[last_seen]())
    await scene.is_scheduled()


@pytest.mark.usefixtures("little_grace")
async def test_why_a_run_crashed_is_not_said_anew_when_it_is_scheduled_again(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """One cause may be that of many runs, and of each of their tries."""
    caplog.set_level(logging.INFO, "standby.keeper")
    await scene.passes(Pending(), Crashed(message="Its code cannot be loaded."))
    await scene.is_scheduled()
    said = [line for line in caplog.messages if str(scene.run_id) in line]
    assert said == [f"Run {scene.run_id} has not come to its agent, for it crashed, and is scheduled again."]


@pytest.mark.usefixtures("little_grace")
async def test_a_run_whose_first_process_died_is_found_behind_many_that_are_at_work(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One comparison reads the newest, and some of the others."""
    monkeypatch.setattr(reconciling, "BATCH", 3)
    await scene.passes(Pending())
    deployment = (await scene.client.read_flow_run(scene.run_id)).deployment_id
    assert deployment is not None
    for _ in range(10):
        made = await scene.client.create_flow_run_from_deployment(deployment, state=Running())
        await acts.claim(scene.ledger, str(made.id), holder=holder.this_process())
    await scene.is_scheduled()


@pytest.mark.usefixtures("little_grace")
@pytest.mark.parametrize("last_seen", LAST_SEEN)
async def test_a_run_that_was_resumed_in_prefect_and_not_reached_is_scheduled_again(
    scene: Scene, last_seen: str
) -> None:
    """Nobody has settled its wait, so for the ledger it is parked; the answer lies in Prefect."""
    await acts.parked(scene.ledger, [acts.approval()], run=str(scene.run_id))
    await scene.passes(Running(), Suspended(pause_key="key"), Scheduled(name="Resuming"), LAST_SEEN[last_seen]())
    await scene.is_scheduled()


@pytest.mark.usefixtures("little_grace")
@pytest.mark.parametrize("last_seen", LAST_SEEN)
async def test_a_run_that_was_retried_in_prefect_and_not_reached_is_scheduled_again(
    scene: Scene, last_seen: str
) -> None:
    attempt = (await acts.claim(scene.ledger, str(scene.run_id))).attempt
    await scene.ledger.runs.end(str(scene.run_id), attempt, RunState.FAILED, error="ValueError: no")
    await scene.ledger.runs.confirm([str(scene.run_id)])
    await scene.passes(Running(), Failed(), Scheduled(name="AwaitingRetry"), LAST_SEEN[last_seen]())
    await scene.is_scheduled()


@pytest.mark.usefixtures("little_grace")
async def test_a_run_that_is_parked_as_it_should_be_is_left_alone(scene: Scene) -> None:
    await acts.parked(scene.ledger, [acts.approval()], run=str(scene.run_id))
    await scene.passes(Running(), Suspended(pause_key="key"))
    assert await scene.state_after_a_round() is StateType.PAUSED


@pytest.mark.usefixtures("little_grace")
@pytest.mark.parametrize("last_seen", ["running", "crashed"])
async def test_a_failed_run_whose_process_died_before_it_told_is_shown_as_failed(scene: Scene, last_seen: str) -> None:
    """And not run again, which would try the step that failed once more."""
    run_id = str(scene.run_id)
    attempt = (await acts.claim(scene.ledger, run_id)).attempt
    await scene.passes(Running(), LAST_SEEN[last_seen]())
    await scene.ledger.runs.end(run_id, attempt, RunState.FAILED, error="ValueError: no")

    async def told() -> bool:
        seen = await scene.state_after_a_round()
        assert seen in (LAST_SEEN[last_seen]().type, StateType.FAILED)
        return seen is StateType.FAILED

    await wait_until(told, 30)
    state = (await scene.client.read_flow_run(scene.run_id)).state
    assert state is not None
    assert state.message == "ValueError: no"
    run = await scene.ledger.runs.get(run_id)
    assert run is not None
    assert run.confirmed


@pytest.mark.usefixtures("little_grace")
@pytest.mark.parametrize("ends", [Failed, Crashed])
async def test_a_completed_run_that_cannot_be_run_again_is_shown_as_completed(
    scene: Scene, ends: Callable[[], State], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as under a worker of Prefect's own, whose process ends before it has come to the ledger."""
    monkeypatch.setattr(Patience, "allows", lambda *_: True)
    run_id = str(scene.run_id)
    await scene.passes(Running())
    attempt = (await acts.claim(scene.ledger, run_id)).attempt
    await scene.ledger.runs.end(run_id, attempt, RunState.COMPLETED, result="1")
    for _ in range(confirming.TRIES):
        await scene.is_scheduled()
        await scene.passes(Pending(), ends())
    assert await scene.state_after_a_round() is StateType.COMPLETED


@pytest.mark.parametrize(
    ("ended", "shown"),
    [
        (RunState.COMPLETED, Failed),
        (RunState.COMPLETED, Running),
        (RunState.FAILED, Completed),
        (RunState.CANCELLED, Running),
    ],
)
async def test_the_doctor_names_a_run_that_prefect_shows_with_another_end(
    scene: Scene, ended: RunState, shown: Callable[[], State], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where Prefect was seen to know the end, and was told of another since; all have their time for it."""
    run_id = str(scene.run_id)
    attempt = (await acts.claim(scene.ledger, run_id)).attempt
    await scene.ledger.runs.end(run_id, attempt, ended, error="no")
    await scene.ledger.runs.confirm([run_id])
    await scene.passes(shown())
    assert await audit(scene.ledger, scene.client) == []
    monkeypatch.setattr(doctor, "LATE", timedelta(0))
    [finding] = await audit(scene.ledger, scene.client)
    assert (finding.run_id, finding.problem) == (run_id, f"is {ended} in the ledger and {shown().name} in Prefect")
    await scene.passes({"completed": Completed, "failed": Failed, "cancelled": Cancelled}[ended]())
    assert await audit(scene.ledger, scene.client) == []


@pytest.mark.parametrize(
    ("ended", "then", "found"),
    [
        (RunState.COMPLETED, [Completed(), Scheduled(name="AwaitingRetry")], False),
        (RunState.FAILED, [Failed(), Scheduled(name="AwaitingRetry"), Pending()], False),
        (RunState.CANCELLED, [Cancelled(), Scheduled(name="AwaitingRetry"), Scheduled(name="Late")], False),
        (RunState.FAILED, [Failed(), Scheduled(name="Resuming"), Pending()], True),
        (RunState.COMPLETED, [Scheduled(name="AwaitingRetry"), Running(), Failed()], True),
        (RunState.COMPLETED, [Failed(), Scheduled(message=confirming.TO_BE_SHOWN)], True),
        (RunState.COMPLETED, [Failed(), Scheduled(message=confirming.TO_BE_SHOWN), Scheduled(name="Late")], True),
    ],
    ids=["in its queue", "pending", "late", "woken", "failed since", "to be shown", "to be shown, late"],
)
async def test_the_doctor_leaves_a_retry_to_who_has_asked_for_it(
    scene: Scene, ended: RunState, then: list[State], found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who sets the run to its former end in Prefect undoes that. Not what has come to an end since, nor what only the
    keeper or a wake has scheduled."""
    monkeypatch.setattr(doctor, "LATE", timedelta(0))
    run_id = str(scene.run_id)
    attempt = (await acts.claim(scene.ledger, run_id)).attempt
    await scene.ledger.runs.end(run_id, attempt, ended, error="no")
    await scene.passes(*then)
    findings = [finding.problem for finding in await audit(scene.ledger, scene.client) if finding.run_id == run_id]
    assert findings == [f"is {ended} in the ledger and {then[-1].name} in Prefect"] * found


async def test_the_doctor_asks_prefect_about_who_has_ended_long_ago_only_if_it_was_never_confirmed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, unconfirmed, late, lately = str(scene.run_id), *(str(uuid4()) for _ in range(3))
    for run_id in (old, unconfirmed, late, lately):
        attempt = (await acts.claim(scene.ledger, run_id)).attempt
        await scene.ledger.runs.end(run_id, attempt, RunState.FAILED, error="no")
    await scene.ledger.runs.confirm([old, late, lately])
    runs = table_of(Run)
    for these, age in (([old, unconfirmed], 25), ([late], 23)):
        long_ago = clock.utcnow() - timedelta(hours=age)
        await scene.ledger.database.write(update(runs).where(runs.c.id.in_(these)).values(ended_at=long_ago))
    asked: set[str] = set()

    async def states_of(_: PrefectClient, run_ids: Iterable[str], *types: object) -> dict[str, State]:
        asked.update(run_ids)
        return {}

    with monkeypatch.context() as watched:
        watched.setattr(doctor, "states_of", states_of)
        await audit(scene.ledger, scene.client)
        assert asked == {unconfirmed, late}, "the last has had no minute yet"
        await audit(scene.ledger, scene.client, all_ends=True)
        assert asked == {old, unconfirmed, late}
    await scene.passes(Completed())
    monkeypatch.setattr(doctor, "LATE", timedelta(0))
    assert [finding for finding in await audit(scene.ledger, scene.client) if finding.run_id == old] == []
    [finding] = [one for one in await audit(scene.ledger, scene.client, all_ends=True) if one.run_id == old]
    assert finding.problem == "is failed in the ledger and Completed in Prefect"


@pytest.mark.usefixtures("little_grace")
@pytest.mark.parametrize("last_seen", LAST_SEEN)
async def test_a_failed_run_that_is_retried_at_once_is_not_failed_again(scene: Scene, last_seen: str) -> None:
    """The retry comes before the keeper has seen that Prefect knows of the end."""
    run_id = str(scene.run_id)
    attempt = (await acts.claim(scene.ledger, run_id)).attempt
    await scene.ledger.runs.end(run_id, attempt, RunState.FAILED, error="ValueError: no")
    await scene.passes(Running(), Failed(), Scheduled(name="AwaitingRetry"))
    assert await scene.state_after_a_round() is StateType.SCHEDULED
    await scene.passes(LAST_SEEN[last_seen]())
    await scene.is_scheduled()


async def test_the_doctor_names_a_run_that_crashes_again_and_again_before_it_begins(scene: Scene) -> None:
    for _ in range(2):
        await scene.passes(Pending(), Crashed(message="no module named 'nosuch'"), Scheduled(name="Resuming"))
    assert not [found for found in await audit(scene.ledger, scene.client) if found.run_id == str(scene.run_id)]
    await scene.passes(Pending(), Crashed(message="no module named 'nosuch'."), Scheduled(name="Resuming"))
    [found] = [found for found in await audit(scene.ledger, scene.client) if found.run_id == str(scene.run_id)]
    assert found.problem == "has not come to its first step in 3 tries: no module named 'nosuch'"


async def test_a_run_is_cancelled_from_the_terminal_in_prefect_and_in_the_ledger(scene: Scene) -> None:
    await acts.parked(scene.ledger, [acts.approval()], run=str(scene.run_id))
    await scene.passes(Running(), Suspended(pause_key="key"))
    run = await scene.ledger.runs.get(str(scene.run_id))
    assert await cancelled(scene.ledger, run, "ada", str(scene.client.api_url)) == "is cancelled by ada"
    state = (await scene.client.read_flow_run(scene.run_id)).state
    assert state is not None
    assert state.type in (StateType.CANCELLED, StateType.CANCELLING)
    run = await scene.ledger.runs.get(str(scene.run_id))
    assert run is not None
    assert run.state == RunState.CANCELLED
    assert not await scene.ledger.waits.open_ones([run.id])
    with pytest.raises(UsageError, match="has ended: it is cancelled"):
        await cancelled(scene.ledger, run, "ada", str(scene.client.api_url))


async def test_a_run_that_was_deleted_in_prefect_is_named_and_can_be_cancelled(scene: Scene) -> None:
    gone = str(uuid4())
    await acts.parked(scene.ledger, [acts.approval()], run=gone)
    [found] = [found for found in await audit(scene.ledger, scene.client) if found.run_id == gone]
    assert "standby cancel" in found.remedy
    run = await scene.ledger.runs.get(gone)
    said = await cancelled(scene.ledger, run, "ada", str(scene.client.api_url))
    assert said.startswith("is cancelled by ada; Prefect at ")
    run = await scene.ledger.runs.get(gone)
    assert run is not None
    assert run.state == RunState.CANCELLED
    assert not [found for found in await audit(scene.ledger, scene.client) if found.run_id == gone]
