"""Agents that nobody waits for any more are cancelled, whatever died before that was known."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import StateType

from standby import AgentFinished, Approval, clock
from standby.children import _start, follow_children, start_children
from standby.states import Need, RunState, WaitState
from tests.fundamentals.conftest import Desk
from tests.fundamentals.test_starting import deployed
from tests.ledger import acts
from tests.support.waiting import wait_until


async def follow(desk: Desk) -> None:
    """Twice: what the keeper learns at one look it acts on at the next."""
    for _ in range(2):
        await follow_children(desk.ledger, desk.client, clock.utcnow() + timedelta(hours=1))


async def state_of(desk: Desk, child: str) -> StateType:
    state = (await desk.client.read_flow_run(UUID(child))).state
    assert state is not None
    return state.type


async def waiting(desk: Desk, *others: Any, **how: Any) -> list[Any]:
    """The waits of a parked parent, of which the first is for an agent; it is not started yet."""
    deployment = await deployed(desk, parameter_openapi_schema={})
    rows = [AgentFinished(deployment, **how).row("child"), *others]
    need = Need.ANY if others else Need.ONE
    return (await acts.parked(desk.ledger, rows, run=str(uuid4()), need=need)).waits


async def started(desk: Desk, wait: Any) -> str:
    await start_children(desk.ledger, [wait], desk.client)
    row = await desk.ledger.waits.get(wait.id)
    assert row is not None
    return str(row.child_run_id)


@pytest.mark.parametrize(("if_closed", "then"), [("cancel", StateType.CANCELLED), ("leave", StateType.SCHEDULED)])
async def test_an_agent_whose_wait_is_over_is_cancelled_unless_it_is_to_be_left(
    desk: Desk, if_closed: str, then: StateType
) -> None:
    [wait] = await waiting(desk, within=timedelta(milliseconds=1), if_closed=if_closed)
    child = await started(desk, wait)

    async def expired() -> bool:
        settled = await desk.ledger.waits.expire(wait)
        return settled is not None and settled.won

    await wait_until(expired)
    await follow(desk)
    assert await state_of(desk, child) is then


async def test_a_child_that_was_made_by_who_died_is_cancelled_when_its_wait_was_closed_meanwhile(desk: Desk) -> None:
    wait, question = await waiting(desk, Approval("Or?").row("ok"))
    child = await _start(desk.client, wait)  # and there it died
    await acts.answer(desk.ledger, question.id, '{"approved": true}', actor="ada")
    attempt = (await acts.claim(desk.ledger, wait.run_id)).attempt
    await desk.ledger.runs.end(wait.run_id, attempt, RunState.COMPLETED, result="null")
    closed = await desk.ledger.waits.get(wait.id)
    assert closed is not None
    assert (closed.state, closed.child_run_id) == (WaitState.CLOSED, None)
    await follow(desk)
    assert await state_of(desk, child) is StateType.CANCELLED
    await follow(desk)
    assert await desk.ledger.children.abandoned() == [], "nothing is left to look at"


async def test_a_closed_wait_whose_agent_was_never_made_is_looked_at_once(desk: Desk) -> None:
    wait, question = await waiting(desk, Approval("Or?").row("ok"))
    await acts.answer(desk.ledger, question.id, '{"approved": true}', actor="ada")
    assert [row.id for row in await desk.ledger.children.abandoned()] == [wait.id]
    await follow(desk)
    assert await desk.ledger.children.abandoned() == []
