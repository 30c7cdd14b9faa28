"""Thinking goes on in a task beside the agent's own, which does what has to wait and parks with it."""

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest
from prefect.exceptions import Pause
from pydantic_ai import Agent
from pydantic_ai.capabilities import Instrumentation
from pydantic_ai.models.instrumented import InstrumentationSettings

from standby import step
from standby.agents import run_agent, waits
from standby.agents.serving import Serving
from standby.agents.tracing import new_trace
from standby.ledger import Ledger
from standby.runs import current_run
from standby.states import CheckpointState
from tests.agents.bench import Bench
from tests.agents.conftest import Script, allow, call
from tests.fundamentals.conftest import Interruption
from tests.support.waiting import wait_until

word: ContextVar[str] = ContextVar("word", default="")


async def test_the_own_task_does_what_the_thinking_asks_in_its_order_and_with_its_context() -> None:
    serving, own, done = Serving(), asyncio.current_task(), []

    async def job(name: str) -> str:
        assert asyncio.current_task() is own
        await asyncio.sleep(0)
        done.append((name, word.get()))
        if name == "bad":
            raise ValueError("bad")
        return name.upper()

    async def branch(name: str) -> str:
        word.set(f"of {name}")
        return await serving.here(lambda: job(name))

    async def thinking() -> list[Any]:
        return await asyncio.gather(*(branch(name) for name in ("a", "bad", "b")), return_exceptions=True)

    one, bad, other = await serving.while_thinking(thinking())
    assert (one, other, str(bad)) == ("A", "B", "bad")
    assert done == [("a", "of a"), ("bad", "of bad"), ("b", "of b")]
    assert word.get() == ""


@pytest.mark.parametrize("ending", [Pause(), asyncio.CancelledError(), KeyboardInterrupt()])
async def test_what_ends_the_attempt_ends_the_thinking(ending: BaseException) -> None:
    serving, ended = Serving(), []

    async def job() -> None:
        raise ending

    async def thinking() -> None:
        try:
            await serving.here(job)
        except asyncio.CancelledError:
            ended.append(True)
            raise

    with pytest.raises(type(ending)):
        await serving.while_thinking(thinking())
    assert ended == [True]
    assert len(asyncio.all_tasks()) == 1


async def is_recorded(ledger: Ledger, key: str) -> bool:
    run = current_run.get()
    assert run is not None
    journal = await ledger.checkpoints.journal(run.id)
    return any(entry.key.endswith(key) and entry.state == CheckpointState.RECORDED for entry in journal)


async def test_a_run_that_parks_with_nothing_left_goes_on_where_it_was(bench: Bench) -> None:
    """What a suspended run does: the attempt ends in the middle of a tool, and another one comes."""
    script = Script([call("look"), call("wait")], "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker")
    looked: list[int] = []
    parked: list[int] = []

    @thinker.tool_plain
    async def look() -> str:
        looked.append(1)
        return "x"

    @thinker.tool_plain
    @waits
    async def wait() -> str:
        if not parked:
            parked.append(1)
            await wait_until(lambda: is_recorded(bench.ledger, ".look"))
            raise Pause
        return "y"

    async def research() -> str | None:
        return (await run_agent(thinker, "go", scope=allow("look", "wait"))).output

    run = await bench.start(research)
    with pytest.raises(Pause):
        await run.result()
    assert await run.again() == "done"
    assert (looked, script.asked) == ([1], 2)


async def test_spans_of_all_attempts_are_in_one_trace(bench: Bench, interruption: Interruption) -> None:
    """By the trace context in the journal, with pydantic-ai's own spans."""
    seen: list[Any] = []

    class Provider:
        """The least that OpenTelemetry asks of a provider, without its SDK: spans that remember their context."""

        def get_tracer(self, *_: Any, **__: Any) -> Any:
            from opentelemetry import trace

            class Tracer(trace.NoOpTracer):
                def start_span(self, name: str, context: Any = None, **_: Any) -> Any:
                    seen.append((name, trace.get_current_span(context).get_span_context().trace_id))
                    return trace.NonRecordingSpan(trace.get_current_span(context).get_span_context())

            return Tracer()

        get_logger = get_meter = get_tracer

    from opentelemetry.metrics import NoOpMeterProvider

    settings = InstrumentationSettings(tracer_provider=Provider(), meter_provider=NoOpMeterProvider())  # type: ignore[arg-type]
    script = Script(call("look"), "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker", capabilities=[Instrumentation(settings=settings)])

    @thinker.tool_plain
    async def look() -> str:
        interruption()
        return "x"

    async def research() -> str | None:
        return (await run_agent(thinker, "go", scope=allow("look"))).output

    run = await bench.interrupted(research)
    before = len(seen)
    assert await run.again() == "done"
    assert before > 1
    assert len(seen) > before
    assert len({trace_id for _, trace_id in seen}) == 1
    assert all(trace_id for _, trace_id in seen)
    assert new_trace() != new_trace()


class Killed(BaseException):
    """Ends an attempt anywhere, past every handler of errors."""


async def test_an_attempt_that_ends_at_any_point_repeats_nothing_that_is_done(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of the places where a process could die, in turn, until a run goes through undisturbed."""
    reached: list[str] = []
    stop_at = 0

    def reach(point: str) -> None:
        reached.append(point)
        if len(reached) == stop_at:
            raise Killed

    monkeypatch.setattr("standby.steps.reach", reach)
    paid: list[int] = []

    async def probe(amount: int) -> str | None:
        return f"receipt {amount}" if amount in paid else None

    @step(effect="once", probe=probe, visible=False)
    async def pay(amount: int) -> str:
        """Pay it."""
        paid.append(amount)
        return f"receipt {amount}"

    ended = 0
    while not ended:
        stop_at += 1
        reached.clear()
        paid.clear()
        script = Script([call("look", n=1), call("pay", amount=2), call("look", n=3)], call("pay", amount=4), "done")
        thinker: Agent[None, str] = Agent(script.model, name="thinker", tools=[pay])

        @thinker.tool_plain
        async def look(n: int) -> int:
            return n

        async def research() -> list[Any]:
            result = await run_agent(thinker, "go", scope=allow("look", "pay"))  # noqa: B023
            return [result.output, result.spent.requests, result.spent.tool_calls]

        run = await bench.start(research)
        try:
            found = await run.result()
            ended = stop_at
        except Killed:
            found = await run.again()
        assert found == ["done", 3, 4], f"ended at {reached[stop_at - 1 : stop_at]}"
        assert sorted(paid) == [2, 4]
        assert [content for _, content, _ in script.told()] == [1, "receipt 2", 3, "receipt 4"]
        assert script.asked <= 4
    assert ended > 30
