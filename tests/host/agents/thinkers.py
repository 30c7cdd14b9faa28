"""An agent that thinks, and whose model calls several tools at once: one of them stands at a gate."""

import asyncio
from typing import Any

from prefect.runtime import flow_run
from pydantic_ai import Agent
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from standby import Approval, agent, idempotency_key, step, wait_for
from standby.agents import AgentScope, Permission, Rule, ask_human, run_agent, waits
from tests.support import outside

SCOPE = AgentScope(tools=tuple(Rule(tool=tool, permission=Permission.ALLOW) for tool in ("look", "fail", "ask_human")))

BOTH = AgentScope(tools=(Rule(tool="both", permission=Permission.ALLOW),))


async def at_gate(name: str) -> None:
    outside.act(name, idempotency_key())
    while not outside.is_open(name):  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def look() -> str:
    await at_gate("look")
    return "seen"


async def fail() -> str:
    await at_gate("fail")
    raise ValueError("it failed")


@agent
async def thinker(fails: bool = False) -> str:
    """Looks and asks a person at once; with ``fails`` another tool fails beside that."""

    def say(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        if any(isinstance(message, ModelResponse) for message in messages):
            return ModelResponse(parts=[TextPart("done")])
        calls = [ToolCallPart("look"), ToolCallPart("ask_human", {"question": "Which?"})]
        return ModelResponse(parts=[*calls, ToolCallPart("fail")] if fails else calls)

    thinking: Agent[None, str] = Agent(FunctionModel(say), name="thinker", tools=[look, fail, ask_human()])
    return str((await run_agent(thinking, "go", scope=SCOPE)).output)


class Hold(AbstractCapability[None]):
    """Lets no call of ``look`` through until the test does."""

    async def before_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any) -> Any:
        if call.tool_name == "look":
            while not outside.is_open("hook"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            outside.act("let through", _me())
        return args


async def as_it_is() -> AgentScope:
    denied = (Rule(tool="look", permission=Permission.DENY),) if outside.is_open("denied") else ()
    return SCOPE.model_copy(update={"tools": (*denied, *SCOPE.tools)})


@agent
async def late() -> str:
    """One of the calls comes when another has parked the run."""
    calls = [ToolCallPart("look"), ToolCallPart("ask_human", {"question": "Which?"})]

    def say(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        over = any(isinstance(message, ModelResponse) for message in messages)
        return ModelResponse(parts=[TextPart("done")] if over else calls)

    thinking: Agent[None, str] = Agent(
        FunctionModel(say), name="thinker", tools=[look, ask_human()], capabilities=[Hold()]
    )
    return str((await run_agent(thinking, "go", scope=as_it_is)).output)


def _me() -> str:
    return str(flow_run.id)


async def looked_up() -> AgentScope:
    """The scope, which takes its time when the world has changed."""
    if not outside.is_open("denied"):
        return BOTH
    outside.act("looking", _me())
    while not outside.is_open("scope"):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return BOTH.model_copy(update={"tools": (Rule(tool="both", permission=Permission.DENY),)})


@agent
async def branching() -> str:
    """A tool waits, and has a branch that comes to a step when the run is parked."""

    @waits
    async def both() -> str:
        async def later() -> str:
            while not outside.is_open("hook"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            outside.act("let through", _me())
            return await ponder.with_options(key="later")()

        async with asyncio.TaskGroup() as group:
            beside = group.create_task(later())
            await wait_for(Approval("Go on?"))
        return beside.result()

    def say(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        over = any(isinstance(message, ModelResponse) for message in messages)
        return ModelResponse(parts=[TextPart("done") if over else ToolCallPart("both")])

    thinking: Agent[None, str] = Agent(FunctionModel(say), name="thinker", tools=[both])
    return str((await run_agent(thinking, "go", scope=looked_up)).output)


@step
async def ponder() -> str:
    await at_gate("look")
    return "seen"


@agent
async def pondering() -> str:
    """Has a step under way beside its wait."""
    beside = asyncio.create_task(ponder.with_options(key="beside")())
    await wait_for(Approval("Go on?"))
    return await beside


@step
async def note() -> None:
    outside.act("note", idempotency_key())


@agent
async def busy(grouped: bool = False) -> str:
    """Comes to its next step while one in a branch is under way."""

    async def go_on() -> None:
        while not outside.is_open("next"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        outside.act("next", _me())
        await note.with_options(key="note")()

    if grouped:
        async with asyncio.TaskGroup() as group:
            beside = group.create_task(ponder.with_options(key="beside")())
            group.create_task(go_on())
        return beside.result()
    beside = asyncio.create_task(ponder.with_options(key="beside")())
    await go_on()
    return await beside


@step
async def fragile() -> str:
    outside.act("fragile", idempotency_key())
    raise ValueError("it broke")


@agent
async def careless(catches: bool) -> str:
    """Waits for a person while a step in a branch has failed."""
    beside = asyncio.create_task(fragile.with_options(key="beside")())
    await wait_for(Approval("Go on?"))
    try:
        return await beside
    except ValueError:
        if catches:
            return "seen"
        raise
