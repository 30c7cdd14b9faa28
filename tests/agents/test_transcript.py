"""What people see of an agent's thinking: all of it, and no secrets."""

import asyncio
import json
import threading
from time import process_time
from typing import Any

import pytest
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from pydantic_ai import Agent
from pydantic_ai.messages import ToolCallPart

from standby import agent, step, view
from standby.agents import AgentScope, run_agent, transcript
from standby.agents.redaction import redacted, redacted_text
from standby.agents.transcript import as_markdown, threads_of
from standby.connect import Place
from standby.ledger.checkpoints import Entry
from standby.states import CheckpointKind, CheckpointState
from tests.agents.bench import Bench
from tests.agents.conftest import Script, allow, ask, call
from tests.fundamentals.conftest import Desk

KEY = "sk-proj-abcdefghijklmnopqrstuvwx"


async def test_the_transcript_stands_in_the_ledger_and_as_an_artifact_without_secrets(desk: Desk) -> None:
    script = Script(
        [call("look", where="*here*", api_key="hunter2hunter2"), call("send", to="ada")],
        f"done with {KEY} # not a title",
    )
    thinker: Agent[None, str] = Agent(script.model, name="thinker")

    @thinker.tool_plain
    async def look(where: str, api_key: str) -> dict[str, Any]:
        return {"found": f"the password: swordfish at https://user:hunter2@{where}", "tokens": 7}

    @thinker.tool_plain
    async def send(to: str) -> str:
        return "sent"

    @agent
    async def research() -> str | None:
        scope = AgentScope(tools=(*allow("look").tools, *ask("send").tools))
        return (await run_agent(thinker, f"find it with {KEY}", scope=scope)).output

    run = await desk.start(research)
    await run.answer({"approved": True}, actor="grace")
    await run.result()
    journal = await desk.ledger.checkpoints.journal(run.id)
    [thread] = threads_of(journal, await desk.ledger.grants.of_run(run.id))
    calls = thread["turns"][0]["calls"]
    assert [(one["tool"], one["outcome"], one["approved_by"]) for one in calls] == [
        ("look", "success", None), ("send", "success", "grace"),
    ]  # fmt: skip
    assert calls[0]["arguments"] == {"where": "*here*", "api_key": "[redacted]"}
    assert calls[0]["result"]["tokens"] == 7
    assert (thread["requests"], thread["tool_calls"], thread["tokens"], thread["money"]) == (2, 2, 10 * 2, None)
    text = as_markdown(thread)
    for shown in (text, json.dumps(thread)):
        for secret in (KEY, "hunter2", "swordfish"):
            assert secret not in shown
    assert "```text\ndone with [redacted] # not a title\n```" in text

    row = await desk.ledger.runs.get(run.id)
    shown_to_people = await view.run_view(desk.ledger, Place(desk.url, None), row)
    assert shown_to_people["agents"] == [thread]

    mine = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))  # type: ignore[list-item]
    artifacts = [one for one in await desk.client.read_artifacts(artifact_filter=mine) if one.type == "markdown"]
    assert text in [artifact.data for artifact in artifacts]
    assert len(artifacts) == 2, "one when it parked, one at the end"


async def test_what_a_person_changed_is_shown_as_it_was_run(desk: Desk) -> None:
    made: list[str] = []
    script = Script([call("send", to="eve"), call("look"), call("send", to="ada"), call("send", to="ben")], "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker")

    @thinker.tool_plain
    async def look() -> str:
        return "seen"

    @thinker.tool_plain
    async def send(to: str, password: str = "") -> str:
        made.append(to)
        return "sent"

    @agent
    async def research() -> str | None:
        scope = AgentScope(tools=(*allow("look").tools, *ask("send").tools))
        return (await run_agent(thinker, "send it", scope=scope)).output

    run = await desk.start(research)
    changed = {"to": "zoe's friend", "password": "hunter2hunter2"}
    await run.answer({"approved": True, "refuse_1": True, "arguments_2": json.dumps(changed)}, actor="zoe")
    await run.result()
    assert sorted(made) == ["ben", "zoe's friend"]
    row = await desk.ledger.runs.get(run.id)
    [thread] = (await view.run_view(desk.ledger, Place(desk.url, None), row))["agents"]
    calls = thread["turns"][0]["calls"]
    shown = {"to": "zoe's friend", "password": "[redacted]"}
    assert [one["changed_to"] for one in calls] == [None, None, shown, None]
    assert [one["arguments"].get("to") for one in calls] == ["eve", None, "ada", "ben"], (
        "the model's own stand there too"
    )
    assert f"Changed by zoe to:\n\n```text\n{json.dumps(shown, indent=2)}\n```" in as_markdown(thread)
    artifact = await transcript.read_markdown(desk.ledger, run.id)
    assert artifact == as_markdown(thread)


async def test_other_runs_go_on_while_a_long_transcript_is_written(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, begun, others_went_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def threads(*_: object) -> list[Any]:
        loop.call_soon_threadsafe(begun.set)
        assert others_went_on.wait(30), "nothing else ran meanwhile"
        return []

    async def other() -> None:
        await begun.wait()
        others_went_on.set()

    monkeypatch.setattr(transcript, "threads_of", threads)
    for read in (transcript.read_markdown(desk.ledger, "1"), transcript.read_threads(desk.ledger, "1", [])):
        begun.clear()
        others_went_on.clear()
        await asyncio.gather(read, other())


async def test_the_call_that_is_the_output_is_not_shown_as_under_way(desk: Desk) -> None:
    thinker: Agent[None, int] = Agent(Script(call("final_result", response=7)).model, name="thinker", output_type=int)

    @agent
    async def research() -> int | None:
        return (await run_agent(thinker, "count", scope=AgentScope())).output

    run = await desk.start(research)
    assert await run.result() == 7
    [thread] = threads_of(await desk.ledger.checkpoints.journal(run.id))
    [one] = thread["turns"][0]["calls"]
    assert (one["tool"], one["outcome"]) == ("final_result", "the output")


@pytest.mark.parametrize(
    "text",
    [
        KEY, "sk-ant-api03-AAAAAAAAAAAAAAAAAAAA", "ghp_" + "a" * 36, "AKIAIOSFODNN7EXAMPLE", "xoxb-1234567890-abcdef",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-def",
        "Authorization: Bearer abcdef0123456789", "postgresql://me:hunter22@db/x", 'password="hunter22"',
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "api_key=hunter22",
        "redis://:hunter22@db", "postgresql://me:hun/ter22@db/x", "postgresql://me:h@unter22@db/x", "pwd=hunter22",
        "Authorization: Token hunter22", r'{"a": "{\"password\": \"hunter22\"}"}', "Authorization: ApiKey hunter22",
        "password='correct hunter22 battery staple'", r'{"a": "{\"password\": \"correct hunter22 staple\"}"}',
        "secret_key: hunter22", 'access_key="hunter22"', "client-secret-value = hunter22", "private_key=hunter22",
        "https://hunter22hunter22@github.com/x", "apiToken: hunter22", "passcode: hunter22", "credentials=hunter22",
        "SG.abcdefghijklmnopqrhunter22.abcdefghijklmnopqrstuvwxyzabcdefghijklmnopq", "xapp-1-A111-222-hunter22abcdef",
        "npm_abcdefghijklmnopqrstuvwxyz01hunter22", "hf_abcdefghijklmnopqrstuvhunter22", "ya29.a0AfH6SMBabcdehunter22",
        "https://hooks.slack.com/services/T000/B000/hunter22hunter22", "password: correct horse hunter22",
        "the Passphrase: tin hunter22\n", "user: ada password: tin hunter22 x1! host: db", "pwd: a1 b2 c3 hunter22.",
        '[["password", "hunter22"]]', '[["user", "ada"], [\'api_key\', \'hunter22\']]',
        r'"[[\"user\", \"ada\"], [\"password\", \"hunter22\"]]"', '{"name": "password", "value": "hunter22"}',
        r'"{\"key\": \"apiToken\", \"value\": \"hunter22\"}"',
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_left_out(text: str) -> None:
    shown = redacted_text(f"before {text} after")
    assert "[redacted]" in shown
    assert not any(
        part in shown for part in ("hunter22", "ter22", "MIIE", "abcdef0123456789", "OSFODNN7", KEY[8:], "aaaa")
    )
    assert shown.startswith("before ")


def test_names_of_secrets_hide_their_values_and_nothing_else_is_hidden() -> None:
    value = {
        "Password": "x",
        "nested": [{"access_token": ["y"]}],
        "max_tokens": 5,
        "token": 3,
        "note": "a token of love",
        "passwords": ["z"],
        "pin_password": 1234,
        "apiToken": "x",
        "botToken": "y",
        "SECRET_KEY": "x",
        "access_key": "x",
        "accessKeyId": "z",
        "passcode": "123",
        "totalTokens": 9,
        "tokenizer": "bpe",
        "next_token_count": "7",
    }
    assert redacted(value) == {
        "Password": "[redacted]", "nested": [{"access_token": "[redacted]"}], "max_tokens": 5, "token": 3,
        "note": "a token of love", "passwords": "[redacted]", "pin_password": "[redacted]",
        "apiToken": "[redacted]", "botToken": "[redacted]", "SECRET_KEY": "[redacted]", "access_key": "[redacted]",
        "accessKeyId": "[redacted]", "passcode": "[redacted]", "totalTokens": 9, "tokenizer": "bpe",
        "next_token_count": "7",
    }  # fmt: skip


def test_a_secret_is_known_by_a_name_that_stands_beside_it() -> None:
    hidden = "[redacted]"
    value = {
        "headers": [["Authorization", "x"], ["Accept", "y"]],
        "pairs": (("password", ["x"]), ("user", {"token": "x"}), ("max_tokens", 5)),
        "env": [{"name": "DB_PASSWORD", "value": "x"}, {"Key": "api_key", "Value": ["x"]}, {"name": "a", "value": "b"}],
        "fields": [{"label": "Password", "type": "text", "value": "x"}, {"key": "tokens", "value": 7}],
        "required": ["password", "user"],
        "table": [["password", "user"], ["n"]],
        "schema": {"name": "password", "type": "string", "title": "Word"},
        "none": [],
    }
    assert redacted(value) == {
        "headers": [["Authorization", hidden], ["Accept", "y"]],
        "pairs": [["password", hidden], ["user", {"token": hidden}], ["max_tokens", 5]],
        "env": [
            {"name": "DB_PASSWORD", "value": hidden}, {"Key": "api_key", "Value": hidden}, {"name": "a", "value": "b"},
        ],
        "fields": [{"label": "Password", "type": "text", "value": hidden}, {"key": "tokens", "value": 7}],
        "required": ["password", "user"],
        "table": [["password", "user"], ["n"]],
        "schema": {"name": "password", "type": "string", "title": "Word"},
        "none": [],
    }  # fmt: skip
    assert redacted([["password", "x"]]) == [["password", hidden]]


@pytest.mark.parametrize(
    "value",
    [
        [["cookies", 12], ["cakes", 3]],
        {"name": "Cookies", "value": 12},
        {"field": "Secret Santa", "value": "Bob"},
        [["Authorization status", "open"]],
    ],
)
def test_what_is_counted_or_labelled_beside_a_value_is_no_secret(value: Any) -> None:
    assert redacted(value) == value


@pytest.mark.parametrize(
    "text",
    [
        "http://db:80/x?mail=me@x.org",
        "https://db:8080 is me@x.org",
        "tokens: 12345",
        "ssh://git@github.com/x",
        "https://me@example.org/x",
        "the secretary: ada",
        "a password is asked for",
        "token ring: x",
        "https://example.org/users/@somebody-with-a-long-name",
        "password: at least 8 characters, of which one is a digit",
        "Password: 12 characters minimum",
        "Passcode: to be set by ada",
        "pass: 12 of 14 tests",
        'the fields ["password", "name of the user"] are required',
        '{"name": "password", "type": "string"}',
        '[["name", "value"], ["port", "5432"]]',
    ],
)
def test_what_only_resembles_a_secret_is_shown(text: str) -> None:
    assert redacted_text(text) == text


@pytest.mark.parametrize(
    "part",
    [
        "a",
        "-eyJ",
        "eyJaaaaaaaa.",
        "://a:",
        "pass",
        "_-",
        "password\\",
        "token     ",
        "sk-a ",
        "password='",
        "password='a ",
        "://a@",
        "SG.aaaaaaaaaaaaaaaa.",
        "secret_key",
        "secret_",
        "authorization: a ",
        "ya29.",
        "password: a ",
        "passcode: aaaaaaa",
        "pwd: a the ",
        '[["password","',
        ",[",
        'password","value":',
        'password",\\',
    ],
)
def test_no_text_takes_more_time_than_its_length(part: str) -> None:
    """A page that a tool has fetched may have been made for it. What is quadratic takes minutes here."""
    before = process_time()
    redacted_text(part * (200_000 // len(part)))
    assert process_time() - before < 3


_DEEP = [(level, kind) for level in (40, 150, 600, 2000) for kind in ("lists", "objects")]


@pytest.mark.parametrize(("levels", "kind"), _DEEP)
async def test_what_is_deep_is_shown_as_the_text_it_is(bench: Bench, levels: int, kind: str) -> None:
    opens, closes = ("[", "]") if kind == "lists" else ('{"a": ', "}")
    given = f'{{"x": {opens * levels}"password=hunter22"{closes * levels}}}'
    thinker: Agent[None, str] = Agent(Script(ToolCallPart("go", given), "done").model, name="thinker")

    @thinker.tool_plain
    async def go(x: Any) -> Any:
        return x

    async def work() -> str | None:
        return (await run_agent(thinker, "x", scope=allow("go"))).output

    run = await bench.start(work)
    assert await run.result() == "done"
    shown = await view.run_view(bench.ledger, Place("", None), await bench.ledger.runs.get(run.id))
    [one] = shown["agents"][0]["turns"][0]["calls"]
    text = given.replace("hunter22", "[redacted]")
    assert one["arguments"] == (text if levels > 40 else json.loads(text))
    markdown = await transcript.read_markdown(bench.ledger, run.id)
    assert (text[:1000] in markdown) is (levels > 40)
    assert "hunter22" not in json.dumps(shown["agents"]) + markdown


def test_what_cannot_be_read_at_all_hides_nothing_else() -> None:
    turn = {"messages": [{"parts": []}, {"parts": [{"part_kind": "tool-call", "tool_name": "go", "args": None}]}]}
    unreadable = ("[" * 100_000 + "]" * 100_000, "9" * 5000)
    values = {"thinker": "{}", "thinker/1.model": json.dumps(turn)}
    values |= {f"thinker/1.{number}.go": text for number, text in enumerate(unreadable, start=1)}
    journal = [
        Entry(key, None, CheckpointKind.STEP, CheckpointState.RECORDED, value, None, None)
        for key, value in values.items()
    ]
    [thread] = threads_of(journal)
    assert [one["tool"] for one in thread["turns"][0]["calls"]] == ["go"]
    assert "**go**" in as_markdown(thread)


async def test_requests_and_calls_are_task_runs_where_that_is_asked_for(desk: Desk) -> None:
    script = Script([call("look", n=1), call("look", n=2)], "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker")

    @thinker.tool_plain
    async def look(n: int) -> int:
        return n

    @step
    async def last() -> None: ...

    @agent
    async def research() -> str | None:
        found = await run_agent(thinker, "find it", scope=allow("look"), visible=True)
        await last()
        return found.output

    run = await desk.start(research)
    assert await run.result() == "done"
    assert await run.task_runs(up_to="last") == {
        "thinker/1.model": 1, "thinker/1.1.look": 1, "thinker/1.2.look": 1, "thinker/2.model": 1, "last": 1,
    }  # fmt: skip
