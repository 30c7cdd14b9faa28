"""A model request that ends by an error: what the run says of it, and what becomes of it in later attempts."""

from typing import Any

import pytest
from pydantic_ai import Agent, ModelRetry
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage

from standby import agent, step
from standby.agents import AtStop, Budget, run_agent
from tests.agents.bench import Bench
from tests.agents.conftest import Script, allow
from tests.fundamentals.conftest import Desk, Interruption


class Down:
    """An agent whose model is down for so many requests."""

    def __init__(self, times: int) -> None:
        self.asked = 0

        def say(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            self.asked += 1
            if self.asked <= times:
                raise OSError("the model is down")
            return ModelResponse(parts=[TextPart("done")], usage=RequestUsage(input_tokens=10))

        self.agent: Agent[None, str] = Agent(FunctionModel(say), name="thinker")

    async def output(self) -> str | None:
        return (await run_agent(self.agent, "go", scope=allow("x"))).output


async def test_the_step_that_a_run_failed_in_is_the_request(bench: Bench) -> None:
    down = Down(1)
    run = await bench.start(down.output)
    with pytest.raises(OSError, match="the model is down"):
        await run.result()
    row = await bench.ledger.runs.get(run.id)
    assert row is not None
    assert row.failed_step == "thinker/1.model"
    assert await run.again() == "done"
    assert down.asked == 2


async def test_an_error_that_the_code_around_has_caught_is_so_after_a_crash(
    bench: Bench, interruption: Interruption
) -> None:
    down = Down(1)

    @step(visible=False)
    async def another() -> str:
        interruption()
        return "went on"

    async def work() -> str | None:
        try:
            return await down.output()
        except OSError:
            return await another()

    run = await bench.interrupted(work)
    assert await run.again() == "went on"
    assert down.asked == 1


async def test_a_hook_has_the_model_asked_again_also_where_more_has_to_be_granted_before(desk: Desk) -> None:
    class Refuses(AbstractCapability[Any]):
        async def after_model_request(
            self, ctx: Any, *, request_context: Any, response: ModelResponse
        ) -> ModelResponse:
            if script.asked == 1:
                raise ModelRetry("Say more.")
            return response

    script = Script("no", "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker", capabilities=[Refuses()])

    @agent
    async def work() -> str | None:
        scope = allow("x", budget=Budget(steps=1), at_stop=AtStop.ASK)
        return (await run_agent(thinker, "go", scope=scope)).output

    run = await desk.start(work)
    await run.answer({"approved": True, "amount": 5})
    assert await run.result() == "done"
    assert script.asked == 2
