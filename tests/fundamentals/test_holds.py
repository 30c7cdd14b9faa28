"""What stays of a run while it waits is asked for by agent or by wait, kept with the wait, and billed."""

from datetime import timedelta
from typing import Any

import pytest

from standby import Approval, Decision, UsageError, agent, wait_all, wait_any, wait_for
from standby.states import Hold
from tests.fundamentals.conftest import Desk

YES = {"approved": True}


async def test_a_wait_says_how_its_run_is_held_and_else_its_agent_does(desk: Desk):
    """Nobody deployed it, so it pauses whatever was asked; what was asked is kept, and the memory it held billed."""

    @agent(hold=timedelta(minutes=5))
    async def patient() -> bool:
        first = await wait_for(Approval("Go on?"), hold="warm")
        second = await wait_any(a=Approval("And on?"), b=Approval("Or not?"))
        return bool(first.approved and second.answer.approved)

    run = await desk.start(patient)
    await run.answer(YES)
    await run.answer(YES, key="a|b/b")
    assert await run.result() is True
    waits = await run.waits()
    assert [(wait.hold, wait.held) for wait in waits] == [
        ("warm", Hold.PAUSE), ("300.0", Hold.PAUSE), ("300.0", Hold.PAUSE)
    ]  # fmt: skip
    assert all(wait.agent == "patient" for wait in waits)
    assert waits[0].gib_seconds > 0


async def test_a_wait_cannot_have_the_name_of_what_holds_it(desk: Desk):
    @agent
    async def confused(together: bool) -> Any:
        waits: dict[str, Any] = {"hold": Approval("Hold?")}
        return await wait_all(**waits) if together else await wait_any(**waits)

    for together in (True, False):
        with pytest.raises(UsageError, match=r"A wait cannot be named hold, .* Rename it"):
            await desk.run(confused, together=together)


async def test_a_hold_there_is_not_is_refused_before_the_wait_opens(desk: Desk):
    @agent
    async def confused() -> Decision:
        return await wait_for(Approval("Hold?"), hold="tepid")

    run = await desk.start(confused)
    with pytest.raises(UsageError, match="not 'tepid'"):
        await run.result()
    assert await run.waits() == []


def test_an_agent_with_a_hold_there_is_not_is_refused() -> None:
    with pytest.raises(UsageError, match="not 'tepid'"):

        @agent(hold="tepid")
        async def confused() -> None: ...
