"""The scope that people edit in the Prefect UI."""

from datetime import timedelta
from decimal import Decimal

import pytest
from pydantic import ValidationError
from pydantic_ai import Agent

from blocks.agent_scope import AgentScope as Block
from blocks.agent_scope import scope_named
from standby import agent
from standby.agents import AgentScope, Asking, AtMost, AtStop, Budget, HostIn, Permission, Rule, run_agent
from standby.policy import Policy
from tests.agents.conftest import Script, call
from tests.fundamentals.conftest import Desk

PAY = Rule(tool="pay", permission=Permission.ASK, when=(AtMost(argument="amount", limit=Decimal("12.50")),))
FETCH = Rule(tool="fetch", permission=Permission.ALLOW, when=(HostIn(argument="url", hosts=("*.example.org",)),))


async def test_a_saved_scope_is_read_back_the_same_and_anew_after_a_wait(desk: Desk) -> None:
    block = Block(
        goal="pay", tools=[PAY, FETCH], budget=Budget(money=Decimal("0.1"), wall=timedelta(days=2)), at_stop=AtStop.ASK,
        asking=Asking(party="finance", policy=Policy(quorum=1), within=timedelta(hours=4)),
    )  # fmt: skip
    script = Script(call("pay", amount=5), "done")
    thinker: Agent[None, str] = Agent(script.model, name="payer")

    @thinker.tool_plain
    async def pay(amount: float) -> str:
        raise AssertionError("it is not allowed any more")

    read: list[AgentScope] = []

    @agent
    async def paying() -> str | None:
        await block.asave("paying", overwrite=True)
        read.append(await scope_named("paying")())
        block.budget = Budget()
        await block.asave("paying", overwrite=True)
        return (await run_agent(thinker, "pay", scope=scope_named("paying"))).output

    run = await desk.start(paying)
    await run.open_waits()
    assert read == [
        AgentScope(
            goal="pay", tools=(PAY, FETCH), budget=Budget(money=Decimal("0.1"), wall=timedelta(days=2)),
            at_stop=AtStop.ASK, asking=Asking(party="finance", policy=Policy(quorum=1), within=timedelta(hours=4)),
            block="paying",
        )
    ]  # fmt: skip
    block.tools = []
    with desk.prefect.model_copy():
        await block.asave("paying", overwrite=True)
    await run.answer({"approved": True})
    assert await run.result() == "done"
    assert script.told()[0][2] == "denied"


def test_what_is_no_scope_is_refused_by_the_block() -> None:
    with pytest.raises(ValidationError, match="time zone"):
        Block(deadline="2027-01-31T12:00:00")  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        Block(tools=[{"tool": "pay", "permission": "perhaps"}])  # type: ignore[list-item]
