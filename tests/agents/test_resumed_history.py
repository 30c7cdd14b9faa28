"""What an attempt goes on from is what pydantic-ai itself would have had in its hands."""

from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.capabilities import AbstractCapability, ModelFallback
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from standby.agents import run_agent
from tests.agents.bench import Bench
from tests.agents.conftest import allow, call
from tests.fundamentals.conftest import Interruption


class Answers(AbstractCapability[Any]):
    """Answers in the model's stead, the first time."""

    async def wrap_model_request(self, ctx: Any, *, request_context: Any, handler: Any) -> ModelResponse:
        if not any(isinstance(message, ModelResponse) for message in ctx.messages):
            return ModelResponse(parts=[call("look")])
        response: ModelResponse = await handler(request_context)
        return response


@pytest.mark.parametrize("crash", [False, True])
async def test_a_fallback_that_answered_before_a_crash_goes_on_answering(
    bench: Bench, interruption: Interruption, crash: bool
) -> None:
    asked: list[str] = []
    looked: list[int] = []
    seen: list[ModelMessage] = []

    def broken(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked.append("broken")
        raise ModelHTTPError(503, "broken")

    def works(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked.append("works")
        answered = sum(isinstance(message, ModelResponse) for message in messages)
        return ModelResponse(parts=[call("look")] if answered < 2 else [TextPart("done")])

    fallback = ModelFallback[None](FunctionModel(works, model_name="works"), sticky=True)
    thinker = Agent(FunctionModel(broken, model_name="broken"), name="thinker", capabilities=[fallback])

    @thinker.tool_plain
    async def look() -> str:
        looked.append(1)
        if crash and len(looked) == 2:
            interruption()
        return "x"

    async def work() -> str | None:
        result = await run_agent(thinker, "go", scope=allow("look"))
        seen[:] = result.messages
        return result.output

    run = await (bench.interrupted(work) if crash else bench.start(work))
    assert await run.result() == "done"
    assert asked == ["broken", "works", "works", "works"]
    answers = [message for message in seen if isinstance(message, ModelResponse)]
    assert [(one.model_id, one.conversation_id) for one in answers] == [("function:works", run.id)] * 3
    assert None not in (runs := [one.run_id for one in answers])
    assert len(set(runs)) == (2 if crash else 1)


@pytest.mark.parametrize("crash", [False, True])
async def test_an_answer_that_no_model_has_given_is_said_to_be_of_none(
    bench: Bench, interruption: Interruption, crash: bool
) -> None:
    seen: list[ModelMessage] = []

    def says(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if crash and sum(isinstance(message, ModelResponse) for message in messages) == 2:
            interruption()
        answered = sum(isinstance(message, ModelResponse) for message in messages)
        return ModelResponse(parts=[call("look")] if answered < 2 else [TextPart("done")])

    thinker = Agent(FunctionModel(says, model_name="says"), name="thinker", capabilities=[Answers()])

    @thinker.tool_plain
    async def look() -> str:
        return "x"

    async def work() -> str | None:
        result = await run_agent(thinker, "go", scope=allow("look"))
        seen[:] = result.messages
        return result.output

    run = await (bench.interrupted(work) if crash else bench.start(work))
    assert await run.result() == "done"
    answers = [message for message in seen if isinstance(message, ModelResponse)]
    assert [one.model_id for one in answers] == [None, "function:says", "function:says"]
    assert {one.conversation_id for one in answers} == {run.id}
