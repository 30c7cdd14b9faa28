"""How often a model may try again is counted across waits and crashes, as in a run without any."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry, RunContext
from pydantic_ai.exceptions import UnexpectedModelBehavior
from pydantic_ai.messages import ModelMessage

from standby.agents import run_agent
from tests.agents.bench import Bench
from tests.agents.conftest import Said, Script, allow, call
from tests.fundamentals.conftest import Interrupted


class Found(BaseModel):
    number: int


class Crashes:
    """Before each of a model's answers an attempt ends, if there are to be crashes."""

    def __init__(self, crash: bool) -> None:
        self.crash, self.crashed = crash, 0

    def before(self, *said: Said) -> list[Callable[[list[ModelMessage]], Said]]:
        return [self._line(number, one) for number, one in enumerate(said)]

    def _line(self, number: int, said: Said) -> Callable[[list[ModelMessage]], Said]:
        def line(_: list[ModelMessage]) -> Said:
            if self.crash and self.crashed == number:
                self.crashed += 1
                raise Interrupted("an attempt ends")
            return said

        return line

    async def result(self, bench: Bench, agent: Agent[None, Any], *tools: str) -> Any:
        async def work() -> Any:
            return (await run_agent(agent, "go", scope=allow(*tools))).output

        run = await bench.start(work)
        while True:
            try:
                return await run.result()
            except Interrupted:
                continue


@pytest.mark.parametrize("crash", [False, True])
async def test_a_tool_has_its_retries_once(bench: Bench, crash: bool) -> None:
    crashes = Crashes(crash)
    script = Script(*crashes.before(*[call("shaky")] * 9))
    thinker: Agent[None, str] = Agent(script.model, name="thinker", retries=2)
    tries: list[int] = []

    @thinker.tool
    async def shaky(ctx: RunContext[None]) -> str:
        tries.append(ctx.retry)
        raise ModelRetry("again")

    with pytest.raises(UnexpectedModelBehavior, match="'shaky' exceeded max retries count of 2"):
        await crashes.result(bench, thinker, "shaky")
    assert (tries, crashes.crashed) == ([0, 1, 2], 3 * crash)


@pytest.mark.parametrize("crash", [False, True])
async def test_a_tool_that_works_in_between_has_all_its_retries_again(bench: Bench, crash: bool) -> None:
    crashes = Crashes(crash)
    script = Script(*crashes.before(*[call("shaky")] * 6, "done"))
    thinker: Agent[None, str] = Agent(script.model, name="thinker", retries=2)
    tries: list[int] = []

    @thinker.tool
    async def shaky(ctx: RunContext[None]) -> str:
        tries.append(ctx.retry)
        if len(tries) % 3:
            raise ModelRetry("again")
        return "at last"

    assert await crashes.result(bench, thinker, "shaky") == "done"
    assert (tries, crashes.crashed) == ([0, 1, 2, 0, 1, 2], 7 * crash)


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("said", ["no structured output", call("final_result", number="many")], ids=["text", "wrong"])
async def test_an_output_has_its_retries_once(bench: Bench, crash: bool, said: Said) -> None:
    crashes = Crashes(crash)
    script = Script(*crashes.before(*[said] * 9))
    thinker: Agent[None, Found] = Agent(script.model, name="thinker", output_type=Found, retries=2)
    with pytest.raises(UnexpectedModelBehavior, match="retries"):
        await crashes.result(bench, thinker)
    assert (script.asked, crashes.crashed) == (3 + 3 * crash, 3 * crash)


async def test_a_run_that_has_failed_by_the_limit_goes_on_under_a_higher_one(bench: Bench) -> None:
    script = Script(*[call("shaky")] * 4, "done")
    limits = [1, 1, 3]
    tries: list[int] = []

    async def shaky(ctx: RunContext[None]) -> str:
        tries.append(ctx.retry)
        if len(tries) < 4:
            raise ModelRetry("again")
        return "at last"

    async def work() -> Any:
        thinker: Agent[None, str] = Agent(script.model, name="thinker", retries=limits.pop(0), tools=[shaky])
        return (await run_agent(thinker, "go", scope=allow("shaky"))).output

    run = await bench.start(work)
    for _ in range(2):
        with pytest.raises(UnexpectedModelBehavior):
            await run.result()
        assert tries == [0, 1]
    assert await run.again() == "done"
    assert tries == [0, 1, 2, 3]
