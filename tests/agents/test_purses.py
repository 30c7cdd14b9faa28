"""What an agent has set aside and written down for its family, where it ends otherwise than by an output."""

from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models.function import AgentInfo, FunctionModel

from standby.agents import AtStop, Budget, current_scope, run_agent, waits
from standby.agents.purse import Purse
from standby.errors import LedgerUnavailable
from standby.stops import Fenced
from tests.agents.bench import Bench
from tests.agents.conftest import Script, allow, call
from tests.agents.test_families import all_spent


class Delegates:
    """An agent with a tool that has another one work, whose model fails; it catches that. ``errors``: what it caught.

    Each turn is two steps of its own.
    """

    def __init__(self, times: int) -> None:
        def fail(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            raise OSError("the model is down")

        child: Agent[None, str] = Agent(FunctionModel(fail), name="child")
        self.script = Script(*[call("delegate")] * times, "done")
        thinker: Agent[None, str] = Agent(self.script.model, name="thinker")
        self.errors: list[str] = []

        @thinker.tool_plain
        @waits
        async def delegate() -> str:
            try:
                await run_agent(child, "go", scope=(await current_scope()).narrowed(allow("x")))
            except OSError as error:
                self.errors.append(str(error))
            return "x"

        async def work() -> Any:
            scope = allow("delegate", budget=Budget(steps=2 * times + 1), at_stop=AtStop.FINISH)
            return (await run_agent(thinker, "go", scope=scope)).stopped

        self.work = work


async def test_a_child_that_ends_by_an_error_keeps_nothing_set_aside(bench: Bench) -> None:
    delegates = Delegates(4)
    run = await bench.start(delegates.work)
    assert await run.result() is None
    assert delegates.errors == ["the model is down"] * 4
    spent = await all_spent(bench, run)
    assert (spent.requests, spent.tool_calls) == (5, 4)


@pytest.mark.parametrize("error", [LedgerUnavailable("sqlite", "away"), Fenced("a", 1)])
async def test_what_the_child_has_ended_by_is_told_also_where_the_ledger_is_away(
    bench: Bench, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    delegates = Delegates(1)
    close = Purse.close

    async def fails_once(self: Purse) -> None:
        monkeypatch.setattr(Purse, "close", close)
        raise error

    monkeypatch.setattr(Purse, "close", fails_once)
    run = await bench.start(delegates.work)
    assert await run.result() == "steps"
    assert delegates.errors == ["the model is down"]
    assert (await all_spent(bench, run)).requests == 2, "one of them set aside"
