"""The limits of a scope hold across waits and crashes, and what happens at them is the scope's to say."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import ModelRetry, ToolFailed
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.run import AgentRunResult
from pydantic_ai.usage import RequestUsage

from standby import agent
from standby.agents import AgentResult, AgentScope, AtStop, Budget, current_scope, run_agent
from standby.agents.forms import more_of
from standby.agents.parts import of_scope
from standby.errors import AnswerRefused, ScopeStopped
from tests.agents.bench import Bench
from tests.agents.conftest import Script, allow, ask, call
from tests.fundamentals.conftest import Desk, Interrupted, Interruption, Run


class Looker:
    """An agent that looks again and again. ``result`` is what came of it."""

    def __init__(self, scope: Any, *lines: Any, **options: Any) -> None:
        self.script = Script(*(lines or [call("look")] * 9))
        self.looked = 0
        self.result: AgentResult[str] | None = None
        self.thinker: Agent[None, str] = Agent(self.script.model, name="looker")

        @self.thinker.tool_plain
        async def look() -> str:
            self.looked += 1
            return "nothing yet"

        async def looking() -> str | None:
            self.result = await run_agent(self.thinker, "look", scope=scope, **options)
            return self.result.stopped

        self.work, self.flow = looking, agent(looking)


@pytest.mark.parametrize(
    ("budget", "what", "requests", "looked"),
    [
        (Budget(steps=4), "steps", 2, 2),
        (Budget(tool_calls=2), "tool_calls", 3, 2),
        (Budget(tokens=25), "tokens", 3, 2),
        (Budget(money=Decimal(1)), "money", 1, 0),
        (Budget(wall=timedelta(0)), "wall", 0, 0),
    ],
)
async def test_a_budget_that_is_spent_stops_it(
    bench: Bench, budget: Budget, what: str, requests: int, looked: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Money cannot be counted without a price, so a limit in money stops a model that has none. The log says it."""
    looker = Looker(allow("look", budget=budget, at_stop=AtStop.FINISH))
    assert await bench.run(looker.work) == what
    assert (looker.script.asked, looker.looked) == (requests, looked)
    assert looker.result is not None
    assert looker.result.output is None
    assert (looker.result.spent.requests, looker.result.spent.tool_calls) == (requests, looked)
    [warned] = [one.getMessage() for one in caplog.records if one.name == "standby.agents"]
    assert warned.endswith(f"agent looker ends without an output: {looker.result.why}.")


async def test_a_stop_that_fails_names_the_limit_and_a_retry_under_a_raised_one_goes_on(bench: Bench) -> None:
    scope = allow("look", budget=Budget(steps=2))

    async def read_scope() -> AgentScope:
        return scope

    looker = Looker(read_scope, call("look"), call("look"), "done")
    run = await bench.start(looker.work)
    with pytest.raises(ScopeStopped, match="2 of 2 steps are spent") as stopped:
        await run.result()
    assert stopped.value.what == "steps"
    scope = allow("look", budget=Budget(steps=9))
    assert await run.again() is None
    assert (looker.script.asked, looker.looked) == (3, 2)


@pytest.mark.parametrize(
    ("limits", "remedy"),
    [
        ({"budget": Budget(steps=0)}, "Raise the limit in its scope and retry the run, or let the scope finish or ask"),
        ({"budget": Budget(money=Decimal(1))}, "Take the limit in money out of its scope and retry the run, or start"),
        ({"deadline": datetime(2020, 1, 1, tzinfo=UTC)}, "Set a later one in its scope and retry the run, or let the"),
    ],
    ids=["spent", "unknown price", "deadline"],
)
async def test_a_stop_says_what_helps_against_it(bench: Bench, limits: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ScopeStopped) as stopped:
        await bench.run(Looker(allow("look", **limits)).work)
    said = str(stopped.value)
    assert said.partition(f"{stopped.value.why}. ")[2].startswith(remedy)


async def test_what_was_spent_before_a_crash_and_a_wait_is_not_forgotten(
    desk: Desk, interruption: Interruption
) -> None:
    scope = AgentScope(
        tools=(*allow("look").tools, *ask("send").tools), budget=Budget(tool_calls=3), at_stop=AtStop.FINISH
    )
    looker = Looker(scope, call("look"), call("send"), lambda _: interruption() or call("look"), call("look"))

    @looker.thinker.tool_plain
    async def send() -> str:
        return "sent"

    run = await desk.start(looker.flow)
    await run.answer({"approved": True})
    with pytest.raises(Exception, match="first attempt ends"):
        await run.result()
    assert await run.again() == "tool_calls"
    assert looker.result is not None
    assert looker.result.spent.tool_calls == 3
    assert looker.looked == 2


async def test_a_person_may_grant_more_and_the_grant_outlives_a_crash(desk: Desk, interruption: Interruption) -> None:
    looker = Looker(
        allow("look", budget=Budget(tool_calls=1), at_stop=AtStop.ASK),
        call("look"), call("look"), lambda _: interruption() or call("look"), "done",
    )  # fmt: skip
    run = await desk.start(looker.flow)
    [wait] = await run.open_waits()
    assert wait.reason == "May looker spend more tool calls?"
    assert "1 of 1 tool calls are spent" in wait.evidence
    await run.answer({"approved": True, "amount": 2})
    with pytest.raises(Exception, match="first attempt ends"):
        await run.result()
    assert await run.again() is None
    assert looker.looked == 3


async def test_who_approves_more_says_how_much(desk: Desk) -> None:
    looker = Looker(allow("look", budget=Budget(tool_calls=1), at_stop=AtStop.ASK), call("look"), call("look"), "done")
    run = await desk.start(looker.flow)
    for too_little in ({"approved": True}, {"approved": True, "amount": 0}, {"approved": True, "amount": 0.5}):
        with pytest.raises(AnswerRefused, match="amount"):
            await run.answer(too_little)
    await run.answer({"approved": True, "amount": 1})
    assert await run.result() is None
    assert looker.looked == 2


async def test_more_than_can_be_counted_is_refused_at_the_door(desk: Desk) -> None:
    budget = Budget(running=timedelta(0))
    looker = Looker(allow("look", budget=budget, at_stop=AtStop.ASK), "done")
    run = await desk.start(looker.flow)
    with pytest.raises(AnswerRefused, match="amount"):
        await run.answer({"approved": True, "amount": 1e15})
    await run.answer({"approved": True, "amount": 1e12})
    assert await run.result() is None


def test_an_amount_from_before_there_was_a_bound_breaks_no_run() -> None:
    recorded = json.dumps({"": {"answer": json.dumps({"approved": True, "amount": 1e15})}})
    granted = more_of("running", recorded)
    assert granted == Budget(running=timedelta(seconds=1e12))
    assert Budget(running=timedelta.max).raised(granted) == Budget(running=timedelta.max)


async def test_who_grants_no_more_stops_it(desk: Desk) -> None:
    looker = Looker(allow("look", budget=Budget(steps=1), at_stop=AtStop.ASK))
    run = await desk.start(looker.flow)
    await run.answer({"approved": False})
    assert await run.result() == "steps"
    assert looker.looked == 0


@pytest.mark.parametrize(
    ("meanwhile", "what"),
    [
        ({"deadline": datetime(2020, 1, 1, tzinfo=UTC)}, "deadline"),
        ({"budget": Budget(wall=timedelta(0))}, "wall"),
        ({"budget": Budget(tool_calls=0)}, "tool_calls"),
        ({}, "person"),
    ],
    ids=["deadline", "wall time", "calls", "a person"],
)
async def test_row_60_a_limit_that_is_reached_during_a_wait_lets_nothing_through(
    desk: Desk, meanwhile: dict[str, Any], what: str
) -> None:
    """What was approved meanwhile is not done."""
    scope = ask("look", at_stop=AtStop.FINISH)

    async def read_scope() -> AgentScope:
        return scope

    looker = Looker(read_scope)
    run = await desk.start(looker.flow)
    await run.open_waits()
    scope = scope.model_copy(update=meanwhile)
    if not meanwhile:
        await desk.signal("agent.stop", key=run.id)
    await run.answer({"approved": True})
    assert await run.result() == what
    assert looker.looked == 0


async def test_a_goal_that_is_reached_and_a_persons_word_end_it(desk: Desk) -> None:
    async def until(messages: Any) -> bool:
        return len(messages) > 4

    for given in (until, lambda messages: len(messages) > 4):  # async or not
        looker = Looker(allow("look"), until=given)
        assert await desk.run(looker.flow) == "goal"
        assert looker.looked == 2

    stopping: list[Run] = []

    class Stopped(Looker):
        pass

    async def read_scope() -> AgentScope:
        if stopping:
            await desk.signal("agent.stop", "enough", key=stopping[0].id)
        return allow("look")

    told = Looker(read_scope)
    run = await desk.start(told.flow)
    stopping.append(run)
    assert await run.result() == "person"
    assert told.result is not None
    assert told.result.why == "a person stopped it: enough"
    assert [signal.disposition for signal in await desk.ledger.signals.all()] == ["delivered"]


async def test_row_53_what_changed_while_it_waited_is_reported_and_it_goes_on(desk: Desk) -> None:
    """Or stops, where that was declared."""
    for policy in ("continue", "stop"):
        scope = ask("look")

        async def read_scope() -> AgentScope:
            return scope  # noqa: B023

        looker = Looker(read_scope, call("look"), "done", on_change=policy)
        run = await desk.start(looker.flow)
        await run.open_waits()
        scope = ask("look", goal="another")

        @looker.thinker.instructions
        def be_brief() -> str:
            return "Be brief."

        await run.answer({"approved": True})
        if policy == "stop":
            with pytest.raises(ScopeStopped, match=r"scope changed.* Put back what changed"):
                await run.result()
        else:
            assert await run.result() is None
            turn = await desk.ledger.checkpoints.find(run.id, "looker/2.model")
            assert turn is not None
            assert '"changed":["scope"]' in (turn.value or "")


def test_what_is_left_of_a_scope_that_is_handed_on_is_no_change() -> None:
    """It is another at each replay."""
    before, after = (allow("look", budget=Budget(steps=steps)) for steps in (9, 4))
    assert of_scope(before) != of_scope(after)
    before, after = (scope.model_copy(update={"purse": "one"}) for scope in (before, after))
    assert of_scope(before) == of_scope(after)
    assert of_scope(before) != of_scope(before.narrowed(allow("peek")))


async def test_a_tool_sees_what_is_left_of_the_scope_to_hand_on(bench: Bench) -> None:
    left: list[AgentScope] = []
    looker = Looker(allow("look", "peek", budget=Budget(steps=9, tokens=100)), call("peek"), "done")

    @looker.thinker.tool_plain
    async def peek() -> str:
        left.append((await current_scope()).narrowed(AgentScope(tools=allow("look", "rm").tools)))
        return "x"

    assert await bench.run(looker.work) is None
    assert left[0].budget == Budget(steps=8, tokens=90)
    assert left[0].within[0].tools == allow("look", "peek").tools


async def test_a_fallback_model_and_prices_keep_working(bench: Bench) -> None:
    """The model that answers pays; the first one fails."""

    def broken(_: Any, __: Any) -> ModelResponse:
        from pydantic_ai.exceptions import ModelHTTPError

        raise ModelHTTPError(500, "broken")

    def priced(_: Any, __: Any) -> ModelResponse:
        usage = RequestUsage(input_tokens=1_000_000, output_tokens=0)
        return ModelResponse(parts=[TextPart("done")], usage=usage, model_name="gpt-4o-mini", provider_name="openai")

    models = FallbackModel(FunctionModel(broken), FunctionModel(priced, model_name="gpt-4o-mini"))
    thinker: Agent[None, str] = Agent(models, name="looker")
    spent: list[Any] = []

    async def looking() -> str | None:
        result = await run_agent(thinker, "look", scope=AgentScope(budget=Budget(money=Decimal(5))))
        spent.append(result.spent)
        return result.output

    assert await bench.run(looking) == "done"
    assert (spent[0].requests, spent[0].tokens, spent[0].unpriced) == (1, 1_000_000, 0)
    assert spent[0].money > 0


async def test_code_of_the_agent_that_recovers_from_errors_does_not_get_past_a_stop(bench: Bench) -> None:
    class Recovers(AbstractCapability[Any]):
        async def on_run_error(self, ctx: Any, *, error: BaseException) -> Any:
            return AgentRunResult(output="all is well")

    script = Script(call("look"), call("look"))
    thinker: Agent[None, str] = Agent(script.model, name="looker", capabilities=[Recovers()])

    @thinker.tool_plain
    async def look() -> str:
        return "x"

    async def looking() -> Any:
        return (await run_agent(thinker, "look", scope=allow("look", budget=Budget(steps=2)))).output

    with pytest.raises(ScopeStopped, match="2 of 2 steps"):
        await bench.run(looking)


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        (Budget(steps=1), [("No result: the agent was stopped (", "interrupted")] * 3),
        (Budget(steps=4), [("nothing yet", "success"), ("no", "failed"), ("twice", "retried")]),
    ],
    ids=["before the calls", "after them"],
)
async def test_a_conversation_that_was_stopped_can_be_gone_on_with(
    bench: Bench, budget: Budget, told: list[tuple[str, str]]
) -> None:
    looker = Looker(
        allow("look", "fail", "again", budget=budget, at_stop=AtStop.FINISH),
        [call("look"), call("fail"), call("again")],
    )
    further = Script("", "done")
    crash = [True]

    @looker.thinker.tool_plain
    async def fail() -> str:
        raise ToolFailed("no")

    @looker.thinker.tool_plain
    async def again() -> str:
        raise ModelRetry("twice")

    async def work() -> str | None:
        await looker.work()
        assert looker.result is not None
        history = looker.result.messages
        found = await run_agent(
            looker.thinker, "go on", scope=allow("look"), history=history, model=further.model, name="further"
        )
        if crash.pop():
            crash.append(False)
            raise Interrupted("once")
        return found.output

    run = await bench.interrupted(work)
    assert await run.again() == "done"
    said = further.told()
    assert [(name, outcome) for name, _, outcome in said] == list(
        zip(("look", "fail", "again"), (outcome for _, outcome in told), strict=True)
    )
    assert all(str(content).startswith(words) for (_, content, _), (words, _) in zip(said, told, strict=True))
    assert (further.asked, looker.script.asked) == (1, 1)
