"""A scope that is edited between two attempts of a run: what people said counts for the calls that they were shown."""

import json
from typing import Any

import pytest
from pydantic_ai import Agent
from sqlalchemy import update

from standby import agent
from standby.agents import AgentScope, OneOf, Permission, Rule, run_agent
from standby.ledger.tables import Wait, table_of
from tests.agents.conftest import Script, ask, call
from tests.fundamentals.conftest import Desk, Interrupted, Interruption, Run

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
