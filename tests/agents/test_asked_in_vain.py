"""What an earlier attempt has asked or waited for, when other calls are allowed by now."""

from typing import Any

import pytest
from pydantic_ai import Agent, CallDeferred

from standby import agent
from standby.agents import AgentScope, AtStop, Budget, Permission, Rule, run_agent, waits
from standby.agents.transcript import threads_of
from standby.waiting import wait_for
from standby.waits import Signal
from tests.agents.conftest import Script, allow, ask, call
from tests.agents.test_scope_changes import scope_of
from tests.fundamentals.conftest import Desk, Interrupted, Interruption, Run
from tests.support.waiting import wait_until

DENY = Permission.DENY
LISTEN = Rule(tool="listen", permission=Permission.ALLOW)


class Sender:
    """An agent that sends two mails and waits for a word, in one turn or in two. ``scope`` is read anew."""

    def __init__(self, scope: AgentScope, *lines: Any) -> None:
        self.scope = AgentScope(**(dict(scope) | {"tools": (*scope.tools, LISTEN)}))
        self.sent: list[str] = []
        self.script = Script(*lines, "done")
        self.thinker: Agent[None, str] = Agent(self.script.model, name="mailer")

        @self.thinker.tool_plain
        async def send(to: str) -> str:
            self.sent.append(to)
            return "sent"

        @self.thinker.tool_plain
        @waits
        async def listen() -> str:
            return await wait_for(Signal("word", of=str))

        async def read() -> AgentScope:
            return self.scope

        async def mailing() -> str | None:
            return (await run_agent(self.thinker, "write", scope=read)).output

        self.flow = agent(mailing)

    async def taken_up_again(
        self, desk: Desk, scope: AgentScope, *, after: str | None = None, answer: bool = False
    ) -> Run:
        """Its run, which has asked, in a new attempt, in which it waits for the word. ``after``: it has waited for the
        word with this key, which ``answer`` gives it."""
        run = await desk.start(self.flow)
        asked = await run.open_waits()
        assert after is None or asked[0].correlation == after
        assert run.attempt is not None
        run.attempt.cancel()
        with pytest.raises(BaseException):  # noqa: B017 - however Prefect ends a cancelled attempt
            await run.attempt
        if answer:
            await desk.signal("word", "for the first", key=after)
        self.scope = AgentScope(**(dict(scope) | {"tools": (*scope.tools, LISTEN)}))
        run.begin()

        async def listens() -> bool:
            return any(wait.topic == "word" for wait in await run.open_waits())

        await wait_until(listens, 30)
        return run


TWO = [call("send", to="ada"), call("send", to="ben")]


@pytest.mark.parametrize("denied", [scope_of(send=DENY), AgentScope()], ids=["these calls", "the tool"])
async def test_nobody_is_asked_on_about_calls_that_have_all_been_denied(desk: Desk, denied: AgentScope) -> None:
    sender = Sender(ask("send"), TWO, call("listen"))
    run = await sender.taken_up_again(desk, denied)
    assert await open_keys(run) == ["mailer/2.1.listen/word"]
    [question] = [wait for wait in await run.waits() if wait.key == "mailer/1.asks"]
    assert question.state == "closed"
    await desk.signal("word", "go")
    assert await run.result() == "done"
    assert sender.sent == []


async def test_nobody_is_asked_on_for_more_than_there_is_by_now(desk: Desk) -> None:
    tight = allow("send", budget=Budget(tool_calls=0), at_stop=AtStop.ASK)
    sender = Sender(tight, call("send", to="ada"), call("listen"))
    run = await sender.taken_up_again(desk, allow("send", budget=Budget(tool_calls=9), at_stop=AtStop.ASK))
    assert await open_keys(run) == ["mailer/2.1.listen/word"]
    await desk.signal("word", "go")
    assert await run.result() == "done"
    assert sender.sent == ["ada"]


async def test_nobody_is_asked_on_about_a_call_while_the_result_of_another_is_waited_for(desk: Desk) -> None:
    """The question of before is closed before the next wait of the same turn, however long that is."""
    sender = Sender(ask("send"), [call("send", to="ada"), call("fetch")], "done")

    @sender.thinker.tool_plain
    async def fetch() -> str:
        raise CallDeferred({"topic": "word"})

    sender.scope = AgentScope(tools=(*ask("send").tools, Rule(tool="fetch", permission=Permission.ALLOW)))
    run = await sender.taken_up_again(desk, AgentScope(tools=(*scope_of(send=DENY).tools, *allow("fetch").tools)))
    assert await open_keys(run) == ["mailer/1.results"]
    await desk.signal("word", "go", key=f"{run.id}/mailer/1.2.fetch")
    assert await run.result() == "done"
    assert sender.sent == []


class Renderer(Sender):
    """Two tools whose results others deliver."""

    def __init__(self, scope: AgentScope, *more: Any) -> None:
        super().__init__(scope, [call("draw", what="a"), call("print", what="b")], *more)
        self.started: list[str] = []
        for name in ("draw", "print"):
            self.thinker.tool_plain(name=name)(self._starts(name))

    def _starts(self, name: str) -> Any:
        async def start(what: str) -> str:
            self.started.append(name)
            raise CallDeferred({"topic": "word", "key": what})

        return start


DRAW, PRINT = allow("draw"), allow("print")


async def test_a_result_is_that_of_the_call_that_it_was_delivered_for(desk: Desk) -> None:
    """Also where another call of the turn is the only one that waits by now."""
    renderer = Renderer(DRAW)
    run = await renderer.taken_up_again(desk, PRINT, after="a")
    await wait_until(lambda: waits_for(run, "b"), 30)
    await desk.signal("word", "printed b", key="b")
    assert await run.result() == "done"
    assert [(tool, said) for tool, said, outcome in renderer.script.told() if outcome == "success"] == [
        ("print", "printed b")
    ]


async def test_what_was_delivered_for_a_call_that_is_denied_by_now_is_nobodys(desk: Desk) -> None:
    renderer = Renderer(allow("draw", "print"))
    run = await renderer.taken_up_again(desk, PRINT, after="a", answer=True)
    await wait_until(lambda: waits_for(run, "b"), 30)
    await desk.signal("word", "printed b", key="b")
    assert await run.result() == "done"
    assert [said for _, said, outcome in renderer.script.told() if outcome == "success"] == ["printed b"]


async def test_a_call_that_came_to_wait_since_is_waited_for_beside_the_others(desk: Desk) -> None:
    renderer = Renderer(DRAW)
    run = await renderer.taken_up_again(desk, allow("draw", "print"), after="a")
    await desk.signal("word", "drawn a", key="a")
    await wait_until(lambda: waits_for(run, "b"), 30)
    await desk.signal("word", "printed b", key="b")
    assert await run.result() == "done"
    assert [(tool, said) for tool, said, _ in renderer.script.told()] == [("draw", "drawn a"), ("print", "printed b")]
    [thread] = threads_of(await desk.ledger.checkpoints.journal(run.id))
    assert thread["tool_calls"] == 2


async def test_a_result_that_is_written_down_stays_with_its_call(desk: Desk, interruption: Interruption) -> None:
    renderer = Renderer(allow("draw", "print"), lambda _: interruption() or "done")
    run = await desk.start(renderer.flow)
    await run.open_waits()
    await desk.signal("word", "printed b", key="b")
    await desk.signal("word", "drawn a", key="a")
    with pytest.raises(Interrupted):
        await run.result()
    renderer.scope = PRINT
    assert await run.again() == "done"
    assert [said for _, said, outcome in renderer.script.told() if outcome == "success"] == ["printed b"]


async def waits_for(run: Run, key: str) -> bool:
    """Whether that is all it waits for."""
    return [wait.correlation for wait in await run.open_waits()] == [key]


async def open_keys(run: Run) -> list[str]:
    return [wait.group_key for wait in await run.open_waits()]
