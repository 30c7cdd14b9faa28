"""``on_change="stop"``: where the agent is made of something else than before, no call of its last answer acts."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.tools import RunContext, ToolDefinition
from pydantic_ai.toolsets import ToolsetTool, WrapperToolset
from pydantic_ai.toolsets.function import FunctionToolset

from standby import agent, step
from standby.agents import AgentScope, Budget, current_scope, run_agent, waits
from standby.errors import ScopeStopped
from standby.waiting import wait_for
from standby.waits import Signal
from tests.agents.bench import Bench
from tests.agents.conftest import Script, allow, ask, call
from tests.fundamentals.conftest import Desk, Interruption, Run

PARTS = {
    "model": "model changed",
    "instructions": "instructions changed",
    "schema": "tool act changed",
    "tool": "tool other changed",
    "gone": "tool act changed",
    "scope": "scope changed",
}


class Versions:
    """An agent of which the parts in ``changed`` are others than they were. ``acted``: what its tools have done."""

    def __init__(self, *lines: Any, inside: Callable[[], Awaitable[None]] | None = None) -> None:
        self.script = Script(*(lines or (call("act", x=1), "done")))
        self.changed = ""
        self.acted: list[str] = []
        self.inside = inside
        self.flow = agent(self.work)

    @property
    def scope(self) -> AgentScope:
        rules = *ask("act").tools, *allow("look", "other").tools
        return AgentScope(tools=rules, goal="another" if self.changed == "scope" else "one")

    async def read(self) -> AgentScope:
        return self.scope

    def agent(self) -> Agent[None, str]:
        model: Any = self.script.model
        if self.changed == "model":
            model._model_name = "another"
        text = "Another." if self.changed == "instructions" else "One."
        thinker: Agent[None, str] = Agent(model, name="thinker", instructions=text)
        acted = self.acted

        @thinker.instructions
        def changes_always() -> str:
            return f"Asked {self.script.asked} times."

        @thinker.tool_plain
        async def look(x: int) -> str:
            if self.inside is not None:
                await self.inside()
            acted.append(f"looked {x}")
            return "x"

        if self.changed == "schema":

            @thinker.tool_plain(name="act")
            async def act_otherwise(x: int, y: int = 0) -> str:
                acted.append(f"acted otherwise {x}")
                return "x"

        elif self.changed != "gone":

            @thinker.tool_plain
            async def act(x: int) -> str:
                acted.append(f"acted {x}")
                return "x"

        if self.changed == "tool":

            @thinker.tool_plain
            async def other() -> str:
                return "x"

        return thinker

    async def work(self) -> str | None:
        return (await run_agent(self.agent(), "go", scope=self.read, on_change="stop")).output


async def cut_off(run: Run) -> None:
    """The attempt is over, as where its process was killed."""
    assert run.attempt is not None
    run.attempt.cancel()
    with pytest.raises(BaseException):  # noqa: B017 - however Prefect ends a cancelled attempt
        await run.attempt


@pytest.mark.parametrize("part", PARTS)
async def test_what_was_approved_does_not_act_where_a_part_is_another_in_the_next_attempt(
    desk: Desk, part: str
) -> None:
    versions = Versions()
    run = await desk.start(versions.flow)
    await run.open_waits()
    await cut_off(run)
    await run.answer_to((await run.waits())[0], {"approved": True})
    versions.changed = part
    with pytest.raises(ScopeStopped, match=PARTS[part]):
        await run.again()
    assert (versions.acted, versions.script.asked) == ([], 1)
    versions.changed = ""
    assert await run.again() == "done"
    assert (versions.acted, versions.script.asked) == (["acted 1"], 2)
    assert len(await run.waits()) == 1, "and nobody is asked again"


async def test_nobody_is_asked_about_what_will_not_act(desk: Desk) -> None:
    versions = Versions()
    run = await desk.start(versions.flow)
    await run.open_waits()
    await cut_off(run)
    versions.changed = "instructions"
    with pytest.raises(ScopeStopped, match="instructions changed"):
        await run.again()
    versions.changed = ""
    run.begin()
    await run.answer({"approved": True})
    assert await run.result() == "done"
    assert versions.acted == ["acted 1"]


async def test_what_was_approved_does_not_act_where_the_scope_is_another_in_the_same_attempt(desk: Desk) -> None:
    versions = Versions()
    run = await desk.start(versions.flow)
    await run.open_waits()
    versions.changed = "scope"
    await run.answer({"approved": True})
    with pytest.raises(ScopeStopped, match="scope changed"):
        await run.result()
    assert versions.acted == []
    versions.changed = ""
    assert await run.again() == "done"
    assert versions.acted == ["acted 1"]


@pytest.mark.parametrize("part", PARTS)
async def test_what_is_left_of_a_turn_does_not_act_after_a_crash(
    bench: Bench, interruption: Interruption, part: str
) -> None:
    """What is done stays done."""

    async def ends_in_the_second() -> None:
        if versions.acted:
            interruption()

    versions = Versions([call("look", x=1), call("look", x=2)], "done", inside=ends_in_the_second)
    run = await bench.interrupted(versions.work)
    versions.changed = part
    with pytest.raises(ScopeStopped, match=PARTS[part]):
        await run.again()
    assert versions.acted == ["looked 1"]
    versions.changed = ""
    assert await run.again() == "done"
    assert (versions.acted, versions.script.asked) == (["looked 1", "looked 2"], 2)


async def test_what_has_ended_is_not_stopped(bench: Bench, interruption: Interruption) -> None:
    versions = Versions(call("look", x=1), "done")

    async def work() -> str | None:
        found = await versions.work()
        interruption()
        return found

    run = await bench.interrupted(work)
    versions.changed = "model"
    assert await run.again() == "done"


class Served(WrapperToolset[Any]):
    """Tools of another server, which says by now something else of one of them, or has one more."""

    description, more = "Act.", ""

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        [act] = (await super().get_tools(ctx)).values()
        definitions = [replace(act.tool_def, name=name, description=self.description) for name in ("act", self.more)]
        return {one.name: replace(act, tool_def=one) for one in definitions if one.name}


@pytest.mark.parametrize("changes", [True, False])
async def test_what_was_approved_does_not_act_where_a_toolset_lists_another_by_then(desk: Desk, changes: bool) -> None:
    """One that the scope denies, so that the model is told nothing of it, is none of the agent's."""
    acted: list[str] = []

    async def act() -> str:
        acted.append("act")
        return "x"

    served = Served(FunctionToolset([act]))
    thinker: Agent[None, str] = Agent(Script(call("act"), "done").model, name="thinker", toolsets=[served])

    @agent
    async def working() -> str | None:
        return (await run_agent(thinker, "go", scope=ask("act"), on_change="stop")).output

    run = await desk.start(working)
    await run.open_waits()
    if not changes:
        served.more = "denied"
        await run.answer({"approved": True})
        assert await run.result() == "done"
        return
    served.description = "Act otherwise."
    await run.answer({"approved": True})
    with pytest.raises(ScopeStopped, match="tool act changed"):
        await run.result()
    assert acted == []
    served.description = "Act."
    assert await run.again() == "done"
    assert acted == ["act"]


@pytest.mark.parametrize("cold", [False, True])
async def test_a_tool_that_has_waited_goes_no_further(desk: Desk, cold: bool) -> None:
    """Nor does an agent in it."""
    acted: list[str] = []
    goal = "one"

    @step(effect="once", visible=False)
    async def buy() -> None:
        acted.append("bought")

    thinker, inner = (Agent[None, str](Script(call("order"), "done").model, name=name) for name in ("thinker", "inner"))

    @thinker.tool_plain(name="order")
    @waits
    async def order_inside() -> str | None:
        return (await run_agent(inner, "go", scope=await current_scope())).output

    @inner.tool_plain
    @waits
    async def order() -> str:
        await wait_for(Signal("go", of=str))
        await buy()
        return "x"

    async def read() -> AgentScope:
        return allow("order", goal=goal)

    @agent
    async def working() -> str | None:
        return (await run_agent(thinker, "go", scope=read, on_change="stop")).output

    run = await desk.start(working)
    await run.open_waits()
    if cold:
        await cut_off(run)
    goal = "another"
    await desk.signal("go", "now")
    with pytest.raises(ScopeStopped, match="'thinker' was stopped by its scope: scope changed"):
        await (run.again() if cold else run.result())
    assert acted == []
    goal = "one"
    assert await run.again() == "done"
    assert acted == ["bought"]


async def test_what_the_code_of_the_agent_shows_by_the_turn_is_no_change(
    bench: Bench, interruption: Interruption
) -> None:
    thinker: Agent[None, str] = Agent(Script(call("look"), call("act"), "done").model, name="thinker")

    async def after_a_look(ctx: RunContext[None], tool: ToolDefinition) -> ToolDefinition | None:
        return tool if len(ctx.messages) > 1 else None

    @thinker.tool_plain
    async def look() -> str:
        return "x"

    @thinker.tool_plain(prepare=after_a_look)
    async def act() -> str:
        interruption()
        return "x"

    async def work() -> str | None:
        return (await run_agent(thinker, "go", scope=allow("look", "act"), on_change="stop")).output

    run = await bench.interrupted(work)
    assert await run.again() == "done"


@pytest.mark.parametrize("narrowed", [False, True], ids=["as it is", "narrowed"])
async def test_other_limits_of_the_agent_around_are_no_change_of_the_one_in_its_tool(
    bench: Bench, interruption: Interruption, narrowed: bool
) -> None:
    thinker, inner = (
        Agent[None, str](Script(call(tool), "done").model, name=name)
        for name, tool in (("thinker", "delegate"), ("inner", "act"))
    )
    budget = Budget(steps=9, wall=timedelta(days=1))

    @thinker.tool_plain
    @waits
    async def delegate() -> str | None:
        scope = await current_scope()
        mine = scope.narrowed(allow("act")) if narrowed else scope
        return (await run_agent(inner, "go", scope=mine, on_change="stop")).output

    @inner.tool_plain
    async def act() -> str:
        interruption()
        return "x"

    async def read() -> AgentScope:
        return allow("delegate", "act", budget=budget)

    async def work() -> str | None:
        return (await run_agent(thinker, "go", scope=read)).output

    run = await bench.interrupted(work)
    budget = Budget(steps=12, wall=timedelta(days=2))
    assert await run.again() == "done"
