"""Tools that were cut off in an attempt, and that the scope asks about by then."""

import pytest
from pydantic_ai import Agent

from standby import agent, step
from standby.agents import AgentScope, run_agent, waits
from tests.agents.conftest import Script, allow, ask, call
from tests.fundamentals.conftest import Desk, Interruption, Run
from tests.support.waiting import wait_until


class Once:
    """An agent whose tool is a ``once`` step, in which the first attempt ends; the scope allowed it then, and asks now.

    ``probes``: what a probe says, if there is one.
    """

    def __init__(self, interruption: Interruption, *, probes: list[str | None] | None = None) -> None:
        self.sent: list[str] = []
        self.scope = allow("send")
        self.script = Script(call("send", to="ben"), "done")

        async def probe(to: str) -> str | None:
            assert probes is not None
            return probes[0]

        @step(effect="once", visible=False, probe=None if probes is None else probe)
        async def send(to: str) -> str:
            self.sent.append(to)
            interruption()
            return "sent"

        self.thinker: Agent[None, str] = Agent(self.script.model, name="mailer", tools=[send])

        async def read() -> AgentScope:
            return self.scope

        async def mailing() -> str | None:
            return (await run_agent(self.thinker, "write", scope=read)).output

        self.flow = agent(mailing)

    async def asked_now(self, desk: Desk) -> Run:
        run = await desk.interrupted(self.flow)
        self.scope = ask("send")
        run.begin()
        return run


async def test_what_was_cut_off_and_is_asked_about_now_may_have_happened(
    desk: Desk, interruption: Interruption
) -> None:
    once = Once(interruption)
    run = await once.asked_now(desk)
    await run.answer({"happened": True, "result": '"sent, says Ada"'}, key="mailer/1.1.send/send?1")
    assert await run.result() == "done"
    assert once.sent == ["ben"]
    assert once.script.told() == [("send", "sent, says Ada", "success")]
    assert len(await run.waits()) == 1, "nobody approves what has happened"


@pytest.mark.parametrize(("approved", "sent"), [(True, ["ben", "ben"]), (False, ["ben"])])
async def test_what_was_cut_off_and_did_not_happen_is_asked_about(
    desk: Desk, interruption: Interruption, approved: bool, sent: list[str]
) -> None:
    once = Once(interruption)
    run = await once.asked_now(desk)
    await run.answer({"happened": False}, key="mailer/1.1.send/send?1")
    await run.answer({"approved": approved}, key="mailer/1.asks")
    assert await run.result() == "done"
    assert once.sent == sent


async def test_a_probe_says_whether_what_was_cut_off_happened(desk: Desk, interruption: Interruption) -> None:
    once = Once(interruption, probes=["sent before"])
    run = await once.asked_now(desk)
    assert await run.result() == "done"
    assert once.sent == ["ben"]
    assert once.script.told() == [("send", "sent before", "success")]


async def test_what_a_probe_does_not_find_is_asked_about(desk: Desk, interruption: Interruption) -> None:
    once = Once(interruption, probes=[None])
    run = await once.asked_now(desk)
    await run.answer({"approved": True}, key="mailer/1.asks")
    assert await run.result() == "done"
    assert once.sent == ["ben", "ben"]


async def test_a_tool_of_several_steps_that_was_cut_off_is_asked_about_before_it_goes_on(
    desk: Desk, interruption: Interruption
) -> None:
    acted: list[str] = []
    scope = allow("send")
    script = Script(call("send", to="ben"), "done")
    thinker: Agent[None, str] = Agent(script.model, name="mailer")

    @step(effect="once", visible=False)
    async def write(to: str) -> str:
        acted.append("written")
        interruption()
        return "letter"

    @thinker.tool_plain
    @waits
    async def send(to: str) -> str:
        letter = await write(to)
        acted.append(f"sent {letter}")
        return "sent"

    async def read() -> AgentScope:
        return scope

    @agent
    async def mailing() -> str | None:
        return (await run_agent(thinker, "write", scope=read)).output

    run = await desk.interrupted(mailing)
    scope = ask("send")
    run.begin()
    await run.answer({"happened": True, "result": '"letter of before"'}, key="mailer/1.1.send/write?1")

    async def is_asked() -> bool:
        return any(wait.key == "mailer/1.asks" for wait in await run.open_waits())

    await wait_until(is_asked)
    assert acted == ["written"]
    await run.answer({"approved": True}, key="mailer/1.asks")
    assert await run.result() == "done"
    assert acted == ["written", "sent letter of before"]


async def test_a_once_step_as_a_tool_without_a_probe_asks_a_person_after_a_crash(
    desk: Desk, interruption: Interruption
) -> None:
    paid: list[int] = []

    @step(effect="once", visible=False)
    async def pay(amount: int) -> str:
        """Pay it."""
        paid.append(amount)
        interruption()
        return "receipt"

    script = Script(call("pay", amount=5), "done")
    thinker: Agent[None, str] = Agent(script.model, name="payer", tools=[pay])

    @agent
    async def paying() -> str | None:
        return (await run_agent(thinker, "pay", scope=allow("pay"))).output

    run = await desk.interrupted(paying)
    run.begin()
    [wait] = await run.open_waits()
    assert wait.key == "payer/1.1.pay/pay?1"
    await run.answer({"happened": True, "result": '"receipt 7"'})
    assert await run.result() == "done"
    assert paid == [5]
    assert script.told() == [("pay", "receipt 7", "success")]
