"""Model requests and tool calls are steps: what is done is never done again, and the rest goes on."""

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry
from sqlalchemy import text

from standby import step
from standby.agents import current_scope, run_agent, waits
from standby.agents.transcript import threads_of
from standby.errors import UsageError
from standby.stops import Fenced
from standby.waiting import wait_for
from standby.waits import Signal
from tests.agents.bench import Bench
from tests.agents.conftest import Script, allow, call
from tests.fundamentals.conftest import Interruption


class Answer(BaseModel):
    words: list[str]


async def test_an_agent_with_a_tool_comes_to_its_typed_output(bench: Bench) -> None:
    script = Script(call("look", word="a"), call("final_result", words=["a", "b"]))
    thinker = Agent(script.model, output_type=Answer, name="thinker")

    @thinker.tool_plain
    async def look(word: str) -> str:
        return word.upper()

    async def research() -> list[str]:
        found = await run_agent(thinker, "find it", scope=allow("look"))
        assert found.stopped is None
        assert (found.spent.requests, found.spent.tool_calls, found.spent.tokens) == (2, 1, 20)
        assert found.output is not None
        return found.output.words

    run = await bench.start(research)
    assert await run.result() == ["a", "b"]
    assert script.told() == [("look", "A", "success")]
    assert list(await run.journal()) == [
        "thinker", "thinker/1.1.look", "thinker/1.model", "thinker/2.model", "thinker/end",
    ]  # fmt: skip


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
async def test_a_crash_in_a_turn_repeats_nothing_that_is_done(
    bench: Bench, interruption: Interruption, turn: int
) -> None:
    """Whether the process dies in a model request or in a tool: only what was under way runs again."""
    calls: list[str] = []

    def asking(at: int, said: Any) -> Any:
        def line(_: Any) -> Any:
            if turn == at:
                interruption()
            return said

        return line

    script = Script(
        asking(0, [call("look", word="a"), call("look", word="b")]), asking(1, call("look", word="c")), "done"
    )
    thinker: Agent[None, str] = Agent(script.model, name="thinker")

    @thinker.tool_plain
    async def look(word: str) -> str:
        if turn == 2 and word == "b":
            await asyncio.sleep(0)
            interruption()
        calls.append(word)
        if turn == 3 and word == "c":
            interruption()
        return word.upper()

    async def research() -> str | None:
        return (await run_agent(thinker, "find it", scope=allow("look"))).output

    run = await bench.interrupted(research)
    assert await run.again() == "done"
    assert [content for _, content, _ in script.told()] == ["A", "B", "C"]
    assert sorted(set(calls)) == ["a", "b", "c"]
    assert len(calls) == (4 if turn == 3 else 3)
    assert script.asked == (4 if turn in (0, 1) else 3)


async def test_a_finished_agent_is_not_asked_again_when_its_run_goes_on(
    bench: Bench, interruption: Interruption
) -> None:
    script = Script(call("look"), "first", call("look"), "second")
    thinker: Agent[None, str] = Agent(script.model, name="thinker")

    @thinker.tool_plain
    async def look() -> str:
        return "x"

    async def research() -> list[str | None]:
        first = await run_agent(thinker, "one", scope=allow("look"))
        second = await run_agent(thinker, "two", scope=allow("look"), history=first.messages)
        interruption()
        return [first.output, second.output]

    run = await bench.interrupted(research)
    asked = script.asked
    assert await run.again() == ["first", "second"]
    assert script.asked == asked == 4
    assert "thinker#2/end" in await run.journal()


async def test_a_tool_may_ask_for_another_try_and_replays_as_it_came(bench: Bench, interruption: Interruption) -> None:
    tries: list[int] = []
    script = Script(call("look", n=1), call("look", n=2), "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker")

    @thinker.tool_plain
    async def look(n: int) -> dict[str, Any]:
        tries.append(n)
        if n == 1:
            raise ModelRetry("again, with 2")
        interruption()
        return {"n": n, "nothing": None}

    async def research() -> str | None:
        return (await run_agent(thinker, "find it", scope=allow("look"))).output

    run = await bench.interrupted(research)
    assert await run.again() == "done"
    assert tries == [1, 2, 2]
    assert [outcome for _, _, outcome in script.told()] == ["retried", "success"]
    assert script.told()[1][1] == {"n": 2, "nothing": None}


async def test_a_step_as_a_tool_keeps_its_effect_and_its_own_checkpoint(
    bench: Bench, interruption: Interruption
) -> None:
    paid: list[int] = []

    async def probe(amount: int) -> str | None:
        return f"receipt {amount}" if paid else None

    @step(effect="once", probe=probe, visible=False)
    async def pay(amount: int) -> str:
        """Pay it."""
        paid.append(amount)
        interruption()
        return f"receipt {amount}"

    script = Script(call("pay", amount=5), "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker", tools=[pay])

    async def research() -> str | None:
        return (await run_agent(thinker, "pay it", scope=allow("pay"))).output

    run = await bench.interrupted(research)
    assert await run.again() == "done"
    assert paid == [5]
    assert script.told() == [("pay", "receipt 5", "success")]
    assert "thinker/1.1.pay/pay" in await run.journal()


async def test_a_tool_with_steps_of_its_own_runs_as_the_agents_code(bench: Bench, interruption: Interruption) -> None:
    done: list[str] = []

    @step(visible=False)
    async def part_of_it(word: str) -> str:
        done.append(word)
        return word

    script = Script([call("both", word="a"), call("both", word="b")], "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker")

    @thinker.tool_plain
    @waits
    async def both(word: str) -> str:
        one = await part_of_it(f"{word}1")
        interruption()
        return one + await part_of_it(f"{word}2")

    async def research() -> str | None:
        return (await run_agent(thinker, "find it", scope=allow("both"))).output

    run = await bench.interrupted(research)
    assert await run.again() == "done"
    assert done == ["a1", "a2", "b1", "b2"]
    journal = await run.journal()
    assert [key for key in journal if key.startswith("thinker/1.1.both/")] == [
        "thinker/1.1.both/part_of_it", "thinker/1.1.both/part_of_it#2",
    ]  # fmt: skip


async def test_a_tool_that_forgot_its_mark_is_told_of_it(bench: Bench) -> None:
    inner: Agent[None, str] = Agent(Script("never").model, name="inner")

    async def waiting() -> None:
        await wait_for(Signal("go"))

    async def delegating() -> None:
        await run_agent(inner, "go", scope=allow())

    @step(visible=False)
    async def stepping() -> None:
        await waiting()

    says = {
        waiting: "A tool that waits is marked with @waits",
        delegating: "A tool that calls run_agent is marked with @waits",
        stepping: "A step cannot wait",
    }
    for tool, said in says.items():
        name = tool.__name__
        thinker: Agent[None, str] = Agent(Script(call(name)).model, name="thinker", tools=[tool])

        async def research(thinker: Agent[None, str] = thinker, name: str = name) -> None:
            await run_agent(thinker, "go", scope=allow(name))

        with pytest.raises(UsageError, match=said):
            await bench.run(research)


async def test_an_error_of_a_tool_ends_the_run_unless_the_agent_catches_it(
    bench: Bench, interruption: Interruption
) -> None:
    script = Script(call("look"))
    thinker: Agent[None, str] = Agent(script.model, name="thinker")
    tried: list[int] = []

    @thinker.tool_plain
    async def look() -> str:
        tried.append(1)
        raise OSError("no such place")

    @step(visible=False)
    async def later() -> str:
        return "went on"

    async def research() -> str:
        try:
            await run_agent(thinker, "find it", scope=allow("look"))
        except OSError as error:
            found = f"{await later()} after {error}"
            interruption()
            return found
        return "not reached"

    run = await bench.interrupted(research)
    assert await run.again() == "went on after no such place"
    assert (script.asked, len(tried)) == (1, 1)


async def test_history_that_the_agent_rewrites_is_kept_whole(bench: Bench, interruption: Interruption) -> None:
    """A processor that cuts the history down is seen in the journal, and after a wake."""
    script = Script(call("look"), call("look"), lambda messages: f"{len(messages)} messages")
    script.lines = (call("look"), lambda m: call("look") if script.asked < 3 else f"{len(m)} messages")

    async def cut(messages: list[Any]) -> list[Any]:
        return messages[:1] + messages[-2:] if len(messages) > 3 else messages

    from pydantic_ai.capabilities import ProcessHistory

    thinker: Agent[None, str] = Agent(script.model, name="thinker", capabilities=[ProcessHistory(cut)])
    script._say_all = None  # type: ignore[attr-defined]

    @thinker.tool_plain
    async def look() -> str:
        if script.asked == 2:
            interruption()
        return "x"

    async def research() -> str | None:
        return (await run_agent(thinker, "find it", scope=allow("look"))).output

    run = await bench.interrupted(research)
    assert await run.again() == "3 messages"


async def test_a_conversation_goes_on_after_a_typed_output(bench: Bench, interruption: Interruption) -> None:
    script = Script(call("final_result", words=["a"]), lambda _: interruption() or call("final_result", words=["b"]))
    thinker = Agent(script.model, output_type=Answer, name="thinker")

    async def research() -> list[str]:
        first = await run_agent(thinker, "one", scope=allow())
        second = await run_agent(thinker, "two", scope=allow(), history=first.messages)
        assert first.output is not None
        assert second.output is not None
        assert (second.spent.requests, len(second.messages)) == (1, 6)
        return first.output.words + second.output.words

    run = await bench.interrupted(research)
    assert await run.again() == ["a", "b"]


async def test_an_attempt_that_lost_the_run_stops_in_the_middle_of_its_thinking(bench: Bench) -> None:
    """Its write is refused in a task of a tool; the thinking ends, and nothing is asked of the model any more."""
    script = Script([call("look", n=1), call("look", n=2)], "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker")

    @thinker.tool_plain
    async def look(n: int) -> int:
        if n == 2:
            async with bench.ledger.database.transaction() as connection:
                await connection.execute(text("UPDATE runs SET attempt = attempt + 1"))
        return n

    async def research() -> str | None:
        return (await run_agent(thinker, "find it", scope=allow("look"))).output

    run = await bench.start(research)
    with pytest.raises(Fenced):
        await run.result()
    assert script.asked == 1
    assert "thinker/1.2.look" not in await run.journal()


async def test_an_agent_as_a_tool_of_another_stays_within_its_scope(bench: Bench, interruption: Interruption) -> None:
    """The inner one asks for more than the outer one has; both go on after a crash in the inner one's tool."""
    inner_script = Script([call("look", n=1), call("wipe")], "found")
    outer_script = Script(call("delegate", task="look"), "done")
    inner: Agent[None, str] = Agent(inner_script.model, name="inner")
    outer: Agent[None, str] = Agent(outer_script.model, name="outer")
    wiped: list[int] = []

    @inner.tool_plain
    async def look(n: int) -> int:
        interruption()
        return n

    @inner.tool_plain
    async def wipe() -> None:
        wiped.append(1)

    @outer.tool_plain
    @waits
    async def delegate(task: str) -> str | None:
        scope = (await current_scope()).narrowed(allow("look", "wipe"))
        return (await run_agent(inner, task, scope=scope)).output

    async def research() -> str | None:
        return (await run_agent(outer, "find it", scope=allow("delegate", "look"))).output

    run = await bench.interrupted(research)
    assert await run.again() == "done"
    assert wiped == []
    assert outer_script.told() == [("delegate", "found", "success")]
    assert inner_script.tools == ["look"]
    assert inner_script.told()[1][2] == "retried"
    journal = await bench.ledger.checkpoints.journal(run.id)
    assert [thread["agent"] for thread in threads_of(journal)] == ["outer", "outer/1.1.delegate/inner"]
