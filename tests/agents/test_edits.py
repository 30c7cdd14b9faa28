"""Arguments that people are shown can be changed as they are shown, and what was written is what the tool is given."""

import asyncio
import json
from datetime import date, timedelta
from decimal import Decimal
from typing import Annotated, Any
from uuid import uuid4

import pytest
from pydantic import AfterValidator, AliasChoices, BaseModel, Field
from pydantic_ai import Agent
from pydantic_ai.messages import ToolCallPart
from typing_extensions import TypedDict

from standby import agent
from standby.agents import AgentScope, AtMost, Permission, Rule, run_agent
from tests.agents.conftest import Script, ask, call
from tests.fundamentals.conftest import Desk, Interrupted, Interruption
from tests.support.waiting import wait_until


class Line(BaseModel):
    number: int = Field(default=1, validation_alias=AliasChoices("no", "num"))
    memo: str = ""


class Order(BaseModel):
    amount: int = Field(default=100, alias="sum")
    to: str = "ada"
    code: Annotated[str, AfterValidator(str.upper)] = "A"
    lines: list[Line] = []


class Payer:
    """An agent whose one tool has a model with other names for its caller. ``done``: what the tool was given."""

    def __init__(self, scope: AgentScope, **arguments: Any) -> None:
        self.done: list[Order] = []
        self.script = Script(call("pay", **arguments), "done")
        thinker: Agent[None, str] = Agent(self.script.model, name="payer")

        @thinker.tool_plain
        async def pay(order: Order) -> str:
            self.done.append(order)
            return "paid"

        @agent
        async def paying() -> str | None:
            return (await run_agent(thinker, "pay", scope=scope)).output

        self.flow = paying


async def test_arguments_are_changed_in_the_names_that_are_shown(desk: Desk) -> None:
    payer = Payer(ask("pay"), sum=50, to="bob", lines=[{"no": 7}])
    run = await desk.start(payer.flow)
    [wait] = await run.open_waits()
    shown = json.loads(wait.evidence[wait.evidence.index("{") : wait.evidence.rindex("}") + 1].replace("\n> ", "\n"))
    assert shown == {"order": {"amount": 50, "to": "bob", "code": "A", "lines": [{"number": 7, "memo": ""}]}}
    shown["order"] |= {"amount": 3, "lines": [{"number": 8, "memo": "x"}, {"memo": "y"}]}
    del shown["order"]["code"]
    await run.answer({"approved": True, "arguments": json.dumps(shown)})
    assert await run.result() == "done"
    [order] = payer.done
    assert order.model_dump() == {
        "amount": 3, "to": "bob", "code": "A",
        "lines": [{"number": 8, "memo": "x"}, {"number": 1, "memo": "y"}],
    }  # fmt: skip
    assert order.model_fields_set == {"amount", "to", "lines"}, "what was left out is not given"


@pytest.mark.parametrize(
    ("order", "says"),
    [
        ({"sum": 3}, "order.sum: the tool does not take it"),
        ({"amount": 3, "too": "bob"}, "order.too: the tool does not take it"),
        ({"amount": 3, "lines": [{"number": 1, "memmo": "x"}]}, "order.lines.0.memmo: the tool does not take it"),
        ({"amount": 3, "code": "b"}, 'order.code: it would become "B"'),
        ({"amount": 501}, "outside the scope"),
        ({"amount": float("nan")}, "amount: Input should be a finite number"),
    ],
)
async def test_a_change_that_would_become_another_is_refused_and_the_run_waits_on(
    desk: Desk, order: dict[str, Any], says: str
) -> None:
    within_500 = (AtMost(argument="order.amount", limit=500),)  # type: ignore[arg-type]
    scope = AgentScope(tools=(Rule(tool="pay", permission=Permission.ASK, when=within_500),))
    payer = Payer(scope, sum=50, to="bob")
    run = await desk.start(payer.flow)
    await run.answer({"approved": True, "arguments": json.dumps({"order": order})})
    [wait] = [wait for wait in await run.open_waits() if wait.refused]
    assert "arguments of pay: " in wait.refused
    assert says in wait.refused
    await run.answer({"approved": True, "arguments": '{"order": {"amount": "4"}}'})
    assert await run.result() == "done"
    assert [one.amount for one in payer.done] == [4]


class Payment(BaseModel):
    amount: Decimal = Decimal(5)
    rate: float = 1
    ref: Annotated[str, AfterValidator(lambda written: written.lstrip("0") or "0")] = "7"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"to": "ada", "to": "ben"}', "arguments: 'to' stands there twice"),
        ('{"payment": {"ref": "1", "rate": 2, "ref": "2"}}', "arguments: 'ref' stands there twice"),
        ('{"payment": {"amount": 12345678901234567.89}}', "12345678901234567.89 would become 1.2345678901234568e+16"),
        ('{"payment": {"rate": 0.1000000000000000055511}}', "0.1000000000000000055511 would become 0.1"),
        ('{"payment": {"rate": 1e400}}', "1e400 would become inf"),
        ('{"payment": {"rate": 1e-99999999999999999999}}', "1e-99999999999999999999 would become 0.0"),
        ('{"payment": {"ref": "0070"}}', 'payment.ref: it would become "70"'),
    ],
)
async def test_a_change_that_would_be_misread_is_refused_and_the_run_waits_on(desk: Desk, text: str, says: str) -> None:
    """By who reads the JSON text, or by the tool."""
    script = Script(call("pay"), "done")
    thinker: Agent[None, str] = Agent(script.model, name="payer")
    done: list[tuple[Payment, str]] = []

    @thinker.tool_plain
    async def pay(payment: Payment = Payment(), to: str = "eve") -> str:  # noqa: B008
        done.append((payment, to))
        return "paid"

    @agent
    async def paying() -> str | None:
        return (await run_agent(thinker, "pay", scope=ask("pay"))).output

    run = await desk.start(paying)
    await run.answer({"approved": True, "arguments": text})
    [wait] = await run.open_waits()
    assert says in (wait.refused or "")
    exact = '{"payment": {"amount": "12345678901234567.89", "rate": 1.50, "ref": "70"}, "to": "ben"}'
    await run.answer({"approved": True, "arguments": exact})
    assert await run.result() == "done"
    assert done == [(Payment(amount=Decimal("12345678901234567.89"), rate=1.5, ref="70"), "ben")]


class Typed(TypedDict):
    amount: Annotated[int, Field(alias="sum")]


async def test_what_cannot_be_called_by_the_names_that_are_shown_is_refused_and_can_be_approved_as_it_is(
    desk: Desk,
) -> None:
    """Python does not keep the other names of a dictionary's keys."""
    script = Script(call("pay", order={"sum": 50}, to="ada"), "done")
    thinker: Agent[None, str] = Agent(script.model, name="payer")

    @thinker.tool_plain
    async def pay(order: Typed, to: str) -> str:
        return f"{order['amount']} to {to}"

    @agent
    async def paying() -> str | None:
        return (await run_agent(thinker, "pay", scope=ask("pay"))).output

    run = await desk.start(paying)
    for order in ({"amount": 3}, {"sum": 3}):
        await run.answer({"approved": True, "arguments": json.dumps({"order": order, "to": "ben"})})

        async def refused(written: str = next(iter(order))) -> bool:
            return any(f"order.{'amount' if written == 'sum' else 'sum'}" in (one.refused or "")
                       for one in await run.open_waits())  # fmt: skip

        await wait_until(refused)
    await run.answer({"approved": True})
    assert await run.result() == "done"
    assert script.told() == [("pay", "50 to ada", "success")]


class Job(BaseModel):
    id: str = Field(default_factory=lambda: uuid4().hex)
    n: int = 1


today = [date(2026, 1, 2)]


@pytest.mark.parametrize("change", [False, True])
async def test_defaults_that_are_made_up_are_settled_when_they_are_asked_about(
    desk: Desk, interruption: Interruption, change: bool
) -> None:
    done: list[tuple[Job, date, list[Job]]] = []
    script = Script(ToolCallPart("go", {"job": {"n": 3}, "all_of": [{}]}), "done")
    thinker: Agent[None, str] = Agent(script.model, name="goer")

    @thinker.tool_plain
    async def go(
        job: Job,
        all_of: list[Job],
        on: Annotated[date, Field(default_factory=lambda: today[0])],
    ) -> str:
        interruption()
        done.append((job, on, all_of))
        return "gone"

    @agent
    async def going() -> str | None:
        return (await run_agent(thinker, "go", scope=ask("go"))).output

    run = await desk.start(going)
    [wait] = await run.open_waits()
    today[0] += timedelta(days=1)
    assert run.attempt is not None
    run.attempt.cancel()
    await asyncio.wait([run.attempt])
    run.begin()
    shown = json.loads(wait.evidence[wait.evidence.index("{") : wait.evidence.rindex("}") + 1].replace("\n> ", "\n"))
    if change:
        left_out = {**shown, "job": {"n": 4}}
        await run.answer({"approved": True, "arguments": json.dumps(left_out)})
        assert (await run.open_waits())[0].evidence == wait.evidence
        [wait] = [wait for wait in await run.open_waits() if wait.refused]
        assert "job.id: it is another one each time" in wait.refused
        shown["job"]["n"] = 4
    await run.answer({"approved": True, "arguments": json.dumps(shown) if change else ""})
    with pytest.raises(Interrupted):
        await run.result()
    assert await run.again() == "done"
    [(job, on, all_of)] = done
    told = {"job": job.model_dump(), "all_of": [one.model_dump() for one in all_of], "on": on.isoformat()}
    assert told == shown
    assert script.told() == [("go", "gone", "success")]
    assert len(await run.waits()) == 1
