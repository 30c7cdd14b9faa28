"""The real provider client against a server that says what a provider says on a good day, and on a bad one."""

from __future__ import annotations

import json

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelAPIError, ModelHTTPError, UnexpectedModelBehavior
from pydantic_ai.exceptions import FallbackExceptionGroup, ModelTimeoutError

from blocks.model_endpoint import ModelEndpoint
from standby.errors import UsageError
from tasks.endpoint_model import KEPT_SECONDS, EndpointModel, configured_model
from tests.models.conftest import KEY, endpoint
from tests.support.chat_server import (
    HANGS,
    ChatServer,
    Reply,
    as_json,
    calls,
    failure,
    message,
    refusal,
    stream,
)

Endpoints = dict[str, ModelEndpoint]


class Weather(BaseModel):
    city: str
    degrees: int


async def model() -> EndpointModel:
    found = await configured_model()
    assert isinstance(found, EndpointModel)
    return found


async def agent(**options: object) -> Agent[None, str]:
    made: Agent[None, str] = Agent(await model(), **options)  # type: ignore[arg-type]

    @made.tool_plain
    def degrees(city: str) -> int:
        return {"Oslo": 3, "Rome": 21}[city]

    return made


@pytest.mark.parametrize("provider", ["openai", "ollama"])
async def test_a_question_and_its_answer(chat: ChatServer, endpoints: Endpoints, provider: str) -> None:
    endpoints["default"] = endpoint(chat, provider=provider)
    chat.script = [message("It is cold.")]
    result = await (await agent(instructions="Be brief.")).run("Is it cold?")
    [asked] = chat.asked
    assert result.output == "It is cold."
    assert (result.usage.input_tokens, result.usage.output_tokens) == (11, 7)
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.body["model"] == "test-model-1"
    assert asked.tools == ["degrees"]


async def test_anthropic_is_asked_in_its_own_protocol(chat: ChatServer, endpoints: Endpoints) -> None:
    endpoints["default"] = endpoint(chat, provider="anthropic", base_url=chat.url.removesuffix("/v1"))
    said = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "test-model-1", "stop_reason": "end_turn",
        "stop_sequence": None, "content": [{"type": "text", "text": "It is cold."}],
        "usage": {"input_tokens": 5, "output_tokens": 2},
    }  # fmt: skip
    chat.script = [as_json(said)]
    assert (await (await agent()).run("Is it cold?")).output == "It is cold."
    [asked] = chat.asked
    assert asked.path.partition("?")[0] == "/v1/messages"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert [tool["name"] for tool in asked.body["tools"]] == ["degrees"]


async def test_tool_calls_of_one_turn_are_answered_together(chat: ChatServer, endpoints: Endpoints) -> None:
    chat.script = [calls(("degrees", {"city": "Oslo"}), ("degrees", {"city": "Rome"})), message("3 and 21")]
    assert (await (await agent()).run("Oslo and Rome?")).output == "3 and 21"
    assert chat.asked[1].results == ["3", "21"]


@pytest.mark.parametrize("wrong", ["{not json", '{"town": "Oslo"}', '{"city": 7}', "[]", "", "null", '"Oslo"'])
async def test_arguments_that_do_not_fit_go_back_to_the_model(
    chat: ChatServer, endpoints: Endpoints, wrong: str
) -> None:
    chat.script = [calls(("degrees", wrong)), calls(("degrees", {"city": "Oslo"})), message("3")]
    assert (await (await agent()).run("Oslo?")).output == "3"
    told, answered = chat.asked[2].results
    assert "city" in told or "JSON" in told or "object" in told.lower()
    assert answered == "3"


async def test_a_tool_there_is_not_is_answered_with_those_there_are(chat: ChatServer, endpoints: Endpoints) -> None:
    chat.script = [calls(("delete_everything", {})), message("I cannot.")]
    assert (await (await agent()).run("Delete everything!")).output == "I cannot."
    [told] = chat.asked[1].results
    assert "degrees" in told


async def test_a_structured_output_comes_in_its_type(chat: ChatServer, endpoints: Endpoints) -> None:
    chat.script = [calls(("final_result", {"city": "Oslo"})), calls(("final_result", {"city": "Oslo", "degrees": 3}))]
    result = await Agent(await model(), output_type=Weather).run("Oslo?")
    assert result.output == Weather(city="Oslo", degrees=3)


async def test_a_provider_that_is_busy_is_asked_again_when_it_says(chat: ChatServer, endpoints: Endpoints) -> None:
    chat.script = [failure(429, retry_after="1"), message("now")]
    assert (await (await agent()).run("Now?")).output == "now"
    assert [asked.headers["x-stainless-retry-count"] for asked in chat.asked] == ["0", "1"]


async def test_a_provider_that_stays_busy_is_given_up(chat: ChatServer, endpoints: Endpoints) -> None:
    endpoints["default"] = endpoint(chat, max_retries=0)
    chat.script = [failure(429, "slow down", retry_after="7")]
    with pytest.raises(ModelHTTPError) as caught:
        await (await agent()).run("Now?")
    assert (caught.value.status_code, caught.value.retry_after) == (429, 7)
    assert len(chat.asked) == 1


@pytest.mark.parametrize(
    "reply",
    [failure(500), Reply(b"<html>Bad gateway</html>", 502, {"content-type": "text/html"}), message("x" * 2000)],
    ids=["500", "502", "cut"],
)
async def test_another_endpoint_steps_in_for_one_that_fails(
    chat: ChatServer, endpoints: Endpoints, reply: Reply
) -> None:
    if reply.status == 200:
        reply.cut = 1000
    endpoints["default"] = endpoint(chat, max_retries=0, fallbacks=["second"])
    endpoints["second"] = endpoint(chat, model="second", max_retries=0)
    chat.script = [reply, message("from the second")]
    assert (await (await agent()).run("Anybody?")).output == "from the second"
    assert [asked.body["model"] for asked in chat.asked] == ["test-model-1", "second"]


async def test_when_all_endpoints_fail_all_are_named(chat: ChatServer, endpoints: Endpoints) -> None:
    endpoints["default"] = endpoint(chat, max_retries=0, fallbacks=["second"])
    endpoints["second"] = endpoint(chat, model="second", max_retries=0)
    chat.script = [failure(500, f"first, key {KEY}"), failure(503, "second")]
    with pytest.raises(FallbackExceptionGroup) as caught:
        await (await agent()).run("Anybody?")
    said = [str(each) for each in caught.value.exceptions]
    assert "first" in said[0]
    assert "second" in said[1]
    assert KEY not in "".join(said)


async def test_a_provider_that_says_nothing_is_given_up(chat: ChatServer, endpoints: Endpoints) -> None:
    endpoints["default"] = endpoint(chat, max_retries=0, timeout_seconds=0.2)
    chat.script = [HANGS]
    with pytest.raises(ModelTimeoutError):
        await (await agent()).run("Hello?")


async def test_a_stream_that_is_cut_is_no_answer(chat: ChatServer, endpoints: Endpoints) -> None:
    endpoints["default"] = endpoint(chat, max_retries=0)
    chat.script = [stream("one ", "two ", "three"), stream("one ", "two ", "three", cut=True)]
    async with (await agent()).run_stream("Count.") as whole:
        assert await whole.get_output() == "one two three"
    with pytest.raises(ModelAPIError):
        async with (await agent()).run_stream("Count.") as cut:
            await cut.get_output()


async def test_a_refusal_is_no_answer(chat: ChatServer, endpoints: Endpoints) -> None:
    chat.script = [refusal("I will not."), refusal("I said no."), message("Well.")]
    with pytest.raises(UnexpectedModelBehavior):
        await (await agent()).run("Do it!")


@pytest.mark.parametrize(
    "reply",
    [
        as_json({}), as_json([]), as_json({"choices": []}), as_json({"choices": [{"message": None}]}),
        Reply(b"not json", 200, {"content-type": "application/json"}),
        Reply(b"\xff\xfe", 200, {"content-type": "application/json"}),
        message(None), message("", finish="length"), message(None, finish="content_filter"),
        as_json(json.loads(calls(("degrees", {})).body) | {"choices": [{"index": 0, "finish_reason": "tool_calls",
            "message": {"role": "assistant", "tool_calls": [{"id": None, "type": "function", "function": {}}]}}]}),
    ],
    ids=range(10),
)  # fmt: skip
async def test_an_absurd_answer_ends_with_an_error_and_never_as_an_output(
    chat: ChatServer, endpoints: Endpoints, reply: Reply
) -> None:
    endpoints["default"] = endpoint(chat, max_retries=0)
    chat.script = [reply] * 4
    with pytest.raises((UnexpectedModelBehavior, ModelAPIError)):
        await (await agent()).run("Well?")


async def test_absurd_calls_do_no_more_than_any_other(chat: ChatServer, endpoints: Endpoints) -> None:
    """An empty id, a name that is no name, and a hundred calls at once."""
    odd = calls(("degrees", {"city": "Oslo"}), ("../degrees\n", {}), ids=["", "x" * 5000])
    many = calls(*[("degrees", {"city": "Oslo"})] * 100)
    chat.script = [odd, many, message("done")]
    assert (await (await agent()).run("Go.")).output == "done"
    assert chat.asked[1].results[0] == "3"
    assert len(chat.asked[2].results) == 2 + 100


async def test_two_calls_with_one_id_are_no_answer(chat: ChatServer, endpoints: Endpoints) -> None:
    """Nobody could tell which of the two was approved."""
    chat.script = [calls(("degrees", {"city": "Oslo"}), ("degrees", {"city": "Rome"}), ids=["same", "same"])]
    with pytest.raises(UnexpectedModelBehavior, match="unique"):
        await (await agent()).run("Go.")


async def test_a_key_that_is_refused_is_named_and_not_shown(chat: ChatServer, endpoints: Endpoints) -> None:
    chat.script = [failure(401, f"Incorrect API key provided: {KEY}")]
    with pytest.raises(ModelHTTPError) as caught:
        await (await agent()).run("Hello?")
    assert caught.value.status_code == 401
    assert "Incorrect API key provided: [redacted]" in str(caught.value)
    seen: BaseException | None = caught.value
    while seen is not None:
        assert KEY not in f"{seen} {seen.args} {vars(seen)}"
        seen = seen.__cause__


async def test_a_block_that_was_changed_is_used_as_it_is_now(
    chat: ChatServer, endpoints: Endpoints, now: object
) -> None:
    chat.script = [message("1"), message("2"), message("3")]
    asking = await agent()
    await asking.run("One")
    endpoints["default"] = endpoint(chat, model="newer", api_key="another key")
    await asking.run("Two")
    now(KEPT_SECONDS + 1)  # type: ignore[operator]
    await asking.run("Three")
    used = [(asked.body["model"], asked.headers["authorization"]) for asked in chat.asked]
    assert used == [("test-model-1", f"Bearer {KEY}")] * 2 + [("newer", "Bearer another key")]
    del endpoints["default"]
    now(KEPT_SECONDS + 1)  # type: ignore[operator]
    with pytest.raises(UsageError, match="gone or offline"):
        await asking.run("Four")
    assert len(chat.asked) == 3


async def test_a_fallback_has_to_be_a_model(chat: ChatServer, endpoints: Endpoints) -> None:
    endpoints["default"] = endpoint(chat, fallbacks=["nothing"])
    with pytest.raises(UsageError, match="model-endpoint/nothing, which is not there or offline"):
        await configured_model()


async def test_without_a_block_there_is_no_model(chat: ChatServer, endpoints: Endpoints) -> None:
    assert await configured_model("another") is None
