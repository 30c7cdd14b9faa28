"""What is looked at again after a wait may have steps in tasks of its own: the tool that waited goes on after them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic_ai import Agent

from standby import Approval, agent, step, wait_for
from standby.agents import AgentScope, run_agent, waits
from tests.agents.conftest import Script, ask, call
from tests.fundamentals.conftest import Desk

SCOPE = ask("order")


@step
async def read(n: int) -> str:
    return f"version {n}"


async def tag(*_: Any) -> str:
    return ", ".join([*await asyncio.gather(read(1), read(2)), await asyncio.wait_for(read(3), 60)])


async def scope() -> AgentScope:
    await tag()
    return SCOPE


async def recheck() -> None:
    await tag()


@pytest.mark.parametrize(
    "looks",
    [{"scope": scope}, {"scope": SCOPE, "fresh": {"order": tag}}, {"scope": SCOPE, "recheck": recheck}],
    ids=["scope", "fresh", "recheck"],
)
async def test_a_look_may_have_steps_in_tasks_of_its_own(desk: Desk, looks: dict[str, Any]) -> None:
    script = Script(call("order"), "done")
    thinker: Agent[None, str] = Agent(script.model, name="buyer")

    @thinker.tool_plain
    @waits
    async def order() -> str:
        return str((await wait_for(Approval("Is it right?"))).approved)

    @agent
    async def buying() -> str | None:
        return (await run_agent(thinker, "go", **looks)).output

    run = await desk.start(buying)
    await run.answer({"approved": True}, key="buyer/1.asks")
    await run.answer({"approved": True}, key="buyer/1.1.order.approved/approval")
    async with asyncio.timeout(60):
        assert await run.result() == "done"
    assert script.told() == [("order", "True", "success")]
