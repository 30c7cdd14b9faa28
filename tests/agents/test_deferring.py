"""Tools that defer their result, wait, or ask a person a question."""

import json
from datetime import timedelta
from typing import Any

import pytest
from pydantic_ai import Agent, ApprovalRequired, CallDeferred, RunContext
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import ExternalToolset

from standby import agent, idempotency_key
from standby.agents import Spent, ask_human, run_agent, waits
from standby.doors import wake_run
from standby.errors import AnswerRefused
from standby.states import Door, Outcome
from standby.waiting import wait_for
from standby.waits import Signal
from tests.agents.conftest import Script, allow, ask, call
from tests.fundamentals.conftest import Desk, Interruption
from tests.support.waiting import wait_until


async def test_a_tool_may_require_an_approval_itself_or_for_some_arguments(desk: Desk) -> None:
    """Also where the scope allows it; all are asked about in the same wait."""
    script = Script([call("always", n=1), call("large", n=2), call("large", n=200)], "done")
    done: list[Any] = []
    thinker: Agent[None, str] = Agent(script.model, name="thinker")

    @thinker.tool_plain(requires_approval=True)
    async def always(n: int) -> int:
        done.append(n)
        return n

    @thinker.tool
    async def large(ctx: RunContext[None], n: int) -> int:
        if n > 100 and not ctx.tool_call_approved:
            raise ApprovalRequired({"why": "it is over 100"})
        done.append(n)
        return n

    @agent
    async def working() -> str | None:
        return (await run_agent(thinker, "work", scope=allow("always", "large"))).output

    run = await desk.start(working)
    [wait] = await run.open_waits()
    assert wait.reason == "May thinker make these 2 calls?"
    assert "it is over 100" in wait.evidence
    assert "The tool asks for an approval of this call." in wait.evidence
    assert "under 'allow'" not in wait.evidence
    assert done == [2]
    await run.answer({"approved": True})
    assert await run.result() == "done"
    assert sorted(done) == [1, 2, 200]


async def test_a_deferred_tool_waits_for_the_signal_that_brings_its_result(
    desk: Desk, interruption: Interruption
) -> None:
    started: list[str] = []
    script = Script([call("render", page="a"), call("render", page="b")], "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker")

    @thinker.tool_plain
    async def render(page: str) -> str:
        started.append(page)
        raise CallDeferred({"topic": "rendered", "key": page})

    @agent
    async def working() -> str | None:
        return (await run_agent(thinker, "render", scope=allow("render"))).output

    run = await desk.start(working)
    assert [(wait.topic, wait.correlation) for wait in await run.open_waits()] == [("rendered", "a"), ("rendered", "b")]
    await desk.signal("rendered", {"url": "/b"}, key="b")
    await desk.signal("rendered", {"url": "/a"}, key="a")
    assert await run.result() == "done"
    assert started == ["a", "b"]
    assert [content for _, content, _ in script.told()] == [{"url": "/a"}, {"url": "/b"}]


async def test_a_tool_may_wait_and_a_person_may_be_asked_a_question(desk: Desk) -> None:
    script = Script(
        call("ask_human", question=" \n"),
        [call("ask_human", question="Which *one*?\n```"), call("order", item="desk")], "done",
    )  # fmt: skip
    thinker: Agent[None, str] = Agent(script.model, name="thinker", tools=[ask_human(party="buyers")])
    spent: list[Spent] = []

    @thinker.tool_plain
    @waits
    async def order(item: str) -> str:
        delivered = await wait_for(Signal("delivered", key=item, of=str))
        return f"{item}: {delivered}"

    @agent
    async def working() -> str | None:
        found = await run_agent(thinker, "order", scope=allow("ask_human", "order"))
        spent.append(found.spent)
        return found.output

    run = await desk.start(working)
    [wait] = await run.open_waits()
    assert (wait.key, wait.party, wait.reason) == ("thinker/2.1.ask_human/approval", "buyers", "Which *one*? ```")
    assert wait.evidence == "````text\nWhich *one*?\n```\n````"
    with pytest.raises(AnswerRefused, match="answer: "):
        await run.answer({"answer": ""})
    await run.answer({"answer": "the blue one"})
    await desk.signal("delivered", "on Friday", key="desk")
    assert await run.result() == "done"
    assert [content for _, content, _ in script.told()] == ["The question is empty.", "the blue one", "desk: on Friday"]
    waited = sum(((one.settled_at - one.opened_at) for one in await run.waits()), timedelta(0))
    assert spent[0].wall >= waited
    assert spent[0].running < spent[0].wall - waited / 2, "to wait is not to be at work"


@pytest.mark.parametrize("named", [True, False], ids=["named", "by its key"])
async def test_an_approved_call_that_defers_waits_for_its_result_as_any_other(
    desk: Desk, interruption: Interruption, named: bool
) -> None:
    """Two of them, and a crash after the first has come."""
    script = Script([call("render", page="a"), call("render", page="b")], lambda _: interruption() or "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker")
    started: dict[str, str] = {}

    @thinker.tool_plain
    async def render(page: str) -> str:
        started[page] = idempotency_key()
        raise CallDeferred({"topic": "rendered", "key": page} if named else None)

    @agent
    async def rendering() -> tuple[str | None, int]:
        found = await run_agent(thinker, "go", scope=ask("render"))
        return found.output, found.spent.tool_calls

    run = await desk.start(rendering)
    await run.answer({"approved": True})
    for page in ("a", "b"):
        assert len(await run.open_waits()) == 1
        where = ("rendered", page) if named else ("tool.render", started[page])
        await desk.signal(where[0], f"{page}.pdf", key=where[1])
    with pytest.raises(Exception, match="first attempt ends"):
        await run.result()
    assert await run.again() == ("done", 2)
    assert script.told() == [("render", "a.pdf", "success"), ("render", "b.pdf", "success")]
    assert len(await run.waits()) == 3


async def test_a_tool_that_asks_again_after_it_was_approved_is_a_failure_that_the_model_is_told(desk: Desk) -> None:
    script = Script(call("go"), "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker")

    @thinker.tool_plain
    async def go() -> str:
        raise ApprovalRequired({"why": "really"})

    @agent
    async def going() -> str | None:
        return (await run_agent(thinker, "go", scope=ask("go"))).output

    run = await desk.start(going)
    await run.answer({"approved": True})
    assert await run.result() == "done"
    [(_, said, outcome)] = script.told()
    assert (outcome, "asked to be approved again" in said) == ("failed", True)


async def test_a_result_that_never_comes_is_told_to_the_model(desk: Desk) -> None:
    script = Script(call("render"), "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker")

    @thinker.tool_plain
    async def render() -> str:
        raise CallDeferred({"within_seconds": 0.05})

    @agent
    async def working() -> str | None:
        return (await run_agent(thinker, "render", scope=allow("render"))).output

    run = await desk.start(working)
    assert await run.result() == "done"
    [wait] = await run.waits()
    assert (wait.topic, wait.correlation) == ("tool.render", f"{run.id}/thinker/1.1.render")
    assert script.told() == [("render", "Nobody delivered its result in time.", "failed")]


@pytest.mark.parametrize("several", [False, True])
async def test_the_arguments_of_a_call_that_others_make_cannot_be_changed(desk: Desk, several: bool) -> None:
    """They have what the model gave: no form offers more, and what comes all the same is refused, not left out."""
    script = Script([call("ship", to="ada"), *([call("note", text="hello")] if several else [])], "done")
    schema = {"type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"]}
    outside: Any = ExternalToolset([ToolDefinition(name="ship", parameters_json_schema=schema)])
    thinker: Agent[None, str] = Agent(script.model, name="thinker", toolsets=[outside])

    @thinker.tool_plain
    async def note(text: str) -> str:
        return text

    @agent
    async def working() -> str | None:
        return (await run_agent(thinker, "ship", scope=ask("ship", "note"))).output

    run = await desk.start(working)
    [wait] = await run.open_waits()
    [ship] = [n for n, one in enumerate(json.loads(wait.fresh), start=1) if "ship" in one]
    ships, notes = (f"arguments_{ship}", f"arguments_{3 - ship}") if several else ("arguments", None)
    offered = {name for name in json.loads(wait.answer_schema)["properties"] if name.startswith("arguments")}
    assert offered == ({notes} if several else set())
    changed = {"approved": True, ships: '{"to": "ben"}'}
    with pytest.raises(AnswerRefused, match=f"{ships}: the form has no such field"):
        await run.answer(changed)
    settled = await desk.ledger.waits.settle(
        wait.id, outcome=Outcome.ANSWERED, answer=json.dumps(changed), door=Door.TERMINAL, actor="ada"
    )
    assert settled is not None
    await wake_run(run.id, settled.wake_address, desk.url)

    async def refused() -> Any:
        return next((one for one in await run.open_waits() if one.refused), None)

    assert (await wait_until(refused)).refused.startswith(f"{ships} of ship: its arguments cannot be changed")
    await run.answer({"approved": True, **({notes: '{"text": "hi"}'} if notes else {})})

    async def shipping() -> Any:
        return next((one for one in await run.open_waits() if one.topic == "tool.ship"), None)

    result = await wait_until(shipping)
    await desk.signal(result.topic, "shipped", key=result.correlation)
    assert await run.result() == "done"
    told = [("note", "hi", "success")] if several else []
    assert sorted(script.told()) == [*told, ("ship", "shipped", "success")]
