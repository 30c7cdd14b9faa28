"""Agents that wait for agents: each is started once, and its end wakes its parent, whatever dies in between."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterIdempotencyKey
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelled

from standby import settings
from standby.states import Door, RunState, WaitState
from tests.support.stage import Run, Stage
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def _keeper_looks_at_prefect_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "RECONCILE_EVERY", timedelta(0))


async def family(stage: Stage, entrypoint: str = "families.py:parent", **parameters: Any) -> Run:
    """A parent that is about to run; the agent it starts is deployed."""
    await stage.deploy("families.py:child")
    return await stage.start(entrypoint, **parameters)


async def child_of(parent: Run) -> Run:
    """The one run that the parent has started; the keeper may still have to."""
    stage = parent.stage

    async def started() -> str | None:
        [wait] = [wait for wait in await parent.waits() if wait.child is not None]
        if wait.child_run_id is None:
            await stage.tick()
        return wait.child_run_id  # type: ignore[no-any-return]

    run_id = await wait_until(started, 30, shows=parent.shown)
    assert run_id is not None
    [wait] = [wait for wait in await parent.waits() if wait.child is not None]
    key = FlowRunFilterIdempotencyKey(any_=[f"{wait.id}-{wait.opening}"])
    made = await stage.client.read_flow_runs(flow_run_filter=FlowRunFilter(idempotency_key=key))
    assert [str(run.id) for run in made] == [run_id]
    run = Run(stage, run_id)
    stage.runs.append(run)
    return run


async def test_a_child_that_ends_wakes_its_parent_with_its_result(stage: Stage) -> None:
    parent = await family(stage, number=21)
    assert await parent.rests() is RunState.PARKED
    child = await child_of(parent)
    await child.attempt()
    assert (await parent.prefect()).type is StateType.SCHEDULED, "woken by the child itself, not by a keeper"
    assert await parent.rests() is RunState.COMPLETED
    assert await parent.result() == "doubled to 42"
    [decision] = await stage.ledger.waits.decisions_of(parent.id)
    assert (decision.door, decision.actor) == (Door.AGENT, child.id)


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("point", ["child.starting", "child.created", "child.started"])
async def test_a_parent_killed_around_the_start_starts_one_child(stage: Stage, point: str) -> None:
    parent = await family(stage, number=21)
    await parent.dies_at(point)
    await parent.recover()
    assert await parent.rests() is RunState.PARKED
    child = await child_of(parent)
    assert await child.rests() is RunState.COMPLETED
    assert await parent.rests() is RunState.COMPLETED
    assert await parent.result() == "doubled to 42"
    assert len(child.deeds("work")) == 1


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
async def test_a_child_killed_at_its_end_wakes_its_parent_all_the_same(stage: Stage) -> None:
    parent = await family(stage, number=21)
    assert await parent.rests() is RunState.PARKED
    child = await child_of(parent)
    await child.dies_at("run.ended")
    assert await parent.rests() is RunState.COMPLETED
    assert await child.rests() is RunState.COMPLETED
    assert await parent.result() == "doubled to 42"


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
async def test_a_child_that_fails_or_is_cancelled_is_an_error_that_the_parent_can_catch(stage: Stage) -> None:
    failing, cancelled = await family(stage, number=-1), await family(stage, number=1)
    for parent in (failing, cancelled):
        assert await parent.rests() is RunState.PARKED
    assert await (await child_of(failing)).rests() is RunState.FAILED
    child = await child_of(cancelled)
    await stage.client.set_flow_run_state(UUID(child.id), Cancelled(message="not wanted"))
    stage.runs.remove(child)  # it never comes to the ledger

    async def heard() -> bool:
        await stage.tick()
        return bool((await cancelled.row()).state == RunState.READY)

    await wait_until(heard, 30, shows=cancelled.shown)
    for parent in (failing, cancelled):
        assert await parent.rests() is RunState.COMPLETED
    assert await failing.result() == "failed: ValueError: a number below zero"
    assert await cancelled.result() == "cancelled: not wanted"


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("if_closed", ["cancel", "leave"])
async def test_what_becomes_of_a_child_that_nobody_waits_for_is_declared(stage: Stage, if_closed: str) -> None:
    parent = await family(stage, "families.py:impatient", if_closed=if_closed)
    assert await parent.rests() is RunState.PARKED
    child = await child_of(parent)
    assert await child.rests() is RunState.PARKED
    [stop] = [wait for wait in await parent.waits() if wait.child is None]
    await parent.answer({"approved": True}, wait=stop)
    assert await parent.rests() is RunState.COMPLETED
    assert await parent.result() == "stop"
    assert [wait.state for wait in await parent.waits()] == [WaitState.CLOSED, WaitState.SETTLED]
    if if_closed == "leave":
        await stage.tick()
        assert (await child.row()).state == RunState.PARKED
        await child.answer({"approved": True})
        assert await child.rests() is RunState.COMPLETED
        return

    async def cancelled() -> bool:
        await stage.tick()
        return bool((await child.row()).state == RunState.CANCELLED)

    await wait_until(cancelled, 30, shows=child.shown)


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("heard", [True, False])
async def test_a_parent_that_was_cancelled_and_is_retried_starts_another_child(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, heard: bool
) -> None:
    """Its first one was cancelled with it, whether the ledger has heard of that by then or not."""
    parent = await family(stage, "families.py:asker", number=4)
    assert await parent.rests() is RunState.PARKED
    child = await child_of(parent)
    assert await child.rests() is RunState.PARKED
    await stage.client.set_flow_run_state(UUID(parent.id), Cancelled(message="the wrong one"))

    async def both_ended() -> bool:
        await stage.tick()
        if heard and (await child.row()).state != RunState.CANCELLED:
            return False
        return (await parent.row()).state == RunState.CANCELLED and (await child.prefect()).is_cancelled()

    await wait_until(both_ended, 30, shows=child.shown)
    if not heard:
        monkeypatch.setattr(settings, "RECONCILE_EVERY", timedelta(hours=1))
    await parent.retry()
    assert await parent.rests() is RunState.PARKED
    monkeypatch.setattr(settings, "RECONCILE_EVERY", timedelta(0))
    second = await child_of(parent)
    assert second.id != child.id
    assert await second.rests() is RunState.PARKED
    await second.answer({"approved": True})
    assert await second.rests() is RunState.COMPLETED
    assert await parent.rests() is RunState.COMPLETED
    assert await parent.result() == 8
    assert await child.rests() is RunState.CANCELLED


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("reached", [True, False])
async def test_a_child_that_somebody_deletes_has_ended_for_its_parent(stage: Stage, reached: bool) -> None:
    """Whether it has come to the ledger or not."""
    parent = await family(stage, "families.py:parent", number=4)
    assert await parent.rests() is RunState.PARKED
    child = await child_of(parent)
    stage.runs.remove(child)
    if reached:
        await child.dies_at("run.attached")
    await stage.client.delete_flow_run(UUID(child.id))

    async def woken() -> bool:
        await stage.tick()
        return bool((await parent.row()).state == RunState.READY)

    await wait_until(woken, 30, shows=parent.shown)
    assert await parent.rests() is RunState.COMPLETED
    assert await parent.result() == "cancelled: It was deleted in Prefect."


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
async def test_a_deployment_that_is_not_there_is_a_named_error(stage: Stage) -> None:
    parent = await stage.start("families.py:lost")
    assert await parent.rests() is RunState.FAILED
    assert "There is no deployment 'child/nowhere' to start" in await parent.error()


@pytest.mark.parametrize("by_hand", [False, True])
async def test_a_retry_of_a_parent_retries_the_children_that_failed(stage: Stage, by_hand: bool) -> None:
    """They go on from their checkpoints; one that somebody has retried meanwhile is not retried again."""
    await stage.deploy("families.py:fragile")
    parent = await stage.start("families.py:batch", numbers=[1, 2])
    assert await parent.rests() is RunState.PARKED
    children = [Run(stage, wait.child_run_id) for wait in await parent.waits()]
    stage.runs.extend(children)
    for child in children:
        assert await child.rests() is RunState.FAILED
    assert await parent.rests() is RunState.FAILED
    assert "AgentFailed" in await parent.error()
    stage.open_gate("mended")
    if by_hand:
        await children[0].retry()
        assert await children[0].rests() is RunState.COMPLETED
    await parent.retry()
    await parent.attempt()
    assert (await parent.row()).state == RunState.PARKED, await parent.shown()
    for child in children:
        assert await child.rests() is RunState.COMPLETED
    assert await parent.rests() is RunState.COMPLETED
    assert await parent.result() == [2, 4]
    assert [len(child.deeds("work")) for child in children] == [1, 1]


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
async def test_a_parent_whose_child_fails_once_more_fails_once_more(stage: Stage) -> None:
    await stage.deploy("families.py:fragile")
    parent = await stage.start("families.py:batch", numbers=[1])
    assert await parent.rests() is RunState.PARKED
    [wait] = await parent.waits()
    child = Run(stage, wait.child_run_id)
    stage.runs.append(child)
    for _ in range(2):
        assert await child.rests() is RunState.FAILED
        assert await parent.rests() is RunState.FAILED
        await parent.retry()
        await parent.attempt()
        assert (await child.prefect()).type is StateType.SCHEDULED
    # Cancelled before anybody has taken it up, it has ended for its parent all the same.
    await stage.client.set_flow_run_state(UUID(child.id), Cancelled(message="not wanted"))

    async def heard() -> bool:
        await stage.tick()
        return bool((await parent.row()).state == RunState.READY)

    await wait_until(heard, 30, shows=parent.shown)
    assert await parent.rests() is RunState.FAILED
    assert "cancelled" in await parent.error()
    stage.open_gate("mended")
    await child.retry()
    assert await child.rests() is RunState.COMPLETED
    await parent.retry()
    assert await parent.rests() is RunState.COMPLETED
    assert await parent.result() == [2]


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
async def test_a_retry_of_a_run_that_nobody_answered_in_time_asks_again(stage: Stage) -> None:
    run = await stage.start("families.py:late_answer")

    async def failed() -> bool:
        return await run.rests() is RunState.FAILED

    await wait_until(failed, 30, shows=run.shown)
    assert "WaitTimedOut" in await run.error()
    stage.open_gate("longer")
    await run.retry()
    await run.attempt()
    [wait] = await run.waits()
    assert (wait.state, wait.opening) == (WaitState.OPEN, 2)
    assert wait.deadline > wait.opened_at + timedelta(minutes=1)
    assert (await run.answer({"approved": True}, wait=wait)).won
    assert await run.rests() is RunState.COMPLETED
    assert await run.result() is True


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
async def test_a_timeout_that_a_failed_run_had_not_come_to_is_not_asked_anew(stage: Stage) -> None:
    """A bad deployment ended it. That nobody answered is still so, and the agent knows what to do then."""
    run = await stage.start("families.py:ready_for_silence")
    await run.attempt()
    stage.open_gate("bad deployment")

    async def failed() -> bool:
        return await run.rests() is RunState.FAILED

    await wait_until(failed, 30, shows=run.shown)
    stage.close_gate("bad deployment")
    await run.retry()
    assert await run.rests() is RunState.COMPLETED
    assert await run.result() == "nobody"
    [wait] = await run.waits()
    assert wait.opening == 1
