"""What code of an agent sees in ``ctx`` is what it would see if nothing had cut the run off."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic_ai import Agent, CallDeferred, ModelRetry, RunContext, ToolReturn
from pydantic_ai.capabilities import AbstractCapability, ProcessHistory
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.usage import RunUsage

from standby import agent
from standby.agents import AgentScope, AtMost, Permission, Rule, run_agent
from tests.agents.bench import Bench
from tests.agents.conftest import Script, allow, ask, call
from tests.fundamentals.conftest import Desk, Interrupted

EARLIER: list[ModelMessage] = [ModelRequest([UserPromptPart("before")]), ModelResponse([TextPart("said before")])]
CHEAP = Rule(tool="pay", permission=Permission.ALLOW, when=(AtMost(argument="amount", limit=5),))  # type: ignore[arg-type]
LINES = [call("look"), call("flaky"), call("flaky"), call("pay", amount=9), call("outer"), "bad", "done"]


class AroundTheRun(AbstractCapability[Any]):
    def __init__(self, seen: dict[Any, None]) -> None:
        self.seen = seen

    async def before_run(self, ctx: RunContext[Any]) -> None:
        self.seen[("the run", ctx.run_step, ctx.prompt)] = None


class Watched:
    """An agent of which all code looks at its context; what that ``seen``, in order, and once each. It dies when it
    comes to one of these for the first time: ``request 2`` is the second model request, ``call 2`` its tool call."""

    def __init__(self, *cuts: str) -> None:
        self.cuts = set(cuts)
        self.seen: dict[Any, None] = {}
        self.flaked = False
        self.script = Script(
            "said before", *(self.dying(f"request {n}", line) for n, line in enumerate(LINES, start=1))
        )

        def history(ctx: RunContext[None], messages: list[ModelMessage]) -> list[ModelMessage]:
            self.look("history", ctx, len(messages))
            return messages

        self.thinker: Agent[None, str] = Agent(
            self.script.model,
            name="thinker",
            retries=2,
            capabilities=[ProcessHistory(history), AroundTheRun(self.seen)],
        )

        @self.thinker.instructions
        def instructions(ctx: RunContext[None]) -> str:
            self.look("instructions", ctx)
            return "Look."

        @self.thinker.output_validator
        def valid(ctx: RunContext[None], output: str) -> str:
            self.look("validator", ctx, output)
            if output == "bad":
                raise ModelRetry("not that")
            return output

        @self.thinker.tool
        async def look(ctx: RunContext[None]) -> str:
            return self.look("look", ctx)

        @self.thinker.tool
        async def flaky(ctx: RunContext[None]) -> ToolReturn[str]:
            again = self.look("flaky", ctx, ctx.retries)
            if ctx.retry == 0:
                raise ModelRetry("once more")
            return ToolReturn(again, content="what stands for a prompt of somebody")

        @self.thinker.tool_plain
        async def pay(amount: int) -> str:
            raise AssertionError("it is denied")

        @self.thinker.tool
        async def outer(ctx: RunContext[None]) -> Any:
            ctx.usage.incr(RunUsage(requests=1, input_tokens=3))
            self.look("outer", ctx)
            assert ctx.tool_manager is not None
            return await ctx.tool_manager.handle_call(call("look", "inner"))

    def dying(self, place: str, line: Any) -> Callable[[Any], Any]:
        def said(_: Any) -> Any:
            self.reach(place)
            return line

        return said

    def reach(self, place: str) -> None:
        if place in self.cuts:
            self.cuts.remove(place)
            raise Interrupted("The process dies.")

    def look(self, where: str, ctx: RunContext[None], *more: Any) -> str:
        usage = ctx.usage
        spent = (usage.requests, usage.tool_calls, usage.input_tokens, usage.total_tokens)
        self.seen[(where, ctx.run_step, ctx.prompt, spent, len(ctx.messages), ctx.retry, str(more))] = None
        if where not in ("instructions", "history", "validator"):
            self.reach(f"call {ctx.run_step}")
        return "seen"

    async def work(self) -> Any:
        scope = AgentScope(tools=(*allow("look", "flaky", "outer").tools, CHEAP))
        return (await run_agent(self.thinker, "go", scope=scope, history=EARLIER)).output


REQUESTS = [f"request {n}" for n in range(1, len(LINES) + 1)]
CALLS = ["call 1", "call 2", "call 3", "call 5"]


@pytest.mark.parametrize("cuts", [*([one] for one in REQUESTS), REQUESTS, CALLS, REQUESTS + CALLS], ids=" and ".join)
async def test_an_attempt_goes_on_with_the_prompt_the_step_and_the_usage(bench: Bench, cuts: list[str]) -> None:
    whole, cut = Watched(), Watched(*cuts)
    assert await bench.run(whole.work) == "done"
    run = await bench.start(cut.work)
    for _ in cuts:
        with pytest.raises(Interrupted):
            await run.result()
    assert await run.result() == "done"
    assert list(cut.seen) == list(whole.seen)
    assert {(one[0], one[2]) for one in whole.seen} >= {("history", "go"), ("look", "go"), ("the run", "go")}
    assert max(one[1] for one in whole.seen) == len(LINES)


@pytest.mark.parametrize("cut", [None, 2, 3])
async def test_calls_that_people_decided_on_count_as_they_did(desk: Desk, cut: int | None) -> None:
    """Those that tools have returned from; not one that was refused, nor one whose result others delivered."""
    seen: dict[tuple[int, int], None] = {}
    cuts = {cut}

    def dying(turn: int, line: Any) -> Callable[[Any], Any]:
        def said(_: Any) -> Any:
            if turn in cuts:
                cuts.clear()
                raise Interrupted("The process dies.")
            return line

        return said

    first = [call("send", to="ada"), call("send", to="ben"), call("render", page="a"), call("order", what="b")]
    script = Script(dying(1, first), dying(2, call("look")), dying(3, "done"))
    thinker: Agent[None, str] = Agent(script.model, name="mailer")

    @thinker.instructions
    def instructions(ctx: RunContext[None]) -> str:
        seen[(ctx.run_step, ctx.usage.tool_calls)] = None
        return "Write."

    @thinker.tool_plain
    async def send(to: str) -> str:
        return to

    @thinker.tool_plain
    async def render(page: str) -> str:
        raise CallDeferred({"topic": "made", "key": page})

    @thinker.tool_plain
    async def order(what: str) -> str:
        raise CallDeferred({"topic": "made", "key": what})

    @thinker.tool_plain
    async def look() -> str:
        return "seen"

    @agent
    async def mailing() -> Any:
        scope = AgentScope(tools=(*ask("send", "order").tools, *allow("render", "look").tools))
        return (await run_agent(thinker, "write", scope=scope)).output

    run = await desk.start(mailing)
    await run.answer({"approved": True, "refuse_2": True})
    for key in ("a", "b"):
        await desk.signal("made", "as told", key=key)
    if cut is not None:
        with pytest.raises(Interrupted):
            await run.result()
        run.begin()
    assert await run.result() == "done"
    assert list(seen) == [(1, 0), (2, 2), (3, 3)]
