"""A scope that was handed on: whoever has it never has more than what it was handed on from says now."""

from typing import Any

import pytest
from pydantic_ai import Agent

from standby import agent
from standby.agents import AgentScope, Asking, AtStop, Budget, current_scope, run_agent, scope_named, waits
from standby.agents.block import AgentScope as Block
from standby.agents.names import for_people
from standby.agents.parts import of_scope
from standby.errors import ScopeStopped, UsageError
from standby.policy import Policy
from tests.agents.conftest import Script, allow, ask, call
from tests.agents.test_scope_changes import Orders
from tests.fundamentals.conftest import Desk
from tests.support.waiting import wait_until


async def test_an_agent_in_a_tool_has_no_more_than_the_one_around_it_has_now(desk: Desk) -> None:
    """What was handed on in the process before a wait is held to what the scope around says after it."""
    orders = Orders(allow("order"))
    boss: Agent[None, str] = Agent(Script(call("delegate"), "over").model, name="boss")
    scope = allow("delegate", "order")

    @boss.tool_plain
    @waits
    async def delegate() -> str:
        handed_on = (await current_scope()).narrowed(allow("order"))
        return str((await run_agent(orders.thinker, "order", scope=handed_on)).output)

    async def read() -> AgentScope:
        return scope

    @agent
    async def working() -> str | None:
        return (await run_agent(boss, "delegate", scope=read)).output

    run = await desk.start(working)
    await run.paused()
    scope = allow("delegate")
    await desk.signal("go", "now")
    assert await run.result() == "over"
    assert orders.acted == ["looked up desk"]
    assert orders.script.told()[0][2] == "denied"


@pytest.mark.parametrize("narrowed", [False, True], ids=["as it is", "narrowed"])
async def test_an_agent_that_another_run_has_started_has_no_more_than_that_ones_block_says_now(
    desk: Desk, narrowed: bool
) -> None:
    """Its scope is a value in its parameters, and the block that this was read from is edited while it waits."""
    block = Block(tools=list(allow("order").tools), asking=Asking(party="buyers"))
    with desk.prefect.model_copy():
        await block.asave("team", overwrite=True)
        handed_on = (await scope_named("team")()).model_copy(update={"purse": await purse_of_another(desk)})
    given = AgentScope.model_validate_json(handed_on.model_dump_json())
    orders = Orders(given.narrowed(allow("order")) if narrowed else given)
    run = await desk.start(orders.flow)
    await run.paused()
    with desk.prefect.model_copy():
        await Block(tools=list(ask("order").tools), asking=Asking(party="board")).asave("team", overwrite=True)
    await desk.signal("go", "now")

    async def asked() -> Any:
        return next((wait for wait in await run.open_waits() if wait.key == "buyer/1.asks"), None)

    assert (await wait_until(asked)).party == "board"
    assert orders.acted == ["looked up desk"]
    with desk.prefect.model_copy():
        await Block(tools=[]).asave("team", overwrite=True)
    await run.answer({"approved": True}, key="buyer/1.asks")
    assert await run.result() == ["done", None]
    assert orders.acted == ["looked up desk"]
    assert orders.script.told()[0][2] == "denied"


@pytest.mark.parametrize("gone", [False, True], ids=["other approvers", "no block"])
async def test_a_child_stops_where_what_it_may_do_now_cannot_be_told(desk: Desk, gone: bool) -> None:
    asking = [Asking(policy=Policy(approvers=(name,))) for name in ("ivy", "fay")]
    with desk.prefect.model_copy():
        await Block(tools=list(allow("order").tools), asking=asking[0]).asave("desk", overwrite=True)
        handed_on = await scope_named("desk")()
    orders = Orders(handed_on.narrowed(allow("order")))
    run = await desk.start(orders.flow)
    await run.paused()
    with desk.prefect.model_copy():
        if gone:
            await Block.adelete("desk")
        else:
            await Block(tools=list(allow("order").tools), asking=asking[1]).asave("desk", overwrite=True)
    await desk.signal("go", "now")
    with pytest.raises(ValueError if gone else UsageError, match="agent-scope" if gone else "no approver in common"):
        await run.result()
    assert orders.acted == ["looked up desk"]


async def purse_of_another(desk: Desk) -> str:
    """What an agent of another run has handed on; it has ended since."""
    purses: list[str | None] = []
    starter: Agent[None, str] = Agent(Script(call("hand_on"), "done").model, name="starter")

    @starter.tool_plain
    @waits
    async def hand_on() -> str:
        purses.append((await current_scope()).purse)
        return "x"

    @agent
    async def starting() -> str | None:
        return (await run_agent(starter, "go", scope=allow("hand_on"))).output

    await desk.run(starting)
    assert purses[0] is not None
    return purses[0]


def test_which_document_a_scope_was_read_from_is_no_change_of_it() -> None:
    """What a run has noted of its scope before documents were named stays the same."""
    before, named = (allow("order", block=one).narrowed(allow("order", block=one)) for one in (None, "team"))
    assert of_scope(named) == of_scope(before)
    assert of_scope(before) != of_scope(allow("order").narrowed(ask("order")))


async def test_people_are_asked_about_a_child_by_its_name_and_whom_it_works_for(desk: Desk) -> None:
    """Not by the key that it has in the journal; and so a stop names it."""
    boss: Agent[None, str] = Agent(Script(call("delegate"), "over").model, name="boss")
    child: Agent[None, str] = Agent(Script(call("act"), call("act"), "done").model, name="child")
    at_stop, stops = AtStop.ASK, list[str]()

    @child.tool_plain
    async def act() -> str:
        return "acted"

    @boss.tool_plain
    @waits
    async def delegate() -> str:
        handed_on = (await current_scope()).narrowed(ask("act", budget=Budget(steps=1), at_stop=AtStop.ASK))
        scope = lambda: handed_on.model_copy(update={"at_stop": at_stop})  # noqa: E731
        with pytest.raises(ScopeStopped) as stopped:
            await run_agent(child, "act", scope=scope)
        stops.append(str(stopped.value))
        return "stopped"

    @agent
    async def working() -> str | None:
        return (await run_agent(boss, "delegate", scope=allow("delegate", "act", at_stop=AtStop.ASK))).output

    run = await desk.start(working)
    [wait] = await run.open_waits()
    assert (wait.key, wait.reason) == (
        "boss/1.1.delegate/child/1.more.steps.1", "May child (for boss) spend more steps?"
    )  # fmt: skip
    await run.answer({"approved": True, "amount": 1})
    [wait] = await run.open_waits()
    assert (wait.key, wait.reason) == ("boss/1.1.delegate/child/1.asks", "May child (for boss) call act?")
    at_stop = AtStop.FAIL
    await run.answer({"approved": True})
    assert await run.result() == "over"
    [said] = stops
    assert said.startswith("Agent 'child (for boss)' was stopped by its scope: 2 of 2 steps are spent")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("mailer", "mailer"),
        ("mailer#2", "mailer#2"),
        ("top/1.1.delegate.approved/mid#2/12.3.hand:on/low", "low (for mid#2, for top)"),
    ],
)
def test_what_an_agent_is_called(key: str, name: str) -> None:
    assert for_people(key) == name
