"""An agent ends, mostly by the error of a tool, while another tool waits in the process of the run: nobody has to
answer before that comes out."""

import asyncio
from typing import Any
from uuid import UUID

import pytest
from pydantic_ai import Agent
from pydantic_ai.capabilities import AbstractCapability

from standby import Approval, agent, wait_for
from standby.agents import ask_human, current_scope, run_agent, waits
from standby.states import RunState, WaitState
from tests.agents.conftest import Script, allow, call
from tests.fundamentals.conftest import Desk, Run
from tests.support.waiting import wait_until


class Checker:
    """An agent that asks a person, and beside that checks something, which fails once when it may."""

    def __init__(self, script: Script | None = None) -> None:
        self.may_fail = asyncio.Event()
        self.failed = False
        self.script = script or Script([call("ask_human", question="Which?"), call("check")], "done")
        self.thinker: Agent[None, str] = Agent(self.script.model, name="thinker", tools=[ask_human()])

        @self.thinker.tool_plain
        async def check() -> str:
            if not self.failed:
                await self.may_fail.wait()
                self.failed = True
                raise ValueError("boom")
            return "fine"

    async def think(self) -> str | None:
        return (await run_agent(self.thinker, "go", scope=allow("ask_human", "check", "delegate"))).output


async def states(run: Run) -> dict[str, str]:
    return {wait.key: wait.state for wait in await run.waits()}


async def test_the_error_ends_the_run_and_its_retry_asks_again(desk: Desk) -> None:
    checker = Checker()

    @agent
    async def research() -> str | None:
        return await checker.think()

    run = await desk.start(research)
    await run.paused()
    checker.may_fail.set()
    with pytest.raises(ValueError, match="boom"):
        await run.result()
    assert await states(run) == {"thinker/1.1.ask_human/approval": WaitState.CLOSED}
    row = await desk.ledger.runs.get(run.id)
    assert row is not None
    assert row.state == RunState.FAILED
    assert (await desk.client.read_flow_run(UUID(run.id))).state.is_failed()  # type: ignore[union-attr]
    run.begin()
    assert (await run.answer({"answer": "blue"})).won
    assert await run.result() == "done"
    assert checker.script.told() == [("ask_human", "blue", "success"), ("check", "fine", "success")]


async def test_a_run_that_goes_on_from_the_error_waits_for_other_things(desk: Desk) -> None:
    checker = Checker()

    @agent
    async def research() -> Any:
        try:
            return await checker.think()
        except ValueError as error:
            return [str(error), (await wait_for(Approval("What now?"))).comment]

    run = await desk.start(research)
    await run.paused()
    [dead] = await run.open_waits()
    checker.may_fail.set()
    assert (await run.answer({"approved": True, "comment": "stop"}, key="approval")).won
    assert not (await run.answer_to(dead, {"answer": "blue"})).won
    assert await run.result() == ["boom", "stop"]
    assert await states(run) == {
        "thinker/1.1.ask_human/approval": WaitState.CLOSED, "approval": WaitState.SETTLED,
    }  # fmt: skip


async def test_so_it_does_when_an_agent_in_a_tool_waits(desk: Desk) -> None:
    checker = Checker(Script([call("delegate"), call("check")], "done"))
    child: Agent[None, str] = Agent(
        Script(call("ask_human", question="Which?"), "done").model, name="child", tools=[ask_human()]
    )

    @checker.thinker.tool_plain
    @waits
    async def delegate() -> str | None:
        scope = (await current_scope()).narrowed(allow("ask_human"))
        return (await run_agent(child, "go", scope=scope)).output

    @agent
    async def research() -> str | None:
        return await checker.think()

    run = await desk.start(research)
    await run.paused()
    checker.may_fail.set()
    with pytest.raises(ValueError, match="boom"):
        await run.result()
    assert await states(run) == {"thinker/1.1.delegate/child/1.1.ask_human/approval": WaitState.CLOSED}


async def test_a_question_that_a_hook_has_given_up_is_waited_for_before_the_agent_goes_on(desk: Desk) -> None:
    class Limit(AbstractCapability[None]):
        async def wrap_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, handler: Any) -> Any:
            asked = asyncio.create_task(handler(args))
            await wait_until(lambda: desk.ledger.waits.open_ones())
            asked.cancel()
            return "too late"

    script = Script(call("ask_human", question="Which?"), "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker", tools=[ask_human()], capabilities=[Limit()])

    @agent
    async def research() -> str | None:
        return (await run_agent(thinker, "go", scope=allow("ask_human"))).output

    run = await desk.start(research)
    key = "thinker/1.1.ask_human/approval"
    await run.answer({"answer": "blue"}, key=key)
    assert await run.result() == "done"
    assert script.told() == [("ask_human", "too late", "success")]
    assert await states(run) == {key: WaitState.SETTLED}
    assert (await desk.client.read_flow_run(UUID(run.id))).state.is_completed()  # type: ignore[union-attr]
