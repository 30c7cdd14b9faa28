"""A hook of the agent that answers in the model's stead: nothing is paid for what was not sent."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import SkipModelRequest
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage

from standby.agents import AgentResult, AtStop, Budget, run_agent
from standby.agents.transcript import threads_of
from tests.agents.bench import Bench
from tests.agents.conftest import allow, call
from tests.agents.test_money import UNKNOWN
from tests.fundamentals.conftest import Interruption

LIMITED = Budget(money=Decimal(1), tokens=1000)


class InWrap(AbstractCapability[Any]):
    """Answers the first request, from how many times it was asked, without a model."""

    def __init__(self, answer: Callable[[], ModelResponse]) -> None:
        self.answer = answer
        self.asks = False  # the model first, and lets its error disappear
        self.done = False

    async def wrap_model_request(self, ctx: Any, *, request_context: Any, handler: Any) -> ModelResponse:
        if self.done:
            return await handler(request_context)
        self.done = True
        if self.asks:
            with pytest.raises(OSError, match="down"):
                await handler(request_context)
        return self.answer()


class InWrapBySkipping(InWrap):
    async def wrap_model_request(self, ctx: Any, *, request_context: Any, handler: Any) -> ModelResponse:
        if self.done:
            return await handler(request_context)
        self.done = True
        raise SkipModelRequest(self.answer())


class BeforeIt(InWrap):
    async def wrap_model_request(self, ctx: Any, *, request_context: Any, handler: Any) -> ModelResponse:
        return await handler(request_context)

    async def before_model_request(self, ctx: Any, request_context: Any) -> Any:
        if not self.done:
            self.done = True
            raise SkipModelRequest(self.answer())
        return request_context


HOOKS = [InWrap, InWrapBySkipping, BeforeIt]


class Answered:
    """An agent of which a hook gives the first answer, with this usage: a call. A model of half a dollar the second."""

    def __init__(self, hook: type[InWrap], usage: RequestUsage | None = None, *, down: bool = False) -> None:
        self.asked = self.looked = 0
        self.result: AgentResult[str] | None = None
        self.before: Callable[[], Any] = lambda: None
        self.hook = hook(lambda: ModelResponse(parts=[call("look")], usage=usage or RequestUsage()))
        self.hook.asks = down

        def say(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            self.asked += 1
            if down and self.asked == 1:
                raise OSError("down")
            self.before()
            return ModelResponse(parts=[TextPart("done")], usage=RequestUsage(input_tokens=10, cost=Decimal("0.5")))

        self.agent: Agent[None, str] = Agent(FunctionModel(say), name="thinker", capabilities=[self.hook])

        @self.agent.tool_plain
        async def look() -> str:
            self.looked += 1
            return "seen"

    async def work(self) -> str | None:
        self.result = await run_agent(self.agent, "go", scope=allow("look", budget=LIMITED, at_stop=AtStop.FINISH))
        return self.result.stopped

    @property
    def spent(self) -> tuple[int, Decimal, int, int]:
        assert self.result is not None
        spent = self.result.spent
        return spent.tokens, spent.money, spent.unpriced, spent.unmeasured


@pytest.mark.parametrize("hook", HOOKS)
async def test_an_answer_that_was_not_sent_and_has_no_usage_costs_nothing(
    bench: Bench, interruption: Interruption, hook: type[InWrap]
) -> None:
    """Nor does it after a crash, in which the hook is not asked again."""
    answered = Answered(hook)
    answered.before = interruption
    run = await bench.interrupted(answered.work)
    assert await run.again() is None
    assert answered.spent == (10, Decimal("0.5"), 0, 0)
    assert answered.result is not None
    assert answered.result.output == "done"
    assert (answered.result.spent.requests, answered.looked) == (2, 1), "it is a step all the same"
    [thread] = threads_of(await bench.ledger.checkpoints.journal(run.id))
    assert (thread["money"], thread["tokens"], len(thread["turns"])) == ("0.5", 10, 2)


@pytest.mark.parametrize("hook", HOOKS)
async def test_one_that_has_a_usage_is_counted_by_that(bench: Bench, hook: type[InWrap]) -> None:
    answered = Answered(hook, RequestUsage(input_tokens=90, cost=Decimal("0.25")))
    assert await bench.run(answered.work) is None
    assert answered.spent == (100, Decimal("0.75"), 0, 0)


@pytest.mark.parametrize("hook", HOOKS)
async def test_one_that_has_a_usage_without_a_price_stops_it_where_money_is_limited(
    bench: Bench, hook: type[InWrap]
) -> None:
    answered = Answered(hook, RequestUsage(input_tokens=90))
    assert await bench.run(answered.work) == "money"
    assert answered.result is not None
    assert answered.result.why == UNKNOWN
    assert (answered.asked, answered.spent) == (0, (90, Decimal(0), 1, 0))


async def test_where_the_model_was_asked_what_that_took_is_unknown_whatever_a_hook_answers(bench: Bench) -> None:
    answered = Answered(InWrap, down=True)
    assert await bench.run(answered.work) == "tokens"
    assert (answered.asked, answered.spent) == (1, (0, Decimal(0), 1, 1))
