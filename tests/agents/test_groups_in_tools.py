"""A tool may wait in a TaskGroup, or have steps there: what ends the attempt, or the agent, comes out as a group."""

from __future__ import annotations

import asyncio

import pytest
from prefect.exceptions import Pause
from pydantic_ai import Agent

from standby import Approval, agent, wait_for
from standby.agents import run_agent, waits
from standby.states import RunState
from standby.stops import Left
from tests.agents.bench import Bench
from tests.agents.conftest import Script, allow, call
from tests.fundamentals.conftest import Desk


@pytest.mark.parametrize("end", [Pause(), Left("run")], ids=["pause", "left"])
async def test_what_acts_beside_is_not_cut_off_by_what_ends_the_attempt(bench: Bench, end: BaseException) -> None:
    begun, ends = asyncio.Event(), asyncio.Event()
    sent: list[str] = []
    script = Script([call("send"), call("do_more")], "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker")

    @thinker.tool_plain
    async def send() -> str:
        sent.append("begun")
        begun.set()
        await ends.wait()
        for _ in range(1000):
            await asyncio.sleep(0)
        sent.append("done")
        return "sent"

    @thinker.tool_plain
    @waits
    async def do_more() -> str:
        async with asyncio.TaskGroup():
            await begun.wait()
            if not ends.is_set():
                ends.set()
                raise end
        return "more"

    async def work() -> str | None:
        return (await run_agent(thinker, "go", scope=allow("send", "do_more"))).output

    run = await bench.start(work)
    with pytest.raises(type(end)):
        await run.result()
    assert await run.again() == "done"
    assert sent == ["begun", "done"]


async def test_the_error_of_a_tool_comes_out_where_another_was_about_to_wait(desk: Desk) -> None:
    script = Script([call("fails"), call("asks")], "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker")

    @thinker.tool_plain
    async def fails() -> str:
        raise ValueError("it failed")

    @thinker.tool_plain
    @waits
    async def asks() -> str:
        async with asyncio.TaskGroup():
            return str((await wait_for(Approval("Go on?"))).approved)

    @agent
    async def thinking() -> str | None:
        return (await run_agent(thinker, "go", scope=allow("fails", "asks"))).output

    run = await desk.start(thinking)
    with pytest.raises(ValueError, match="it failed"):
        await run.result()
    row = await desk.ledger.runs.get(run.id)
    assert row is not None
    assert (row.state, row.error) == (RunState.FAILED, "ValueError: it failed")
    assert not await desk.ledger.waits.open_ones([run.id])
