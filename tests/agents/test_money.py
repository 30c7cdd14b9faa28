"""All that models are paid for counts: also answers that nobody accepts, and those of models within tools."""

from decimal import Decimal
from typing import Any

import pytest
from pydantic_ai import Agent, ModelRetry, RunContext
from pydantic_ai.capabilities import AbstractCapability, ModelFallback
from pydantic_ai.exceptions import FallbackExceptionGroup
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage

from standby.agents import AgentResult, AtStop, Budget, run_agent
from standby.agents.records import NO_CALL, Turn
from standby.agents.transcript import _NO_CALL, threads_of
from tests.agents.bench import Bench
from tests.agents.conftest import allow, call
from tests.fundamentals.conftest import Interruption

UNKNOWN = "the price of a model request is not known, and there is a limit in money"


class Refuses(AbstractCapability[Any]):
    """Has the model asked again, as long as it refuses."""

    async def after_model_request(self, ctx: Any, *, request_context: Any, response: ModelResponse) -> ModelResponse:
        if refused(response):
            raise ModelRetry("Do not refuse.")
        return response


def refused(response: ModelResponse) -> bool:
    return response.finish_reason == "content_filter"


def usage(cost: str | None, tokens: int = 10) -> RequestUsage:
    return RequestUsage(input_tokens=tokens, cost=None if cost is None else Decimal(cost))


class Paid:
    """An agent that is asked by two models: one refuses, for so much, the other goes on looking, for half a dollar."""

    def __init__(self, how: str, cost: str | None) -> None:
        self.tool = "look"
        self.asked: list[str] = []
        self.results: list[AgentResult[str]] = []

        def refuses(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            self.asked.append("refuses")
            return ModelResponse(parts=[TextPart("No.")], finish_reason="content_filter", usage=usage(cost, 1000))

        def looks(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            self.asked.append("looks")
            return ModelResponse(parts=[call(self.tool)], usage=usage("0.5"))

        def in_turn(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            return (looks if self.asked[-1:] == ["refuses"] else refuses)(messages, info)

        first, second = FunctionModel(refuses, model_name="first"), FunctionModel(looks, model_name="second")
        agents: dict[str, Agent[None, str]] = {
            "capability": Agent(first, name="paid", capabilities=[ModelFallback(second)]),
            "model": Agent(FallbackModel(first, second, fallback_on=[refused]), name="paid"),
            "hook": Agent(FunctionModel(in_turn), name="paid", capabilities=[Refuses()], retries=9),
            "none": Agent(FallbackModel(first, first, fallback_on=[refused]), name="paid"),
        }
        self.agent = agents[how]

        @self.agent.tool_plain
        async def look() -> str:
            return "x"

    async def work(self) -> str | None:
        scope = allow("look", budget=Budget(money=Decimal(11)), at_stop=AtStop.FINISH)
        self.results.append(await run_agent(self.agent, "look", scope=scope))
        return self.results[-1].stopped


@pytest.mark.parametrize("how", ["capability", "model", "hook"])
async def test_an_answer_that_is_rejected_is_paid_for(bench: Bench, how: str) -> None:
    paid = Paid(how, "5")
    run = await bench.start(paid.work)
    assert await run.result() == "money"
    spent = paid.results[0].spent
    assert (paid.asked, spent.unpriced) == (["refuses", "looks"] * 2, 0)
    assert (spent.money, spent.tokens) == (Decimal(11), 2020)
    [thread] = threads_of(await bench.ledger.checkpoints.journal(run.id))
    assert (Decimal(thread["money"]), thread["tokens"]) == (spent.money, spent.tokens)
    assert (thread["requests"], thread["tool_calls"]) == (spent.requests, spent.tool_calls)


@pytest.mark.parametrize("how", ["capability", "model", "hook"])
async def test_a_rejected_answer_of_unknown_price_stops_it_where_money_is_limited(bench: Bench, how: str) -> None:
    paid = Paid(how, None)
    assert await bench.run(paid.work) == "money"
    assert (paid.asked, paid.results[0].why) == (["refuses", "looks"] if how != "hook" else ["refuses"], UNKNOWN)
    assert paid.results[0].spent.unpriced == 1


async def test_what_answers_cost_of_which_none_is_accepted_counts_when_the_run_is_retried(bench: Bench) -> None:
    paid = Paid("none", "5")
    run = await bench.start(paid.work)
    with pytest.raises(FallbackExceptionGroup):
        await run.result()
    with pytest.raises(FallbackExceptionGroup):
        await run.again()
    assert await run.again() == "money"
    spent = paid.results[0].spent
    assert (len(paid.asked), spent.money, spent.tokens) == (4, 20, 4000)
    assert (spent.requests, spent.tool_calls) == (2, 0)


async def test_tools_see_after_a_crash_what_rejected_answers_have_cost(
    bench: Bench, interruption: Interruption
) -> None:
    paid = Paid("model", "1")
    seen: list[Decimal | None] = []

    @paid.agent.tool
    async def look_back(ctx: RunContext[None]) -> str:
        if len(seen) == 2:
            interruption()
        seen.append(ctx.usage.cost)
        return "x"

    paid.tool = "look_back"

    async def work() -> str | None:
        scope = allow("look_back", budget=Budget(money=Decimal(6)), at_stop=AtStop.FINISH)
        return (await run_agent(paid.agent, "look", scope=scope)).stopped

    assert await (await bench.interrupted(work)).again() == "money"
    assert seen == [Decimal("1.5"), Decimal(3), Decimal("4.5")]


@pytest.mark.parametrize("cost", ["0.5", None])
async def test_a_model_of_unknown_price_in_a_tool_stops_it_whatever_the_others_cost(
    bench: Bench, cost: str | None
) -> None:
    asked: list[str] = []

    def unknown(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked.append("inner")
        return ModelResponse(parts=[TextPart("x")], usage=usage(None))

    def outer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked.append("outer")
        return ModelResponse(parts=[ToolCallPart("ask_another", {})], usage=usage(cost))

    inner: Agent[None, str] = Agent(FunctionModel(unknown, model_name="nobody-knows"))
    thinker: Agent[None, str] = Agent(FunctionModel(outer), name="outer")

    @thinker.tool
    async def ask_another(ctx: RunContext[None]) -> str:
        return (await inner.run("x", usage=ctx.usage)).output

    async def work() -> Any:
        scope = allow("ask_another", budget=Budget(money=Decimal(3)), at_stop=AtStop.FINISH)
        result = await run_agent(thinker, "go", scope=scope)
        return [result.stopped, result.why, result.spent.unpriced]

    assert await bench.run(work) == ["money", UNKNOWN, 1]
    assert asked == (["outer", "inner"] if cost is not None else ["outer"])


def test_transcripts_leave_out_the_same_results_of_calls_as_what_is_counted() -> None:
    assert set(_NO_CALL) == NO_CALL


def test_a_turn_of_an_old_journal_without_a_price_has_none() -> None:
    old = Turn.model_validate_json('{"messages": [], "money": null, "tokens": 3}')
    assert (old.spent.unpriced, old.spent.money) == (1, 0)
    assert Turn(messages=[], money=Decimal(0), unpriced=2).spent.unpriced == 2
