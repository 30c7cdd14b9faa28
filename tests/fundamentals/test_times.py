"""Deadlines and timers: time as an answer, or as a branch."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from prefect.client.orchestration import PrefectClient

from standby import (
    Approval,
    Decision,
    Timer,
    WaitTimedOut,
    agent,
    clock,
    step,
    wait_for,
)
from standby.keeper import Keeper
from standby.states import WaitState
from tests.fundamentals.conftest import Desk, Interruption

SOON = timedelta(milliseconds=50)


async def test_at_the_deadline_the_default_is_the_answer(desk: Desk):
    """``otherwise`` decides when nobody else has."""

    @agent
    async def buyer() -> str:
        otherwise = Decision(approved=False, comment="nobody answered")
        return (await wait_for(Approval("Buy tea?", within=SOON, otherwise=otherwise))).comment

    run = await desk.start(buyer)
    assert await run.result() == "nobody answered"
    [decision] = await desk.ledger.waits.decisions_of(run.id)
    assert (decision.door, decision.verdict) == ("deadline", "won")


async def test_a_default_is_the_agents_own_and_is_not_checked(desk: Desk):
    """``check`` is for what others answer; a default it would refuse counts all the same, once."""

    def reasoned(decision: Decision) -> None:
        if not decision.approved and not decision.comment:
            raise ValueError("say why")

    @agent
    async def buyer() -> bool:
        asked = Approval("Buy tea?", within=SOON, otherwise=Decision(approved=False), check=reasoned)
        return (await wait_for(asked)).approved

    run = await desk.start(buyer)
    assert await run.result() is False
    assert [decision.verdict for decision in await desk.ledger.waits.decisions_of(run.id)] == ["won"]


async def test_an_answer_submitted_in_prefect_in_time_beats_the_deadline(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    """The run reads it a moment later, when the deadline may have passed."""
    start = clock.utcnow()

    @agent
    async def buyer() -> str:
        otherwise = Decision(approved=False, comment="nobody answered")
        return (await wait_for(Approval("Buy tea?", by=start + timedelta(hours=1), otherwise=otherwise))).comment

    run = await desk.start(buyer)
    await run.open_waits()
    await run.paused()
    await desk.client.resume_flow_run(UUID(run.id), run_input={"approved": True, "comment": "in time"})
    monkeypatch.setattr(clock, "_source", lambda: start + timedelta(hours=2))
    assert await run.result() == "in time"


async def test_an_answer_that_a_paused_run_did_not_live_to_read_beats_the_deadline(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    """The keeper, which fires the deadline, finds it."""
    start = clock.utcnow()

    @agent
    async def buyer() -> str:
        otherwise = Decision(approved=False, comment="nobody answered")
        return (await wait_for(Approval("Buy tea?", by=start + timedelta(hours=1), otherwise=otherwise))).comment

    run = await desk.start(buyer)
    [wait] = await run.open_waits()
    await run.paused()
    await desk.client.resume_flow_run(UUID(run.id), run_input={"approved": True, "comment": "in time"})
    assert run.attempt is not None
    run.attempt.cancel()
    await asyncio.gather(run.attempt, return_exceptions=True)
    assert (await desk.ledger.waits.get(wait.id)).state == WaitState.OPEN  # type: ignore[union-attr]
    monkeypatch.setattr(clock, "_source", lambda: start + timedelta(hours=2))
    await Keeper(desk.ledger, lambda: PrefectClient(desk.url)).tick()
    [decision] = await desk.ledger.waits.decisions_of(run.id)
    assert (decision.verdict, decision.door) == ("won", "prefect")
    assert "in time" in decision.answer


async def test_a_timeout_is_a_branch(desk: Desk, interruption: Interruption):
    """Without a default ``WaitTimedOut`` is raised, and raised again on every replay."""

    @step
    async def remind() -> str:
        return "reminded"

    @agent
    async def buyer() -> str:
        try:
            await wait_for(Approval("Buy tea?", within=SOON))
            return "answered"
        except WaitTimedOut as timeout:
            said = f"{await remind()}: {timeout.reason}"
        interruption()
        return said

    run = await desk.interrupted(buyer)
    assert await run.again() == "reminded: Buy tea?"
    assert len(await run.waits()) == 1


async def test_a_timer_waits_for_a_time(desk: Desk):
    """A timedelta from now, or an aware datetime; a time that has passed is no wait."""

    @agent
    async def sleeper() -> None:
        await wait_for(Timer(SOON))
        await wait_for(Timer(datetime(2020, 1, 1, tzinfo=UTC)))

    run = await desk.start(sleeper)
    assert await run.result() is None
    waits = await run.waits()
    assert [(wait.key, wait.state) for wait in waits] == [("timer", "settled"), ("timer#2", "settled")]
    assert all(wait.settled_at >= wait.deadline for wait in waits)


async def test_a_time_without_a_zone_is_refused(desk: Desk):
    """Nobody knows when that is."""

    @agent
    async def sleeper() -> None:
        await wait_for(Timer(datetime(2020, 1, 1)))  # noqa: DTZ001

    with pytest.raises(ValueError, match="has no time zone"):
        await desk.run(sleeper)
