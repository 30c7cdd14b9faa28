"""A scope that is edited between two attempts of a run: what people said counts for the calls that they were shown."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic_ai import Agent
from sqlalchemy import update

from standby import agent, step
from standby.agents import AgentScope, Asking, AtStop, OneOf, Permission, Rule, run_agent, waits
from standby.ledger.tables import Wait, table_of
from standby.waiting import wait_for
from standby.waits import Signal
from tests.agents.conftest import Script, allow, ask, call
from tests.fundamentals.conftest import Desk, Interrupted, Interruption, Run
from tests.support.waiting import wait_until

ALLOW, ASK, DENY = Permission.ALLOW, Permission.ASK, Permission.DENY


def scope_of(**permissions: Permission) -> AgentScope:
    """Each of these tools with one permission for the calls here; to others they stay open, and so shown."""
    here = (OneOf(argument="to", values=("ada", "ben")),)  # type: ignore[arg-type]
    return AgentScope(
        tools=(
            *(Rule(tool=tool, permission=one, when=here) for tool, one in permissions.items()),
            *(Rule(tool=tool, permission=ASK) for tool in permissions),
        )
    )


class Two:
    """An agent that is to call ``first`` and ``second`` in one answer; the first attempt ends in one of them."""

    def __init__(self, interruption: Interruption, scope: AgentScope, *, ends_in: str) -> None:
        self.acted: list[str] = []
        self.scope = scope
        self.script = Script([call("first", to="ada"), call("second", to="ben")], "done")
        self.thinker: Agent[None, str] = Agent(self.script.model, name="mailer")

        @self.thinker.tool_plain(sequential=True)
        async def first(to: str) -> str:
            if ends_in == "first":
                interruption()
            self.acted.append("first")
            return to

        @self.thinker.tool_plain(sequential=True)
        async def second(to: str) -> str:
            if ends_in == "second":
                interruption()
            self.acted.append("second")
            return to

        async def read() -> AgentScope:
            return self.scope

        async def mailing() -> str | None:
            return (await run_agent(self.thinker, "write", scope=read)).output

        self.flow = agent(mailing)

    async def interrupted(self, desk: Desk, answer: dict[str, Any]) -> Run:
        """Its run, after people gave this answer and the first attempt has ended."""
        run = await desk.start(self.flow)
        await run.answer(answer)
        with pytest.raises(Interrupted):
            await run.result()
        return run

    @property
    def outcomes(self) -> dict[str, str]:
        return {tool: outcome for tool, _, outcome in self.script.told()}


async def test_what_is_denied_since_is_denied_and_the_other_call_goes_on_as_approved(
    desk: Desk, interruption: Interruption
) -> None:
    two = Two(interruption, ask("first", "second"), ends_in="first")
    run = await two.interrupted(desk, {"approved": True})
    two.scope = scope_of(first=ASK, second=DENY)
    assert await run.again() == "done"
    assert two.acted == ["first"]
    assert two.outcomes == {"first": "success", "second": "denied"}
    assert len(await run.waits()) == 1


async def test_a_refusal_stays_with_the_call_that_was_refused(desk: Desk, interruption: Interruption) -> None:
    """Also when it is the only one left that is asked about, and stands where the approved one stood."""
    two = Two(interruption, ask("first", "second"), ends_in="first")
    run = await two.interrupted(desk, {"approved": True, "refuse_2": True, "reason_2": "never to Ben"})
    two.scope = scope_of(first=DENY, second=ASK)
    assert await run.again() == "done"
    assert two.acted == []
    assert ("second", "A person refused this call. never to Ben", "denied") in two.script.told()


async def test_an_approval_does_not_count_for_a_call_that_was_not_shown(desk: Desk, interruption: Interruption) -> None:
    """The scope had denied it, and asks about it now, and denies what was approved: it is asked about by itself."""
    two = Two(interruption, scope_of(first=ASK, second=DENY), ends_in="first")
    two.thinker._function_toolset.tools["second"].requires_approval = True  # is denied without leaving a trace
    run = await two.interrupted(desk, {"approved": True})
    two.scope = scope_of(first=DENY, second=ASK)
    run.begin()
    [wait] = await run.open_waits()
    assert wait.key == "mailer/1.asks.2"
    assert '"ben"' in wait.evidence
    assert two.acted == []
    await run.answer({"approved": False})
    assert await run.result() == "done"
    assert two.acted == []


async def test_a_call_that_acted_is_told_as_what_it_came_to_whatever_the_scope_says_then(
    desk: Desk, interruption: Interruption
) -> None:
    two = Two(interruption, ask("first", "second"), ends_in="second")
    run = await two.interrupted(desk, {"approved": True})
    assert two.acted == ["first"]
    two.scope = scope_of(first=DENY, second=ASK)
    assert await run.again() == "done"
    assert two.acted == ["first", "second"]
    assert two.outcomes == {"first": "success", "second": "success"}


async def test_what_was_answered_before_numbers_were_kept_counts_where_it_is_clear(
    desk: Desk, interruption: Interruption
) -> None:
    two = Two(interruption, ask("first", "second"), ends_in="first")
    run = await two.interrupted(desk, {"approved": True})
    [wait] = await run.waits()
    waits = table_of(Wait)
    before = json.dumps([shown[-4:] for shown in json.loads(wait.fresh)])
    async with desk.ledger.runs._db.transaction() as connection:
        await connection.execute(update(waits).where(waits.c.id == wait.id).values(fresh=before))
    assert await run.again() == "done"
    assert two.acted == ["first", "second"]
    assert len(await run.waits()) == 1


class Orders:
    """An agent whose tool waits for a word, and then orders: held in its process, as it has no deployment."""

    def __init__(self, scope: AgentScope, **options: Any) -> None:
        self.acted: list[str] = []
        self.scope = scope
        self.script = Script(call("order", what="desk"), "done")
        self.thinker: Agent[None, str] = Agent(self.script.model, name="buyer")
        acted = self.acted

        @step(effect="once", visible=False)
        async def look_up(what: str) -> str:
            acted.append(f"looked up {what}")
            return what

        @step(effect="once", visible=False)
        async def buy(what: str) -> str:
            acted.append(f"bought {what}")
            return what

        @self.thinker.tool_plain
        @waits
        async def order(what: str) -> str:
            await look_up(what)
            with suppress(Exception):
                await wait_for(Signal("go", of=str))
            with suppress(Exception):
                await buy(what)
            return "ordered"

        async def read() -> AgentScope:
            return self.scope

        async def ordering() -> list[str | None]:
            found = await run_agent(self.thinker, "order", scope=read, **options)
            return [found.output, found.stopped]

        self.flow = agent(ordering)


async def test_a_tool_that_waited_in_the_process_goes_no_further_when_the_scope_denies_it(desk: Desk) -> None:
    orders = Orders(allow("order"))
    run = await desk.start(orders.flow)
    await run.paused()
    orders.scope = AgentScope(tools=(*allow("order").tools, Rule(tool="order", permission=DENY, when=(
        OneOf(argument="what", values=("desk",)),))))  # type: ignore[arg-type]  # fmt: skip
    await desk.signal("go", "now")
    assert await run.result() == ["done", None]
    assert orders.acted == ["looked up desk"]
    [(_, said, outcome)] = orders.script.told()
    assert (outcome, "denies" in said) == ("denied", True)


async def test_a_tool_that_waited_in_the_process_is_asked_about_when_the_scope_asks(desk: Desk) -> None:
    """And goes on from where it was when that is approved."""
    orders = Orders(allow("order"))
    run = await desk.start(orders.flow)
    await run.paused()
    orders.scope = ask("order")
    await desk.signal("go", "now")
    await run.answer({"approved": True}, key="buyer/1.asks")
    assert await run.result() == ["done", None]
    assert orders.acted == ["looked up desk", "bought desk"]
    assert len(await run.waits()) == 2


async def test_a_tool_that_is_asked_about_half_way_and_refused_goes_no_further(desk: Desk) -> None:
    orders = Orders(allow("order"))
    run = await desk.start(orders.flow)
    await run.paused()
    orders.scope = ask("order")
    await desk.signal("go", "now")
    await run.answer({"approved": False}, key="buyer/1.asks")
    assert await run.result() == ["done", None]
    assert orders.acted == ["looked up desk"]


async def test_a_tool_that_waited_in_the_process_stops_where_a_person_says_so(desk: Desk) -> None:
    orders = Orders(allow("order"))
    run = await desk.start(orders.flow)
    await run.paused()
    await desk.signal("agent.stop", "enough", key=run.id)
    await desk.signal("go", "now")
    assert await run.result() == [None, "person"]
    assert orders.acted == ["looked up desk"]


async def test_a_tool_that_waited_in_the_process_past_the_deadline_goes_no_further(desk: Desk) -> None:
    orders = Orders(allow("order", at_stop=AtStop.FINISH))
    run = await desk.start(orders.flow)
    await run.paused()
    orders.scope = allow("order", at_stop=AtStop.FINISH, deadline=datetime.now(UTC))
    await desk.signal("go", "now")
    assert await run.result() == [None, "deadline"]
    assert orders.acted == ["looked up desk"]


async def test_a_tool_that_waited_in_the_process_is_rechecked_before_it_goes_on(desk: Desk) -> None:
    revoked: list[str] = []

    async def recheck() -> None:
        if revoked:
            raise PermissionError("the key was revoked")

    orders = Orders(allow("order"), recheck=recheck)
    run = await desk.start(orders.flow)
    await run.paused()
    revoked.append("key")
    await desk.signal("go", "now")
    with pytest.raises(PermissionError, match="revoked"):
        await run.result()
    assert orders.acted == ["looked up desk"]
    revoked.clear()
    assert await run.again() == ["done", None]
    assert orders.acted == ["looked up desk", "bought desk"]


async def test_an_approval_that_grew_too_old_while_the_tool_waited_does_not_do(desk: Desk) -> None:
    orders = Orders(ask("order"))
    run = await desk.start(orders.flow)
    await run.answer({"approved": True})

    async def waits_for_go() -> bool:
        return any(wait.topic == "go" for wait in await run.open_waits())

    await wait_until(waits_for_go)
    orders.scope = ask("order", asking=Asking(max_age=timedelta(microseconds=1)))
    await desk.signal("go", "now")
    assert await run.result() == ["done", None]
    assert orders.acted == ["looked up desk"]
    assert "older than" in orders.script.told()[0][1]


async def test_an_agent_in_a_tool_goes_no_further_when_the_scope_around_denies_the_tool(desk: Desk) -> None:
    """What the wider scope says ends the tool, and is no stop of the agent in it."""
    orders = Orders(allow("order"))
    outer = Script(call("delegate"), "over")
    boss: Agent[None, str] = Agent(outer.model, name="boss")
    scope = allow("delegate")

    @boss.tool_plain
    @waits
    async def delegate() -> str:
        return str((await run_agent(orders.thinker, "order", scope=allow("order"))).output)

    async def read() -> AgentScope:
        return scope

    @agent
    async def working() -> list[str | None]:
        found = await run_agent(boss, "delegate", scope=read)
        return [found.output, found.stopped]

    run = await desk.start(working)
    await run.paused()
    scope = allow("other")
    await desk.signal("go", "now")
    assert await run.result() == ["over", None]
    assert orders.acted == ["looked up desk"]
    assert "boss/1.1.delegate/buyer/end" not in await run.journal()
