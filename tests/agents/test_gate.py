"""Directly before a call acts everything is looked at again, and what is given up leaves nothing behind."""

import asyncio
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_ai import Agent, RunContext, Tool
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import ExternalToolset
from pydantic_ai.usage import RequestUsage, RunUsage

from standby import agent, step
from standby.agents import AgentScope, AtMost, AtStop, Budget, Permission, Rule, Spent, run_agent, waits
from standby.agents.judging import arguments_digest, plain_arguments
from standby.agents.responses import tidy
from standby.errors import UsageError
from standby.states import WaitState
from standby.steps import Step
from standby.waiting import wait_for
from standby.waits import Signal
from tests.agents.bench import Bench
from tests.agents.conftest import Script, allow, ask, call
from tests.fundamentals.conftest import Desk, Interruption, Run


@step(visible=False)
async def note(word: str) -> str:
    return word


class Shop:
    """An agent that orders, which waits, and pays. ``paid`` is what was paid; it goes on to a step of its own."""

    def __init__(self, scope: AgentScope, *lines: Any, interruption: Interruption | None = None) -> None:
        self.scope, self.paid = scope, list[int]()
        self.script = Script(*lines, "done")
        self.stopped: str | None = None
        thinker: Agent[None, str] = Agent(self.script.model, name="shop")

        @thinker.tool_plain
        @waits
        async def order(item: str) -> str:
            await note(item)
            return await wait_for(Signal("delivered", key=item, of=str))

        @thinker.tool_plain
        @waits
        async def pay(amount: int) -> str:
            self.paid.append(amount)
            return "paid"

        async def read_scope() -> AgentScope:
            return self.scope

        @agent
        async def shopping() -> str:
            self.stopped = (await run_agent(thinker, "shop", scope=read_scope)).stopped
            went_on = await note("went on")
            if interruption is not None:
                interruption()
            return went_on

        self.flow = shopping


async def lose(run: Run) -> None:
    """The attempt, which waits, is gone; the run has another."""
    await run.open_waits()
    assert run.attempt is not None
    run.attempt.cancel()
    with pytest.raises(BaseException):  # noqa: B017 - however Prefect ends a cancelled attempt
        await run.attempt


@pytest.mark.parametrize(
    ("meanwhile", "stopped"),
    [
        ({"tools": allow("order").tools}, None),
        ({"budget": Budget(tool_calls=1)}, "tool_calls"),
        ({}, "person"),
    ],
    ids=["scope", "budget", "a person"],
)
async def test_row_60_a_wait_in_one_tool_lets_nothing_of_the_old_scope_through_in_another(
    desk: Desk, meanwhile: dict[str, Any], stopped: str | None
) -> None:
    """Both were judged when the model asked for them, and the run waited in its process."""
    scope = allow("order", "pay", at_stop=AtStop.FINISH)
    shop = Shop(scope, [call("order", item="desk"), call("pay", amount=5)])
    run = await desk.start(shop.flow)
    await run.open_waits()
    shop.scope = scope.model_copy(update=meanwhile)
    if not meanwhile:
        await desk.signal("agent.stop", key=run.id)
    await desk.signal("delivered", "on Friday", key="desk")
    assert await run.result() == "went on"
    assert (shop.paid, shop.stopped) == ([], stopped)
    if stopped is None:
        assert [outcome for *_, outcome in shop.script.told()] == ["success", "denied"]


@pytest.mark.parametrize("how", ["a person", "not in the scope"])
async def test_what_a_tool_had_begun_is_closed_when_it_is_not_gone_on_with(
    desk: Desk, interruption: Interruption, how: str
) -> None:
    """Its steps are not asked for again, neither now nor on a replay."""
    shop = Shop(allow("order"), call("order", item="desk"), interruption=interruption)
    run = await desk.start(shop.flow)
    await lose(run)
    if how == "a person":
        await desk.signal("agent.stop", key=run.id)
    else:
        shop.scope = allow("pay")
    run.begin()
    with pytest.raises(Exception, match="first attempt ends"):
        await run.result()
    assert [wait.state for wait in await run.waits() if wait.topic == "delivered"] == [WaitState.CLOSED]
    assert await run.again() == "went on"
    assert shop.stopped == ("person" if how == "a person" else None)


async def test_a_tool_that_waited_goes_on_when_a_person_grants_more_meanwhile(desk: Desk) -> None:
    shop = Shop(allow("order", at_stop=AtStop.ASK), call("order", item="desk"))
    run = await desk.start(shop.flow)
    await lose(run)
    shop.scope = allow("order", at_stop=AtStop.ASK, budget=Budget(tool_calls=0))
    run.begin()
    await run.answer({"approved": True, "amount": 1}, key="shop/1.more.tool_calls.1")
    await desk.signal("delivered", "on Friday", key="desk")
    assert await run.result() == "went on"
    assert shop.script.told() == [("order", "on Friday", "success")]


async def test_a_person_says_whether_what_is_given_up_has_happened(desk: Desk, interruption: Interruption) -> None:
    paid: list[int] = []

    @step(effect="once", visible=False)
    async def pay(amount: int) -> str:
        """Pay it."""
        paid.append(amount)
        interruption()
        return "receipt"

    script = Script(call("pay", amount=5), "done")
    thinker: Agent[None, str] = Agent(script.model, name="payer", tools=[pay])
    scope = allow("pay")

    async def read_scope() -> AgentScope:
        return scope

    @agent
    async def paying() -> str | None:
        return (await run_agent(thinker, "pay", scope=read_scope)).output

    run = await desk.interrupted(paying)
    less = AtMost(argument="amount", limit=Decimal(1))
    scope = AgentScope(tools=(Rule(tool="pay", permission=Permission.ALLOW, when=(less,)),))
    run.begin()
    [wait] = await run.open_waits()
    assert wait.key == "payer/1.1.pay/pay?1"
    await run.answer({"happened": True, "result": '"receipt 7"'})
    assert await run.result() == "done"
    assert paid == [5]
    [(_, said, outcome)] = script.told()
    assert outcome == "denied"
    assert said.endswith("An earlier try of it has acted: payer/1.1.pay/pay.")


async def test_an_approval_is_not_used_later_for_what_has_changed_since(desk: Desk, interruption: Interruption) -> None:
    """The process died between the approval and the act; the retry came when the draft was another."""
    etag, sent = "v1", list[str]()
    script = Script(call("send", to="ada"), "done")
    thinker: Agent[None, str] = Agent(script.model, name="mailer")

    @thinker.tool_plain
    async def send(to: str) -> str:
        interruption()
        sent.append(to)
        return to

    async def fresh(_: dict[str, Any]) -> str:
        return etag

    @agent
    async def mailing() -> str | None:
        return (await run_agent(thinker, "write", scope=ask("send"), fresh={"send": fresh})).output

    run = await desk.start(mailing)
    await run.answer({"approved": True})
    with pytest.raises(Exception, match="first attempt ends"):
        await run.result()
    etag = "v2"
    assert await run.again() == "done"
    assert sent == []
    assert script.told() == [("send", "Not called: what it is about has changed since it was approved.", "denied")]


async def test_a_call_whose_result_others_deliver_is_a_call(desk: Desk, interruption: Interruption) -> None:
    script = Script(call("render"), lambda _: interruption() or "done")
    outside: Any = ExternalToolset([ToolDefinition(name="render")])
    thinker: Agent[None, str] = Agent(script.model, name="thinker", toolsets=[outside])

    @agent
    async def working() -> int:
        return (await run_agent(thinker, "render", scope=allow("render"))).spent.tool_calls

    run = await desk.start(working)
    [wait] = await run.open_waits()
    await desk.signal(wait.topic, "/a", key=wait.correlation)
    with pytest.raises(Exception, match="first attempt ends"):
        await run.result()
    assert await run.again() == 1


async def test_what_tools_add_to_the_usage_and_call_is_spent(bench: Bench, interruption: Interruption) -> None:
    """Also by a try that ended by an error, and after a crash."""
    script = Script(call("look"), lambda _: interruption() or "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker")
    tries: list[int] = []

    @thinker.tool
    async def look(ctx: RunContext[None]) -> str:
        ctx.usage.incr(RunUsage(requests=1, input_tokens=50, cost=Decimal(1)))
        assert ctx.tool_manager is not None
        await ctx.tool_manager.handle_call(ToolCallPart("peek"))
        tries.append(1)
        if len(tries) == 1:
            raise OSError("no such place")
        return "x"

    @thinker.tool_plain
    async def peek() -> str:
        return "y"

    spent: list[Spent] = []

    async def research() -> None:
        spent.append((await run_agent(thinker, "find it", scope=allow("look", "peek"))).spent)

    run = await bench.start(research)
    with pytest.raises(OSError, match="no such place"):
        await run.result()
    with pytest.raises(Exception, match="first attempt ends"):
        await run.result()
    await run.again()
    assert (spent[0].requests, spent[0].tool_calls, spent[0].tokens) == (4, 4, 120)
    assert tries == [1, 1]


async def test_a_provider_that_counts_no_tokens_does_not_get_past_a_limit_in_tokens(bench: Bench) -> None:
    silent = ModelResponse(parts=[ToolCallPart("look")], usage=RequestUsage(unmeasured_requests=1))
    script = Script(silent, silent, "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker")
    looked: list[int] = []

    @thinker.tool_plain
    async def look() -> None:
        looked.append(1)

    async def research() -> str | None:
        scope = allow("look", budget=Budget(tokens=1000), at_stop=AtStop.FINISH)
        return (await run_agent(thinker, "find it", scope=scope)).stopped

    assert await bench.run(research) == "tokens"
    assert (script.asked, looked) == (1, [])


class Order(BaseModel):
    tags: set[str]
    hidden: int = Field(default=0, exclude=True)


@dataclass
class Note:
    words: frozenset[str]


def test_arguments_are_compared_whole() -> None:
    many = {f"tag {n}" for n in range(20)}
    assert plain_arguments({"order": Order(tags=many), "note": Note(frozenset(many))}) == {
        "order": {"tags": sorted(many), "hidden": 0},
        "note": {"words": sorted(many)},
    }
    assert arguments_digest({"o": Order(tags=many, hidden=1)}) != arguments_digest({"o": Order(tags=many)})
    for value in (SecretStr("x"), {"inner": [SecretStr("x")]}, {1: "one"}, iter([1])):
        with pytest.raises(ValueError, match="among them"):
            plain_arguments({"x": value})


class Aliased(BaseModel, extra="allow"):
    amount: int = Field(alias="Amt")


@pydantic_dataclass(config={"extra": "allow"})
class Loose:
    amount: int


def test_what_a_model_takes_beside_its_fields_is_compared_too() -> None:
    assert plain_arguments({"x": Loose(amount=1, iban="DE1")}) == {"x": {"amount": 1, "iban": "DE1"}}  # type: ignore[call-arg]
    assert plain_arguments({"x": Aliased.model_validate({"Amt": 1, "to": "x"})}) == {"x": {"amount": 1, "to": "x"}}
    with pytest.raises(ValueError, match="given twice under one name"):
        plain_arguments({"x": Aliased.model_validate({"Amt": 1_000_000, "amount": 5})})


def test_an_id_that_is_made_up_is_no_other_calls() -> None:
    parts = [ToolCallPart("a", tool_call_id="x"), ToolCallPart("b", tool_call_id="x"), TextPart("hm"),
             ToolCallPart("c", tool_call_id="call-3-2")]  # fmt: skip
    ids = [part.tool_call_id for part in tidy(ModelResponse(parts=parts), 3).tool_calls]
    assert ids == ["x", "call-3-2-", "call-3-2"]


def sender_that_hangs_once(acted: list[str]) -> Step[[str], str]:
    """A once step that has acted and does not come back, the first time."""

    @step(effect="once", visible=False)
    async def send(to: str) -> str:
        acted.append(to)
        if len(acted) == 1:
            await asyncio.Event().wait()
        return "sent"

    return send


@pytest.mark.parametrize("of", ["tool", "agent"])
async def test_a_once_step_as_a_tool_that_the_model_would_call_again_after_a_timeout_is_refused(
    bench: Bench, of: str
) -> None:
    acted: list[str] = []
    send = sender_that_hangs_once(acted)
    script = Script(call("send", to="ben"), call("send", to="ben"), "done")
    limit: dict[str, Any] = {"timeout": 0.2} if of == "tool" else {}
    thinker: Agent[None, str] = Agent(
        script.model, name="mailer", tools=[Tool(send, **limit)], tool_timeout=0.2 if of == "agent" else None
    )

    async def mailing() -> str | None:
        return (await run_agent(thinker, "write", scope=allow("send"))).output

    with pytest.raises(UsageError, match="'send' is a step that acts once, and has pydantic-ai's timeout="):
        await bench.run(mailing)
    assert (acted, script.asked) == ([], 0)


async def test_a_once_step_in_a_tool_with_a_timeout_is_refused_before_it_acts(bench: Bench) -> None:
    acted: list[str] = []
    send = sender_that_hangs_once(acted)

    @step(visible=False)
    async def look(to: str) -> str:
        return to

    @waits
    async def write(to: str) -> str:
        return await send(await look(to))

    script = Script(call("write", to="ben"), call("write", to="ben"), "done")
    thinker: Agent[None, str] = Agent(script.model, name="mailer", tools=[Tool(write, timeout=0.2)])

    async def mailing() -> str | None:
        return (await run_agent(thinker, "write", scope=allow("write"))).output

    with pytest.raises(UsageError, match="acts once, in a tool with pydantic-ai's timeout="):
        await bench.run(mailing)
    assert acted == []


async def test_the_time_limit_of_a_once_step_ends_the_run_and_a_retry_asks_whether_it_happened(desk: Desk) -> None:
    acted: list[str] = []

    @step(effect="once", visible=False, timeout_seconds=1.0)
    async def send(to: str) -> str:
        acted.append(to)
        await asyncio.Event().wait()
        return "sent"

    script = Script(call("send", to="ben"), "done")
    thinker: Agent[None, str] = Agent(script.model, name="mailer", tools=[send])

    @agent
    async def mailing() -> str | None:
        return (await run_agent(thinker, "write", scope=allow("send"))).output

    run = await desk.start(mailing)
    with pytest.raises(TimeoutError):
        await run.result()
    run.begin()
    await run.answer({"happened": True, "result": '"sent"'}, key="mailer/1.1.send/send?1")
    assert await run.result() == "done"
    assert acted == ["ben"]
