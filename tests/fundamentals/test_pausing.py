"""Runs that nobody deployed wait in their own process: Paused in Prefect, and on their way at once when it is time."""

import asyncio
import random
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.schemas.objects import StateType
from prefect.exceptions import Abort
from prefect.states import Cancelling, Running

from standby import Approval, Decision, Timer, UsageError, agent, step, wait_for
from standby.ledger import notifications
from standby.parking import pausing
from standby.states import Door, Outcome, RunState, WaitState
from tests.fundamentals.conftest import Desk, Run
from tests.support.databases import kill_listeners
from tests.support.waiting import wait_until


@agent
async def asker() -> Decision:
    return await wait_for(Approval("May I?"))


async def resume(desk: Desk, run: Run, **answer: Any) -> str:
    """What Prefect's Resume button does; what came of it."""
    response = await desk.client.request("POST", f"/flow_runs/{run.id}/resume", json={"run_input": answer or None})
    return str(response.json()["status"])


async def test_a_wait_that_is_cut_off_by_the_agent_lets_it_do_nothing_more(desk: Desk):
    """It could still be answered, and the next attempt would take another way."""
    done = []

    @step
    async def report(said: str) -> None:
        done.append(said)

    @agent
    async def impatient() -> None:
        try:
            async with asyncio.timeout(0.5):
                await wait_for(Approval("May I?"))
        except TimeoutError:
            await report("nobody came")

    run = await desk.start(impatient)
    with pytest.raises(UsageError, match=r"'approval' was cut off.*within="):
        await run.result()
    assert done == []


async def test_a_wait_in_a_flow_that_the_agent_calls_pauses_the_agents_run(desk: Desk):
    """Whose the wait is: it is answered, or its time comes, for this run."""
    done = []

    @step
    async def ask() -> str:
        done.append("ask")
        return "May I?"

    @flow
    async def asking() -> bool:
        decision = await wait_for(Approval(await ask()))
        await wait_for(Timer(timedelta(milliseconds=10)))
        return decision.approved

    @agent
    async def asking_elsewhere() -> bool:
        return await asking()

    run = await desk.start(asking_elsewhere)
    await run.paused()
    assert (await run.answer({"approved": True})).won
    assert await run.result() is True
    assert done == ["ask"]
    assert (await desk.client.read_flow_run(UUID(run.id))).state.is_completed()  # type: ignore[union-attr]


async def test_an_answer_at_any_instant_finds_the_run(desk: Desk):
    """Before it is paused, while it is being paused, and after."""

    @step(visible=False)
    async def count(number: int) -> int:
        return number + 1

    @agent
    async def patient() -> int:
        number = 0
        while number < 10:
            await wait_for(Approval("Go on?"))
            number = await count(number)
        return number

    run = await desk.start(patient)
    dice = random.Random(2)
    for _ in range(10):
        [wait] = await run.open_waits()
        await asyncio.sleep(dice.random() / 8)
        assert (await run.answer_to(wait, {"approved": True})).won
    assert await run.result() == 10


async def test_the_form_in_prefect_is_a_door_like_any_other(desk: Desk):
    """Its answer is checked, stored and audited."""
    run = await desk.start(asker)
    await run.paused()
    assert await resume(desk, run, approved=True, comment="go") == "ACCEPT"
    assert await run.result() == Decision(approved=True, comment="go")
    [decision] = await desk.ledger.waits.decisions_of(run.id)
    assert (decision.door, decision.verdict) == ("prefect", "won")


async def test_a_resume_without_an_answer_passes_no_gate(desk: Desk):
    """The run finds its wait open and pauses again, under another key."""
    run = await desk.start(asker)
    before = await run.paused()
    await desk.client.set_flow_run_state(UUID(run.id), Running())
    after = await wait_until(lambda: _paused_anew(desk, run, before), 30)
    assert after.state.state_details.pause_key != before.state.state_details.pause_key
    [wait] = await run.waits()
    assert wait.state == WaitState.OPEN
    await run.answer({"approved": False})
    assert await run.result() == Decision(approved=False)


async def _paused_anew(desk: Desk, run: Run, before: Any) -> Any:
    flow_run = await run.paused()
    return flow_run if flow_run.state.id != before.state.id else None


async def test_a_run_that_is_cancelled_while_it_waits_ends_cancelled(desk: Desk):
    """Its wait is closed, and an answer comes too late."""
    run = await desk.start(asker)
    await run.paused()
    await desk.client.set_flow_run_state(UUID(run.id), Cancelling())
    with pytest.raises(Abort, match="cancelled while it waited"):
        await run.result()
    state = (await desk.client.read_flow_run(UUID(run.id))).state
    assert state is not None
    assert state.type is StateType.CANCELLED
    row = await desk.ledger.runs.get(run.id)
    assert row is not None
    assert row.state == RunState.CANCELLED
    [wait] = await run.waits()
    assert wait.state == WaitState.CLOSED
    assert not (await run.answer_to(wait, {"approved": True})).won


ON_POSTGRES = pytest.mark.parametrize("desk_url", ["postgres_url"], indirect=True)


async def settled_elsewhere(desk: Desk, run: Run) -> None:
    """A door on another machine answers: what it sends to the run's loopback address reaches nobody."""
    [wait] = await run.open_waits()
    await run.paused()
    settled = await desk.ledger.waits.settle(
        wait.id, outcome=Outcome.ANSWERED, answer='{"approved": true, "comment": ""}', door=Door.GATEWAY
    )
    assert settled is not None
    assert settled.wake


@ON_POSTGRES
async def test_an_answer_from_another_machine_is_heard_at_once(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    """G9: by the ledger's notification, long before the run would look again."""
    monkeypatch.setattr(pausing, "RECHECK_SECONDS", 3600.0)
    run = await desk.start(asker)
    await settled_elsewhere(desk, run)
    assert await run.result() == Decision(approved=True)


@ON_POSTGRES
async def test_a_run_that_hears_nothing_looks_again(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    """Row 46: its connection is killed and stays away; the answer is found when the run looks at the ledger."""
    monkeypatch.setattr(pausing, "RECHECK_SECONDS", 0.5)
    monkeypatch.setattr(notifications, "BACKOFF_SECONDS", (3600.0, 3600.0))
    run = await desk.start(asker)
    await run.open_waits()
    await run.paused()
    await wait_until(lambda: kill_listeners(desk.ledger))
    await settled_elsewhere(desk, run)
    assert await run.result() == Decision(approved=True)
