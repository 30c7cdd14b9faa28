"""Calls of one answer run side by side: what one of them comes to cuts no other off that acts."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from prefect.exceptions import Pause
from pydantic_ai import Agent, ModelRetry, RunContext
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import UnexpectedModelBehavior
from pydantic_ai.usage import RequestUsage

from standby.agents import run_agent, waits
from standby.stops import Left
from tests.agents.bench import Bench
from tests.agents.conftest import Script, allow, call
from tests.fundamentals.conftest import Interrupted
from tests.support.waiting import wait_until


def raises() -> None:
    raise Interrupted


def has_no_tries_left() -> None:
    """pydantic-ai makes an error of it, where the gate does not see that."""
    raise ModelRetry("again")


@pytest.mark.parametrize(("fails", "error"), [(raises, Interrupted), (has_no_tries_left, UnexpectedModelBehavior)])
async def test_a_call_that_acts_comes_to_its_outcome_though_another_fails(
    bench: Bench, fails: Callable[[], None], error: type[Exception]
) -> None:
    begun = asyncio.Event()
    sent: list[str] = []
    script = Script([call("send"), call("check")], "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker", retries=0)

    @thinker.tool_plain
    async def send() -> str:
        sent.append("begun")
        begun.set()
        await wait_until(has_failed)
        for _ in range(1000):  # by then it would have been cut off
            await asyncio.sleep(0)
        sent.append("done")
        return "sent"

    @thinker.tool_plain
    async def check() -> str:
        await begun.wait()
        fails()
        return "never"

    async def work() -> Any:
        return await run_agent(thinker, "go", scope=allow("send", "check"))

    run = await bench.start(work)

    async def has_failed() -> bool:
        """What it came to, or had cost, is written down, and nothing is left but to raise it."""
        return bool({"thinker/1.2.check", "thinker/1.tried.2.1"} & (await run.journal()).keys())

    for _ in range(2):
        with pytest.raises(error):
            await run.result()
        assert sent == ["begun", "done"]
        assert (await run.journal())["thinker/1.1.send"] == "recorded"


@pytest.mark.parametrize("end", [Pause(), Left("run")])
async def test_a_call_that_acts_comes_to_its_outcome_though_the_attempt_ends_at_a_step_of_another(
    bench: Bench, end: BaseException
) -> None:
    """As when somebody pauses the run in Prefect, or its host ends."""
    begun, ends = asyncio.Event(), asyncio.Event()
    sent: list[str] = []
    script = Script([call("send"), call("do_more")], "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker")

    @thinker.tool_plain
    async def send() -> str:
        sent.append("begun")
        begun.set()
        await ends.wait()
        for _ in range(1000):  # by then it would have been cut off
            await asyncio.sleep(0)
        sent.append("done")
        return "sent"

    @thinker.tool_plain
    @waits
    async def do_more() -> str:
        await begun.wait()
        if not ends.is_set():
            ends.set()
            raise end
        return "more"

    async def work() -> Any:
        return (await run_agent(thinker, "go", scope=allow("send", "do_more"))).output

    run = await bench.start(work)
    with pytest.raises(type(end)):
        await run.result()
    assert await run.again() == "done"
    assert sent == ["begun", "done"]


async def test_a_call_that_does_not_act_is_cut_off_when_another_fails(bench: Bench) -> None:
    """A hook holds it up, and what it waits for never comes."""
    held_up = asyncio.Event()

    class Hold(AbstractCapability[None]):
        async def before_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any) -> Any:
            if call.tool_name == "send":
                held_up.set()
                await asyncio.Event().wait()
            return args

    script = Script([call("send"), call("check")], "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker", capabilities=[Hold()])

    @thinker.tool_plain
    async def send() -> str:
        return "sent"

    @thinker.tool_plain
    async def check() -> str:
        await held_up.wait()
        raise Interrupted

    async def work() -> Any:
        return await run_agent(thinker, "go", scope=allow("send", "check"))

    await bench.interrupted(work)


async def test_the_time_limit_of_a_hook_cuts_a_call_off(bench: Bench) -> None:
    class Limit(AbstractCapability[None]):
        async def wrap_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, handler: Any) -> Any:
            try:
                async with asyncio.timeout(0.05):
                    return await handler(args)
            except TimeoutError:
                return "too late"

    script = Script(call("dream"), "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker", capabilities=[Limit()])

    @thinker.tool_plain
    async def dream() -> str:
        await asyncio.Event().wait()
        return "never"

    async def work() -> Any:
        return (await run_agent(thinker, "go", scope=allow("dream"))).output

    assert await bench.run(work) == "done"
    assert script.told() == [("dream", "too late", "success")]


async def test_what_a_call_had_cost_that_is_cut_off_with_its_attempt_is_counted(bench: Bench) -> None:
    begun = asyncio.Event()
    script = Script(call("ask_others"), "done", tokens=10)
    thinker: Agent[None, str] = Agent(script.model, name="thinker")
    tries: list[int] = []

    @thinker.tool
    async def ask_others(ctx: RunContext[None]) -> str:
        ctx.usage.incr(RequestUsage(input_tokens=1000))
        ctx.usage.requests += 1
        tries.append(1)
        begun.set()
        if len(tries) == 1:
            await asyncio.Event().wait()
        return "asked"

    async def work() -> Any:
        spent = (await run_agent(thinker, "go", scope=allow("ask_others"))).spent
        return [spent.tokens, spent.requests, spent.tool_calls]

    run = await bench.start(work)
    attempt = asyncio.create_task(run.result())
    await begun.wait()
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    assert await run.again() == [2 * 1000 + 2 * 10, 4, 1]
