"""A tool fails while another one waits, and a hook holds its error back for a while."""

import asyncio
from typing import Any

import pytest
from prefect.exceptions import Pause
from pydantic_ai import Agent, CallDeferred
from pydantic_ai.capabilities import AbstractCapability

from standby.agents import ask_human, run_agent, serving, waits
from standby.states import Hold
from tests.agents.asking_beside import answer, asking_beside
from tests.agents.bench import Bench, BenchRun
from tests.agents.conftest import Script, allow, ask, call
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("suspending")


QUESTION = "thinker/1.1.ask_human/approval"


class Slow(AbstractCapability[None]):
    """A hook that lets what the tool ``check`` came to through when it may."""

    def __init__(self) -> None:
        self.has_it, self.may = asyncio.Event(), asyncio.Event()

    async def wrap_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, handler: Any) -> Any:
        try:
            return await handler(args)
        finally:
            if call.tool_name == "check":
                self.has_it.set()
                await self.may.wait()


async def test_an_error_that_a_hook_is_about_to_let_through_ends_the_run_which_does_not_park(bench: Bench) -> None:
    done: list[str] = []
    slow = Slow()

    async def fail() -> str:
        done.append("check")
        raise ValueError("boom")

    _, thinker = asking_beside(bench, fail, slow)

    async def work() -> Any:
        await run_agent(thinker, "go", scope=allow("ask_human", "check"))

    run = await bench.start(work, hold=Hold.SUSPEND)
    attempt = asyncio.create_task(run.result())
    await slow.has_it.wait()
    await wait_until(lambda: is_about_to_park(run))
    for _ in range(1000):  # by then it would have parked
        await asyncio.sleep(0)
    assert not attempt.done()
    slow.may.set()
    with pytest.raises(ValueError, match="boom"):
        await attempt
    assert done == ["check"]


async def test_so_does_that_of_a_tool_in_the_own_task_before_the_next_one_there_parks(bench: Bench) -> None:
    done: list[str] = []
    slow = Slow()
    script = Script([call("check"), call("ask_human", question="Which?")], "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker", tools=[ask_human()], capabilities=[slow])

    @thinker.tool_plain
    @waits
    async def check() -> str:
        done.append("check")
        raise ValueError("boom")

    async def work() -> Any:
        await run_agent(thinker, "go", scope=allow("ask_human", "check"))

    run = await bench.start(work, hold=Hold.SUSPEND)
    attempt = asyncio.create_task(run.result())
    await slow.has_it.wait()
    await wait_until(lambda: is_about_to_park(run, "thinker/1.tried.2.1"))
    for _ in range(1000):  # by then it would have parked
        await asyncio.sleep(0)
    assert not attempt.done()
    slow.may.set()
    with pytest.raises(ValueError, match="boom"):
        await attempt
    assert done == ["check"]


async def is_about_to_park(run: BenchRun, tried: str = "thinker/1.tried.1.1") -> bool:
    """What the call that waits has cost until then is written down."""
    return tried in await run.journal()


async def test_an_error_that_a_hook_holds_for_long_comes_out_when_the_run_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "ERROR_SECONDS", 0.05)
    done: list[str] = []
    slow = Slow()

    async def fail() -> str:
        done.append("check")
        raise ValueError("boom")

    _, thinker = asking_beside(bench, fail, slow)

    async def work() -> Any:
        await run_agent(thinker, "go", scope=allow("ask_human", "check"))

    run = await bench.start(work, hold=Hold.SUSPEND)
    with pytest.raises(Pause):
        await run.result()
    [wait] = await bench.ledger.waits.open_ones([run.id])
    assert await answer(bench.ledger, wait)
    slow.may.set()
    with pytest.raises(ValueError, match="boom"):
        await run.again()
    assert done == ["check"]


async def test_a_hook_of_a_call_that_has_not_acted_is_not_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "ERROR_SECONDS", 3600)

    class Held(AbstractCapability[None]):
        async def before_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any) -> Any:
            if call.tool_name == "check":
                await asyncio.Event().wait()
            return args

    async def fail() -> str:
        return "never"

    _, thinker = asking_beside(bench, fail, Held())

    async def work() -> Any:
        await run_agent(thinker, "go", scope=allow("ask_human", "check"))

    run = await bench.start(work, hold=Hold.SUSPEND)
    with pytest.raises(Pause):
        await run.result()


async def test_a_call_that_has_acted_and_waits_for_its_result_does_not_keep_the_run_from_parking_for_that(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "ERROR_SECONDS", 3600)
    script = Script(call("render"), "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker")

    @thinker.tool_plain
    async def render() -> str:
        raise CallDeferred({"topic": "rendered", "key": "1"})

    async def work() -> Any:
        return (await run_agent(thinker, "go", scope=ask("render"))).output

    run = await bench.start(work, hold=Hold.SUSPEND)
    for said in ({"approved": True}, "a picture"):
        with pytest.raises(Pause):
            await run.result()
        [wait] = await bench.ledger.waits.open_ones([run.id])
        assert await answer(bench.ledger, wait, said)
    assert await run.again() == "done"
    assert script.told() == [("render", "a picture", "success")]
