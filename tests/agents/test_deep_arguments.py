"""Arguments that are nested deeper than they could be judged and kept are refused, and the run goes on."""

import json
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel, RootModel
from pydantic_ai import Agent
from pydantic_ai.messages import ToolCallPart, ToolReturnPart

from standby import view
from standby.agents import AgentScope, run_agent, transcript
from standby.agents.canonical import DEEPEST
from standby.agents.judging import plain_arguments
from standby.connect import Place
from tests.agents.bench import Bench
from tests.agents.conftest import Script, allow, ask


def nested(levels: int, kind: str, inmost: Any = "x") -> Any:
    value = inmost
    for _ in range(levels):
        value = [value] if kind == "lists" else {"a": value}
    return value


@pytest.mark.parametrize("kind", ["lists", "objects"])
@pytest.mark.parametrize("levels", [DEEPEST - 1, DEEPEST, 300, 100_000])
@pytest.mark.parametrize("scope", [allow("go"), ask("go")], ids=["allow", "ask"])
async def test_arguments_are_refused_that_a_model_gives_too_deep(
    bench: Bench, levels: int, kind: str, scope: AgentScope
) -> None:
    fits = levels < DEEPEST
    script = Script(ToolCallPart("go", {"x": nested(levels, kind)}), "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker")
    given: list[Any] = []

    @thinker.tool_plain
    async def go(x: Any) -> str:
        given.append(x)
        return "gone"

    async def work() -> str | None:
        return (await run_agent(thinker, "x", scope=scope if not fits else allow("go"))).output

    run = await bench.start(work)
    assert await run.result() == "done"
    assert given == ([nested(levels, kind)] if fits else [])
    [told] = script.seen[-1][-1].parts
    assert isinstance(told, ToolReturnPart)
    assert told.outcome == ("success" if fits else "retried")
    assert (f"nested more than {DEEPEST} deep" in str(told.content)) is not fits
    shown = await view.run_view(bench.ledger, Place("", None), await bench.ledger.runs.get(run.id))
    assert [one["tool"] for one in shown["agents"][0]["turns"][0]["calls"]] == ["go"]
    assert "**go**" in await transcript.read_markdown(bench.ledger, run.id)


class Page(BaseModel):
    inside: Any

    @classmethod
    def holding(cls, inside: Any) -> "Page":
        return cls(inside=inside)


class Pages(RootModel[Any]):
    pass


@dataclass
class Leaf:
    inside: Any


def itself() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize("of", [Page.holding, Leaf, Pages, lambda inside: [inside], lambda inside: {"a": inside}])
def test_arguments_cannot_be_judged_that_a_tool_or_a_hook_makes_too_deep(of: Any) -> None:
    value: Any = "x"
    for _ in range(DEEPEST - 1):
        value = of(value)
    assert plain_arguments({"x": value})
    for _ in range(100):
        value = of(value)
    for deep in (value, itself()):
        with pytest.raises(ValueError, match=f"nested more than {DEEPEST} deep"):
            plain_arguments({"x": deep})


async def test_a_call_is_denied_whose_text_is_deeper_than_can_be_judged(bench: Bench) -> None:
    """As deep as pydantic reads it, which is deeper than it writes it."""
    text = json.dumps({"x": nested(DEEPEST + 50, "lists")})
    script = Script(ToolCallPart("go", text), "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker")

    @thinker.tool_plain
    async def go(x: Any) -> None:
        raise AssertionError("it was called")

    async def work() -> str | None:
        return (await run_agent(thinker, "x", scope=ask("go"))).output

    assert await bench.run(work) == "done"
    [told] = script.seen[-1][-1].parts
    assert f"nested more than {DEEPEST} deep" in str(told.content)
