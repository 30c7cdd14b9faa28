"""A tool fails, or a stop comes, while another one waits: the agent ends, and nobody is asked any more."""

from typing import Any

import pytest
from prefect.exceptions import Pause
from pydantic_ai import Agent

from standby import step
from standby.agents import AtStop, ask_human, current_scope, run_agent, waits
from standby.agents.running import _current
from standby.agents.serving import Serving
from standby.runs import AgentRun
from standby.states import Hold, WaitState
from standby.stops import Left
from tests.agents.asking_beside import answer, asking_beside, states
from tests.agents.bench import Bench
from tests.agents.conftest import Script, allow, ask, call

pytestmark = pytest.mark.usefixtures("suspending")


class Killed(BaseException):
    """Ends an attempt anywhere, past every handler of errors."""


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
