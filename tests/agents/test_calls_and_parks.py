"""What a call has failed by when its run parked, and what a hook makes of that in the next attempt."""

import asyncio
from typing import Any

import pytest
from prefect.exceptions import Pause
from pydantic_ai import Agent
from pydantic_ai.capabilities import AbstractCapability

from standby.agents import AgentScope, run_agent, serving, waits
from standby.states import Hold
from tests.agents.asking_beside import answer, asking_beside
from tests.agents.bench import Bench
from tests.agents.conftest import Script, allow, ask, call

pytestmark = pytest.mark.usefixtures("suspending")


async def test_a_call_that_has_failed_is_not_asked_about_when_another_one_is(bench: Bench) -> None:
    class Caught(AbstractCapability[Any]):
        async def wrap_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, handler: Any) -> Any:
            try:
                return await handler(args)
            except ValueError:
                return "caught"

    acted: list[str] = []
    script = Script([call("check"), call("order")], "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker", capabilities=[Caught()])

    @thinker.tool_plain
    async def check() -> str:
        acted.append("check")
        raise ValueError("boom")

    @thinker.tool_plain
    async def order() -> str:
        acted.append("order")
        return "ordered"

    scope = AgentScope(tools=(*allow("check").tools, *ask("order").tools))

    async def work() -> Any:
        return (await run_agent(thinker, "go", scope=scope)).output

    run = await bench.start(work, hold=Hold.SUSPEND)
    with pytest.raises(Pause):
        await run.result()
    [wait] = await bench.ledger.waits.open_ones([run.id])
    assert await answer(bench.ledger, wait, {"approved": True})
    assert await run.again() == "done"
    assert acted == ["check", "order"]
    assert script.told() == [("check", "caught", "success"), ("order", "ordered", "success")]


async def test_a_hook_that_tries_again_after_a_park_has_the_call_made_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "ERROR_SECONDS", 0.05)
    later = asyncio.Event()

    class Patient(AbstractCapability[Any]):
        async def wrap_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, handler: Any) -> Any:
            try:
                return await handler(args)
            except ValueError:
                await later.wait()
                return await handler(args)

    acted: list[str] = []

    async def busy_at_first() -> str:
        acted.append("check")
        if len(acted) == 1:
            raise ValueError("busy")
        return "fine"

    script, thinker = asking_beside(bench, busy_at_first, Patient())

    async def work() -> Any:
        return (await run_agent(thinker, "go", scope=allow("ask_human", "check"))).output

    run = await bench.start(work, hold=Hold.SUSPEND)
    with pytest.raises(Pause):
        await run.result()
    [wait] = await bench.ledger.waits.open_ones([run.id])
    assert await answer(bench.ledger, wait)
    later.set()
    assert await run.again() == "done"
    assert acted == ["check", "check"]
    assert script.told() == [("ask_human", "blue", "success"), ("check", "fine", "success")]


async def test_a_call_that_a_hook_goes_on_without_before_its_turn_does_not_act(bench: Bench) -> None:
    gate = asyncio.Event()
    left: list[asyncio.Task[Any]] = []

    class Hasty(AbstractCapability[Any]):
        async def wrap_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, handler: Any) -> Any:
            if call.tool_name == "look":
                return await handler(args)
            left.append(asyncio.create_task(handler(args)))
            for _ in range(100):  # it stands in line by then
                await asyncio.sleep(0)
            asyncio.get_running_loop().call_later(0.05, gate.set)
            return "too late"

    acted: list[str] = []
    script = Script([call("look"), call("order")], "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker", capabilities=[Hasty()])

    @thinker.tool_plain
    @waits
    async def look() -> str:
        await gate.wait()
        acted.append("look")
        return "seen"

    @thinker.tool_plain
    @waits
    async def order() -> str:
        acted.append("order")
        return "ordered"

    async def work() -> Any:
        return (await run_agent(thinker, "go", scope=allow("look", "order"))).output

    run = await bench.start(work, hold=Hold.SUSPEND)
    assert await run.result() == "done"
    await asyncio.gather(*left, return_exceptions=True)
    assert acted == ["look"]
    assert script.told() == [("look", "seen", "success"), ("order", "too late", "success")]
