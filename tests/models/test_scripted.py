"""The scripted model: the same script, the same answers, wherever a run goes on."""

from __future__ import annotations

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart
from pydantic_ai.models.function import AgentInfo

from standby.errors import UsageError
from standby.testing.scripted_model import Call, Final, scripted


class Sum(BaseModel):
    total: int


def agent(*turns: object) -> Agent[None, Sum]:
    made = Agent(scripted(*turns), output_type=Sum)  # type: ignore[arg-type]

    @made.tool_plain
    def add(a: int, b: int) -> int:
        return a + b

    return made


def last_result(messages: list[ModelMessage], _: AgentInfo) -> Final:
    return Final({"total": messages[-1].parts[-1].content})  # type: ignore[union-attr]


async def test_it_answers_turn_by_turn() -> None:
    result = await agent(Call("add", {"a": 1, "b": 2}), last_result).run("Add.")
    assert result.output == Sum(total=3)
    answers = [message for message in result.all_messages() if isinstance(message, ModelResponse)]
    assert {answer.model_name for answer in answers} == {"scripted"}
    assert [part.tool_call_id for answer in answers for part in answer.parts if isinstance(part, ToolCallPart)] == [
        "scripted-1-0", "scripted-2-0",
    ]  # fmt: skip


async def test_a_run_that_goes_on_gets_the_turn_it_was_at() -> None:
    turns = (Call("add", {"a": 1, "b": 2}), last_result)
    history = (await agent(*turns).run("Add.")).all_messages()[:-2]
    again = await agent(*turns).run(message_history=history)
    assert again.output == Sum(total=3)


async def test_a_script_that_is_over_says_so() -> None:
    with pytest.raises(UsageError, match="has 1 turns"):
        await agent("I have nothing to say.").run("Add.")


async def test_it_is_named_as_what_it_is() -> None:
    with pytest.raises(UsageError, match="begins with 'scripted'"):
        scripted("Hello", name="gpt-9")
    assert scripted("Hello", name="scripted: research").model_name == "scripted: research"
