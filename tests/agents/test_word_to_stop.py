"""A person's word to stop ends the agent that takes it, and with it all agents in whose tools that one is."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic_ai import Agent

from standby.agents import AgentResult, current_scope, run_agent, waits
from standby.runs import current_run
from standby.topics import STOP
from tests.agents.bench import Bench
from tests.agents.conftest import Script, allow, call
from tests.fundamentals.conftest import Interrupted, Interruption

SCOPE = allow("delegate", "act", "look")


class Looker:
    """An agent in the tool of which the word comes. ``result``: what came of the last one."""

    def __init__(self, bench: Bench) -> None:
        self.script = Script(call("look"), call("look"), "seen")
        self.thinker: Agent[None, str] = Agent(self.script.model, name="looker")
        self.result: AgentResult[str] | None = None

        @self.thinker.tool_plain
        async def look() -> str:
            run = current_run.get()
            assert run is not None
            await bench.ledger.signals.deliver(
                source="test", delivery_id="word", topic=STOP, correlation=run.id, payload='"enough"'
            )
            return "nothing yet"

    async def work(self) -> str | None:
        self.result = await run_agent(self.thinker, "look", scope=(await current_scope()).narrowed(SCOPE))
        return self.result.stopped


class Delegating:
    """An agent whose tool has others do the work, and that would act after it. ``told``: what came of those."""

    def __init__(self, name: str, inside: Callable[[], Awaitable[str | None]], *lines: Any) -> None:
        self.script = Script(*(lines or (call("delegate"),)), call("act"), "done")
        self.thinker: Agent[None, str] = Agent(self.script.model, name=name)
        self.told: list[str | None] = []
        self.acted = 0

        @self.thinker.tool_plain
        @waits
        async def delegate() -> str:
            self.told.append(await inside())
            return "delegated"

        @self.thinker.tool_plain
        async def act() -> str:
            self.acted += 1
            return "acted"

    async def work(self) -> str | None:
        result = await run_agent(self.thinker, "go", scope=SCOPE)
        return result.why

    async def within(self) -> str | None:
        return (await run_agent(self.thinker, "go", scope=(await current_scope()).narrowed(SCOPE))).stopped

    @property
    def done(self) -> tuple[int, int]:
        return self.script.asked, self.acted


@pytest.mark.parametrize("crash", [False, True])
async def test_it_stops_every_agent_around_the_one_that_takes_it(
    bench: Bench, interruption: Interruption, crash: bool
) -> None:
    """Also when the process dies after that one has stopped, and before those around it have."""
    looker = Looker(bench)

    async def looking() -> str | None:
        stopped = await looker.work()
        if crash:
            interruption()
        return stopped

    middle = Delegating("middle", looking)
    top = Delegating("top", middle.within)
    run = await bench.start(top.work)
    if crash:
        with pytest.raises(Interrupted):
            await run.result()
    assert await run.result() == "a person stopped it: enough"
    assert looker.result is not None
    assert (looker.result.stopped, looker.result.why) == ("person", "a person stopped it: enough")
    assert (top.done, middle.done, looker.script.asked) == ((1, 0), (1, 0), 1)
    assert [signal.disposition for signal in await bench.ledger.signals.all()] == ["delivered"]


async def test_agents_in_other_tools_of_the_same_answer_do_not_begin(bench: Bench) -> None:
    looker = Looker(bench)
    top = Delegating("top", looker.work, [call("delegate"), call("delegate")])
    assert await bench.run(top.work) == "a person stopped it: enough"
    assert (top.done, looker.script.asked, top.told) == ((1, 0), 1, ["person"])


async def test_agents_that_the_tool_has_after_it_do_not_begin(bench: Bench) -> None:
    first, second = Looker(bench), Looker(bench)

    async def both() -> str | None:
        return f"{await first.work()}, {await second.work()}"

    top = Delegating("top", both)
    assert await bench.run(top.work) == "a person stopped it: enough"
    assert (first.script.asked, second.script.asked, top.told) == (1, 0, ["person, person"])
    assert second.result is not None
    assert second.result.why == "a person stopped it: enough"
