"""Whatever a model says is kept and told apart, and what is no call is the model's to correct."""

from datetime import date
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelResponse, TextPart, ThinkingPart, ToolCallPart

from standby.agents import run_agent
from tests.agents.bench import Bench
from tests.agents.conftest import Script, allow, call
from tests.fundamentals.conftest import Interruption


async def test_ids_of_calls_that_repeat_or_are_absurd_are_told_apart(bench: Bench) -> None:
    ids = ["x", "x", "", "\ud800", "y" * 1000]
    script = Script([call("look", id_, n=n) for n, id_ in enumerate(ids)], "lone \udfff half")
    thinker: Agent[None, str] = Agent(script.model, name="thinker")

    @thinker.tool_plain
    async def look(n: int) -> int:
        return n

    async def research() -> str | None:
        return (await run_agent(thinker, "find it", scope=allow("look"))).output

    assert await bench.run(research) == "lone \ufffd half"
    assert [content for _, content, _ in script.told()] == [0, 1, 2, 3, 4]


async def test_arguments_that_are_no_json_are_the_models_to_correct(bench: Bench) -> None:
    """And what a tool returns is told as it can be kept: without halves of characters."""
    script = Script(ToolCallPart("look", '{"n": 1'), ToolCallPart("look", '{"n": "one"}'), call("look", n=3), "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker", retries=5)

    @thinker.tool_plain
    async def look(n: int) -> dict[str, Any]:
        return {"n": n, "half": "\ud800", "when": date(2026, 1, 2)}

    async def research() -> str | None:
        return (await run_agent(thinker, "find it", scope=allow("look"))).output

    run = await bench.start(research)
    assert await run.result() == "done"
    assert [outcome for _, _, outcome in script.told()] == ["retried", "retried", "success"]
    assert script.told()[2][1] == {"n": 3, "half": "\ufffd", "when": "2026-01-02"}
    assert [key for key in await run.journal() if "look" in key] == ["thinker/3.1.look"], "what is not called is none"


@pytest.mark.parametrize(
    "answer",
    [
        ModelResponse(parts=[]),
        ModelResponse(parts=[ThinkingPart("hm")]),
        ModelResponse(parts=[TextPart("I will not."), ToolCallPart("no_such_tool", "not json")]),
        ModelResponse(parts=[ToolCallPart("look", "null"), ToolCallPart("look", '{"n": NaN}')]),
        ModelResponse(parts=[ToolCallPart("x" * 10_000, {"\0": "\0"})]),
    ],
    ids=["nothing", "thoughts only", "another tool", "no arguments", "garbage"],
)
async def test_absurd_answers_are_kept_and_the_model_is_asked_again(
    bench: Bench, interruption: Interruption, answer: ModelResponse
) -> None:
    script = Script(answer, lambda _: interruption() or "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker")

    @thinker.tool_plain
    async def look(n: int) -> int:
        raise AssertionError("nothing here is a call")

    async def research() -> str | None:
        return (await run_agent(thinker, "find it", scope=allow("look"))).output

    run = await bench.interrupted(research)
    assert await run.again() == "done"
    assert script.asked == 3
