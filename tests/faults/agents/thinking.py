"""Thinks, with a model that says its lines: looks something up, then pays when a person approves it."""

from pydantic_ai import Agent, CallDeferred
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from standby import agent, idempotency_key
from standby.agents import AgentScope, Budget, Permission, Rule, run_agent
from tests.support import outside

SCOPE = AgentScope(
    tools=(Rule(tool="look", permission=Permission.ALLOW), Rule(tool="pay", permission=Permission.ASK)),
    budget=Budget(steps=6),
)


def say(messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
    outside.act("asked", idempotency_key())
    calls = [[ToolCallPart("look", {"n": 1}), ToolCallPart("look", {"n": 2})], [ToolCallPart("pay", {"amount": 7})]]
    answered = sum(isinstance(message, ModelResponse) for message in messages)
    return ModelResponse(parts=[*calls[answered]] if answered < len(calls) else [TextPart("done")])


thinker: Agent[None, str] = Agent(FunctionModel(say), name="thinker")


@thinker.tool_plain
async def look(n: int) -> int:
    outside.act("look", idempotency_key())
    return n


@thinker.tool_plain
async def pay(amount: int) -> str:
    outside.act("pay", idempotency_key(), amount=amount)
    return f"paid {amount}"


@agent
async def thinking() -> dict[str, object]:
    found = await run_agent(thinker, "pay it", scope=SCOPE)
    return {"said": found.output, "steps": found.spent.steps}


def say_both(messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
    if any(isinstance(message, ModelResponse) for message in messages):
        return ModelResponse(parts=[TextPart("done")])
    return ModelResponse(parts=[ToolCallPart("send", {"to": "ada"}), ToolCallPart("render")])


mailer: Agent[None, str] = Agent(FunctionModel(say_both), name="mailer")


@mailer.tool_plain
def send(to: str) -> str:
    outside.act("send", idempotency_key(), to=to)
    outside.stand_at_gate("send", idempotency_key())
    return "sent"


@mailer.tool_plain
async def render() -> str:
    raise CallDeferred({"topic": "rendered", "key": "picture"})


@agent
async def mailing() -> str | None:
    """Two calls of one answer, approved together: one acts while the other parks the run."""
    asked = tuple(Rule(tool=tool, permission=Permission.ASK) for tool in ("send", "render"))
    return (await run_agent(mailer, "send it", scope=AgentScope(tools=asked))).output
