"""What a tool returned as data stays data, also data that has the look of a file; files that it returned stay files."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic_ai import Agent, CallDeferred, RunContext
from pydantic_ai.messages import (
    MULTI_MODAL_CONTENT_TYPES,
    BinaryContent,
    DocumentUrl,
    ImageUrl,
    ModelMessage,
    ToolReturn,
    ToolReturnPart,
    UploadedFile,
)
from pydantic_ai.usage import RequestUsage

from standby import agent
from standby.agents import Budget, Spent, run_agent, waits
from standby.agents.lookalikes import KINDS
from standby.agents.records import Outcome, Turn
from standby.agents.transcript import threads_of
from standby.errors import NotStorable, ScopeStopped
from tests.agents.bench import Bench
from tests.agents.conftest import Script, allow, call
from tests.fundamentals.conftest import Desk, Interrupted, Interruption

URL = {"kind": "document-url", "url": "http://127.0.0.1/x", "media_type": "text/plain", "force_download": "allow-local"}
DATA: list[Any] = [
    URL,
    [URL, {"of": {"kind": "image-url", "url": "http://127.0.0.1/x.png", "media_type": None}}],
    {"kind": "binary", "data": "aGk=", "media_type": "image/png", "also": URL},
    {"kind": "uploaded-file", "file_id": "file-1", "provider_name": "openai"},
    [{**URL, "kind~": "mine"}, {"kind~": 1, "kind~~": 2}, {"kind": "dog"}, {"kind": URL}],
]
FILES: list[Any] = [
    ImageUrl("https://example.org/x.png"),
    [DocumentUrl("https://example.org/x", media_type="text/plain"), "text", URL],
    {"pages": [BinaryContent(b"\xff\x00", media_type="application/pdf")], "data": URL},
    UploadedFile("file-1", provider_name="openai"),
]


def returned(messages: list[ModelMessage]) -> list[Any]:
    return [part.content for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]


def same(one: Any, other: Any) -> bool:
    """Whether the two are equal, and of the same types at any depth."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, MULTI_MODAL_CONTENT_TYPES):
        return one.media_type == other.media_type and vars(one).keys() == vars(other).keys() and one == other
    return bool(one == other)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("value", [*DATA, *FILES])
async def test_a_result_is_what_the_tool_returned_at_once_and_at_each_replay(
    bench: Bench, value: Any, wrapped: bool
) -> None:
    seen: list[list[Any]] = []

    def dying(said: Any) -> Any:
        die = Interruption()

        def line(messages: list[ModelMessage]) -> Any:
            seen.append(returned(messages))
            die()
            return said

        return line

    script = Script(call("look"), dying(call("look")), dying("done"))
    thinker: Agent[None, str] = Agent(script.model, name="thinker")

    @thinker.tool_plain
    async def look() -> Any:
        return ToolReturn(value, content="see", metadata=URL) if wrapped else value

    async def work() -> str | None:
        return (await run_agent(thinker, "go", scope=allow("look"))).output

    run = await bench.interrupted(work)
    with pytest.raises(Interrupted):
        await run.again()
    assert await run.again() == "done"
    assert [len(contents) for contents in seen] == [1, 1, 2, 2]
    assert all(same(one, value) for contents in seen for one in contents)
    [thread] = threads_of(await bench.ledger.checkpoints.journal(run.id))
    shown = [call["result"] for turn in thread["turns"] for call in turn["calls"]]
    if value in DATA:
        assert shown == [value, value]


@pytest.mark.parametrize("result", [URL, {"of": [DATA[2]]}])
async def test_a_result_that_others_deliver_is_data(desk: Desk, result: Any) -> None:
    seen: list[list[Any]] = []
    die = Interruption()

    def last(messages: list[ModelMessage]) -> str:
        seen.append(returned(messages))
        die()
        return "done"

    script = Script(call("render"), call("look"), last)
    thinker: Agent[None, str] = Agent(script.model, name="thinker")

    @thinker.tool_plain
    async def render() -> str:
        raise CallDeferred({"topic": "rendered", "key": "k"})

    @thinker.tool_plain
    async def look() -> str:
        return "x"

    @agent
    async def work() -> str | None:
        return (await run_agent(thinker, "go", scope=allow("render", "look"))).output

    run = await desk.start(work)
    await run.open_waits()
    await desk.signal("rendered", result, key="k")
    with pytest.raises(Interrupted):
        await run.result()
    assert await run.again() == "done"
    assert seen == [[result, "x"], [result, "x"]]


@pytest.mark.parametrize(
    "wrap", [lambda value: value, lambda value: [{"a": value}], lambda value: ToolReturn("x", metadata=value)]
)
async def test_a_result_that_is_no_data_is_refused_by_the_name_of_the_tool_and_is_counted(
    bench: Bench, wrap: Callable[[Any], Any]
) -> None:
    script = Script(call("look"), "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker")
    results: list[Any] = [object(), "seen"]

    @thinker.tool_plain
    async def look() -> Any:
        return wrap(results.pop(0))

    spent: list[Spent] = []

    async def work() -> str | None:
        found = await run_agent(thinker, "go", scope=allow("look"))
        spent.append(found.spent)
        return found.output

    run = await bench.start(work)
    with pytest.raises(NotStorable, match=r"The value of tool 'look' \(thinker/1\.1\.look\) cannot be stored .*object"):
        await run.result()
    assert await run.again() == "done"
    assert [one.tool_calls for one in spent] == [2]


def holding_itself(kind: str) -> Any:
    """A value that does, or is nested deeper than anything is read."""
    within: Any = []
    if kind == "list":
        within.append({"again": within})
    elif kind == "metadata":
        within.append(within)
        return ToolReturn("x", metadata=within)
    else:
        for _ in range(10_000):
            within = [within]
    return within


@pytest.mark.parametrize("kind", ["list", "metadata", "deep"])
async def test_a_result_that_holds_itself_is_refused_by_the_name_of_the_tool(bench: Bench, kind: str) -> None:
    script = Script(call("look"), "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker")
    results: list[Any] = [holding_itself(kind), "seen"]

    @thinker.tool_plain
    async def look() -> Any:
        return results.pop(0)

    async def work() -> str | None:
        return (await run_agent(thinker, "go", scope=allow("look"))).output

    run = await bench.start(work)
    with pytest.raises(NotStorable, match=r"The value of tool 'look' \(thinker/1\.1\.look\) cannot be stored"):
        await run.result()
    assert await run.again() == "done"


@pytest.mark.parametrize("kind", [waits, lambda tool: tool], ids=["in the own task", "beside it"])
async def test_a_result_that_cannot_be_read_back_the_same_is_refused_by_its_call_and_is_counted_once(
    bench: Bench, kind: Any
) -> None:
    """Where it is about to be written down, the tool has acted, and may not more often than that."""
    script = Script(call("look"), "done", tokens=10)
    thinker: Agent[None, str] = Agent(script.model, name="thinker")
    results: list[Any] = [float("nan"), "seen"]

    async def look(ctx: RunContext[None]) -> Any:
        ctx.usage.incr(RequestUsage(input_tokens=1000))
        return results.pop(0)

    thinker.tool(kind(look))
    budgets = [Budget(tool_calls=1), Budget(tool_calls=1), Budget(tool_calls=2)]

    async def work() -> list[int]:
        spent = (await run_agent(thinker, "go", scope=allow("look", budget=budgets.pop(0)))).spent
        return [spent.tool_calls, spent.tokens]

    run = await bench.start(work)
    with pytest.raises(NotStorable, match=r"'thinker/1\.1\.look' cannot be stored .*NaN"):
        await run.result()
    with pytest.raises(ScopeStopped, match="1 of 1 tool calls are spent"):
        await run.again()
    assert await run.again() == [2, 2020]


async def test_data_as_the_content_of_a_message_is_refused_as_pydantic_ai_does(bench: Bench) -> None:
    script = Script(call("look"), "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker")

    @thinker.tool_plain
    async def look() -> Any:
        content: list[Any] = [URL]
        return ToolReturn("x", content=content)

    async def work() -> str | None:
        return (await run_agent(thinker, "go", scope=allow("look"))).output

    with pytest.raises(ValueError, match="got `dict`"):
        await bench.run(work)
    assert script.asked == 1


def test_what_was_written_before_data_was_marked_is_read_as_it_was() -> None:
    written = {"kind": "image-url", "url": "https://example.org/x.png", "media_type": "image/png"}
    old = Outcome.model_validate_json(json.dumps({"result": "returned", "value": [written, {"kind": "dog"}]}))
    assert old.value == [ImageUrl("https://example.org/x.png", media_type="image/png"), {"kind": "dog"}]
    part = {"part_kind": "tool-return", "tool_name": "look", "content": {"of": written}, "tool_call_id": "1"}
    turn = Turn.model_validate_json(json.dumps({"messages": [{"kind": "request", "parts": [part]}]}))
    assert returned(turn.messages) == [{"of": ImageUrl("https://example.org/x.png", media_type="image/png")}]


def test_the_kinds_that_are_marked_are_those_that_pydantic_ai_reads_as_files() -> None:
    assert {one.kind for one in MULTI_MODAL_CONTENT_TYPES} == KINDS
