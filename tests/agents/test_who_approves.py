"""Who approves is the scope's to say when an answer is taken in."""

from typing import Any

import pytest
from pydantic_ai import Agent

from standby import agent
from standby.agents import AgentScope, Asking, AtStop, Budget, run_agent
from standby.errors import NotAllowed
from standby.policy import Policy
from tests.agents.conftest import Script, allow, ask, call
from tests.fundamentals.conftest import Desk
from tests.support.waiting import wait_until


class Mail:
    """An agent that is to send one mail, in a scope that is read anew."""

    def __init__(self, scope: AgentScope) -> None:
        self.sent: list[str] = []
        self.scope = scope
        self.script = Script(call("send", to="ben"), "done")
        self.thinker: Agent[None, str] = Agent(self.script.model, name="mailer")

        @self.thinker.tool_plain
        async def send(to: str) -> str:
            self.sent.append(to)
            return "sent"

        async def read() -> AgentScope:
            return self.scope

        async def mailing() -> str | None:
            return (await run_agent(self.thinker, "write", scope=read)).output

        self.flow = agent(mailing)


@pytest.mark.parametrize("cold", [False, True])
async def test_who_approves_is_the_scopes_to_say_when_the_answer_is_taken_in(desk: Desk, cold: bool) -> None:
    """An answer that was enough when the question was asked counts by today's policy, and the question stays open."""
    mail = Mail(ask("send", asking=Asking(party="interns", policy=Policy(approvers=("ivy", "fay")))))
    run = await desk.start(mail.flow)
    [before] = await run.open_waits()
    if cold:
        assert run.attempt is not None
        run.attempt.cancel()
        with pytest.raises(BaseException):  # noqa: B017 - however Prefect ends a cancelled attempt
            await run.attempt
        await run.answer_to(before, {"approved": True}, actor="fay")
    two = Policy(quorum=2, approvers=("fay", "finn"))
    mail.scope = ask("send", asking=Asking(party="finance", policy=two))
    if cold:
        run.begin()
    else:
        await run.answer_to(before, {"approved": True}, actor="fay")

    async def is_asked_on() -> Any:
        return next((wait for wait in await run.open_waits() if wait.refused), None)

    wait = await wait_until(is_asked_on)
    assert (wait.id, wait.opening, wait.party) == (before.id, before.opening, "finance")
    assert mail.sent == []
    with pytest.raises(NotAllowed, match="ivy is not among"):
        await run.answer_to(wait, {"approved": True}, actor="ivy")
    await run.answer_to(wait, {"approved": True}, actor="finn")
    assert await run.result() == "done"
    assert mail.sent == ["ben"]
    [grant] = await desk.ledger.grants.of_run(run.id)
    assert grant.approver == "fay, finn"


async def test_who_may_not_approve_any_more_has_not_approved(desk: Desk) -> None:
    mail = Mail(ask("send", asking=Asking(policy=Policy(approvers=("ivy",)))))
    run = await desk.start(mail.flow)
    await run.open_waits()
    mail.scope = ask("send", asking=Asking(policy=Policy(approvers=("fay",))))
    await run.answer({"approved": True}, actor="ivy")

    async def is_asked_on() -> Any:
        return next((wait for wait in await run.open_waits() if wait.refused), None)

    await run.answer_to(await wait_until(is_asked_on), {"approved": False}, actor="fay")
    assert await run.result() == "done"
    assert mail.sent == []
    decisions = await desk.ledger.waits.decisions_of(run.id)
    assert [(one.actor, one.verdict) for one in decisions] == [("ivy", "refused"), ("fay", "won")]


async def test_other_people_are_not_asked_about_a_call_that_is_denied_by_now(desk: Desk) -> None:
    mail = Mail(ask("send", asking=Asking(policy=Policy(approvers=("ivy",)))))
    run = await desk.start(mail.flow)
    await run.open_waits()
    mail.scope = AgentScope(asking=Asking(policy=Policy(approvers=("fay",))))
    await run.answer({"approved": True}, actor="ivy")
    assert await run.result() == "done"
    assert mail.sent == []
    assert mail.script.told() == [("send", "The tool 'send' is outside the scope.", "denied")]
    [wait] = await run.waits()
    assert (wait.state, wait.refused) == ("settled", None)
    assert await desk.ledger.grants.of_run(run.id) == []


async def test_an_answer_that_is_enough_by_the_new_policy_too_counts(desk: Desk) -> None:
    mail = Mail(ask("send"))
    run = await desk.start(mail.flow)
    await run.open_waits()
    mail.scope = ask("send", asking=Asking(policy=Policy(approvers=("fay",))))
    await run.answer({"approved": True}, actor="fay")
    assert await run.result() == "done"
    assert mail.sent == ["ben"]


async def test_who_grants_more_is_the_scopes_to_say_when_the_answer_is_taken_in(desk: Desk) -> None:
    def scope_for(name: str) -> AgentScope:
        asking = Asking(policy=Policy(approvers=(name,)))
        return allow("send", budget=Budget(tool_calls=0), at_stop=AtStop.ASK, asking=asking)

    mail = Mail(scope_for("ivy"))
    run = await desk.start(mail.flow)
    await run.open_waits()
    mail.scope = scope_for("fay")
    await run.answer({"approved": True, "amount": 5}, actor="ivy")

    async def is_asked_on() -> Any:
        return next((wait for wait in await run.open_waits() if wait.refused), None)

    await run.answer_to(await wait_until(is_asked_on), {"approved": True, "amount": 1}, actor="fay")
    assert await run.result() == "done"
    assert mail.sent == ["ben"]
