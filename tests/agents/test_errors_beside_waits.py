"""A tool fails, or a stop comes, while another one waits: the agent ends, and nobody is asked any more."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from prefect.exceptions import Pause
from prefect.states import Suspended
from pydantic_ai import Agent, CallDeferred
from pydantic_ai.capabilities import AbstractCapability

from standby import step, waiting
from standby.agents import AtStop, ask_human, current_scope, run_agent, serving, waits
from standby.agents.running import _current
from standby.agents.serving import Serving
from standby.ledger import Ledger
from standby.runs import AgentRun, current_run
from standby.states import Door, Hold, Outcome, WaitState
from standby.stops import Left
from tests.agents.bench import Bench, BenchRun
from tests.agents.conftest import Script, allow, ask, call
from tests.support.waiting import wait_until


class Killed(BaseException):
    """Ends an attempt anywhere, past every handler of errors."""


@pytest.fixture(autouse=True)
def _suspending(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that are suspended, without Prefect."""

    async def suspend(run: AgentRun, key: str, group: Any) -> None:
        assert await run.ledger.runs.park(run.id, run.attempt, key, Hold.SUSPEND, None) is not None
        raise run.must_stop(Pause(state=Suspended()))

    async def take_response(*_: Any) -> None:
        """Nothing comes through Prefect."""

    monkeypatch.setattr(waiting, "suspend", suspend)
    monkeypatch.setattr(waiting, "take_response", take_response)


async def asked(ledger: Ledger) -> list[Any]:
    """The waits of the run that is executing, once it has opened one."""
    run = current_run.get()
    assert run is not None
    return await wait_until(lambda: ledger.waits.of_run(run.id))


async def answer(ledger: Ledger, wait: Any, said: Any = {"answer": "blue"}) -> bool:  # noqa: B006 - only read
    """Whether this is the answer to it."""
    settled = await ledger.waits.settle(
        wait.id, outcome=Outcome.ANSWERED, answer=json.dumps(said), door=Door.TERMINAL, actor="ada"
    )
    return settled is not None and settled.won


def asking_beside(
    bench: Bench, fail: Callable[[], Awaitable[str]], *hooks: AbstractCapability[None]
) -> tuple[Script, Agent[None, str]]:
    """An agent that asks a person, and beside that calls what may fail when the question is open."""
    script = Script([call("ask_human", question="Which?"), call("check")], "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker", tools=[ask_human()], capabilities=list(hooks))

    @thinker.tool_plain
    async def check() -> str:
        await asked(bench.ledger)
        return await fail()

    return script, thinker


async def states(run: BenchRun) -> dict[str, str]:
    return {wait.key: wait.state for wait in await run.bench.ledger.waits.of_run(run.id)}


QUESTION = "thinker/1.1.ask_human/approval"


async def test_the_question_is_closed_when_an_error_ends_the_agent_and_the_run_goes_on(bench: Bench) -> None:
    done: list[str] = []

    async def fail() -> str:
        done.append("check")
        raise ValueError("boom")

    _, thinker = asking_beside(bench, fail)

    @step(visible=False)
    async def later() -> None:
        done.append("later")

    async def work() -> str:
        try:
            await run_agent(thinker, "go", scope=allow("ask_human", "check"))
        except ValueError as error:
            [wait] = await bench.ledger.waits.of_run(run.id)
            won = await answer(bench.ledger, wait)
            await later()
            if len(done) == 2:
                done.append("killed")
                raise Killed from None
            return f"{error}, {wait.state}, {won}"
        return "never"

    run = await bench.start(work, hold=Hold.SUSPEND)
    with pytest.raises(Killed):
        await run.result()
    assert await run.again() == "boom, closed, False"
    assert done == ["check", "later", "killed"]
    assert await states(run) == {QUESTION: WaitState.CLOSED}


async def test_it_is_closed_when_a_stop_ends_the_agent(bench: Bench) -> None:
    async def fail() -> str:
        thinking = _current.get()
        assert thinking is not None
        raise thinking._stop("steps", "there is no room")

    _, thinker = asking_beside(bench, fail)

    async def work() -> Any:
        result = await run_agent(thinker, "go", scope=allow("ask_human", "check", at_stop=AtStop.FINISH))
        return [result.stopped, await states(run)]

    run = await bench.start(work, hold=Hold.SUSPEND)
    assert await run.result() == ["steps", {QUESTION: WaitState.CLOSED}]


async def test_it_is_closed_when_the_agent_in_a_tool_ends_and_what_the_others_ask_is_not(bench: Bench) -> None:
    async def fail() -> str:
        raise ValueError("boom")

    _, child = asking_beside(bench, fail)
    script = Script([call("delegate"), call("ask_human", question="And now?")], "done")
    parent: Agent[None, str] = Agent(script.model, name="parent", tools=[ask_human()])

    @parent.tool_plain
    @waits
    async def delegate() -> str:
        try:
            await run_agent(child, "go", scope=(await current_scope()).narrowed(allow("ask_human", "check")))
        except ValueError:
            return "it failed"
        return "never"

    async def work() -> Any:
        return (await run_agent(parent, "go", scope=allow("delegate", "ask_human", "check"))).output

    run = await bench.start(work, hold=Hold.SUSPEND)
    with pytest.raises(Pause):
        await run.result()
    below = f"parent/1.1.delegate/{QUESTION}"
    assert await states(run) == {below: WaitState.CLOSED, "parent/1.2.ask_human/approval": WaitState.OPEN}
    [wait] = await bench.ledger.waits.open_ones([run.id])
    assert await answer(bench.ledger, wait)
    assert await run.again() == "done"
    assert script.told() == [("delegate", "it failed", "success"), ("ask_human", "blue", "success")]


async def test_it_stays_open_when_the_run_goes_on_elsewhere(bench: Bench) -> None:
    """As when its host ends."""

    async def fail() -> str:
        raise Left("run")

    _, thinker = asking_beside(bench, fail)

    async def work() -> Any:
        await run_agent(thinker, "go", scope=allow("ask_human", "check"))

    run = await bench.start(work, hold=Hold.SUSPEND)
    with pytest.raises(Left):
        await run.result()
    assert await states(run) == {QUESTION: WaitState.OPEN}


async def test_a_crash_before_the_end_is_written_down_leaves_no_question_open(bench: Bench) -> None:
    done: list[str] = []

    async def fail() -> str:
        done.append("check")
        raise ValueError("boom")

    _, thinker = asking_beside(bench, fail)

    async def work() -> Any:
        try:
            return (await run_agent(thinker, "go", scope=allow("ask_human", "check"))).output
        except ValueError as error:
            if len(done) == 1:
                done.append("killed")
                raise Killed from None
            return [str(error), await states(run)]

    run = await bench.start(work, hold=Hold.SUSPEND)
    with pytest.raises(Killed):
        await run.result()
    assert await states(run) == {QUESTION: WaitState.CLOSED}
    assert await run.again() == ["boom", {QUESTION: WaitState.CLOSED}]


async def test_an_earlier_attempts_question_about_calls_is_closed_when_an_error_ends_the_agent(bench: Bench) -> None:
    revoked: list[int] = []
    script = Script(call("send"), "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker")

    @thinker.tool_plain
    async def send() -> str:
        return "sent"

    def recheck() -> None:
        if revoked:
            raise PermissionError("the key was revoked")

    @step(visible=False)
    async def tell() -> str:
        return "told"

    async def work() -> Any:
        try:
            return (await run_agent(thinker, "go", scope=ask("send"), recheck=recheck)).output
        except PermissionError:
            return await tell()

    run = await bench.start(work, hold=Hold.SUSPEND)
    with pytest.raises(Pause):
        await run.result()
    assert await states(run) == {"thinker/1.asks": WaitState.OPEN}
    revoked.append(1)

    async def gone_on() -> Any:
        said = await work()
        return [said, await states(run)]

    run.work = gone_on
    assert await run.again() == ["told", {"thinker/1.asks": WaitState.CLOSED}]


@pytest.fixture
def just_answered(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer comes when the agent has ended, directly before its question is closed."""
    close_open = Serving.close_open

    async def answered_first(serving: Serving, run: AgentRun) -> None:
        for wait in await bench.ledger.waits.open_ones([run.id]):
            assert await answer(bench.ledger, wait)
        await close_open(serving, run)

    monkeypatch.setattr(Serving, "close_open", answered_first)


@pytest.mark.usefixtures("just_answered")
async def test_an_answer_of_that_moment_is_taken_in_when_the_run_is_retried(bench: Bench) -> None:
    failed: list[int] = []

    async def fail() -> str:
        if not failed:
            failed.append(1)
            raise ValueError("boom")
        return "fine"

    script, thinker = asking_beside(bench, fail)

    async def work() -> Any:
        return (await run_agent(thinker, "go", scope=allow("ask_human", "check"))).output

    run = await bench.start(work, hold=Hold.SUSPEND)
    with pytest.raises(ValueError, match="boom"):
        await run.result()
    assert await run.again() == "done"
    assert script.told() == [("ask_human", "blue", "success"), ("check", "fine", "success")]


@pytest.mark.usefixtures("just_answered")
async def test_an_answer_of_that_moment_changes_nothing_for_a_run_that_has_gone_on(bench: Bench) -> None:
    done: list[str] = []

    async def fail() -> str:
        done.append("check")
        raise ValueError("boom")

    _, thinker = asking_beside(bench, fail)

    @step(visible=False)
    async def later() -> str:
        done.append("later")
        return "went on"

    async def work() -> Any:
        with pytest.raises(ValueError, match="boom"):
            await run_agent(thinker, "go", scope=allow("ask_human", "check"))
        said = await later()
        if len(done) == 2:
            done.append("killed")
            raise Killed
        return said

    run = await bench.start(work, hold=Hold.SUSPEND)
    with pytest.raises(Killed):
        await run.result()
    assert await run.again() == "went on"
    assert done == ["check", "later", "killed"]
    assert await states(run) == {QUESTION: WaitState.SETTLED}


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
