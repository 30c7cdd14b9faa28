"""Agent runs as A2A tasks, spoken to by the protocol's own client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from a2a.client.errors import A2AClientError
from a2a.types import GetTaskRequest, ListTasksRequest, TaskState
from a2a.utils.errors import InvalidParamsError, TaskNotFoundError, UnsupportedOperationError

from standby import Policy
from standby.errors import LedgerUnavailable
from standby.gateway.a2a import handler, watching
from standby.states import Role, RunState, WaitState
from standby.waits import Decision
from tests.gateway.agents_client import AT_ONCE, asked, client_of, message, send, shown, state
from tests.gateway.conftest import Gate
from tests.ledger.acts import answer, approval, claim, open_group, parked, signal, take_over
from tests.support.waiting import wait_until

FORM = {"answer_type": "standby.waits:Decision", "answer_schema": json.dumps(Decision.model_json_schema())}
BUYER = "buyer/default"


async def one_more_wait(gate: Gate, key: str = "second", *, run: str = "run") -> Any:
    """The run goes on, as its answer lets it, and asks again; the wait."""
    attempt = (await claim(gate.ledger, run)).attempt
    return (await open_group(gate.ledger, [approval(key, **FORM)], run=run, attempt=attempt)).waits[0]


async def test_the_same_message_starts_one_run_however_often_it_comes(gate: Gate) -> None:
    client = await client_of(gate, Role.SENDER, "ada")
    said = message({"item": "a laptop", "n": 3}, agent=BUYER)
    tasks = await asyncio.gather(*(send(client, said) for _ in range(20)))
    assert {(task.id, state(task)) for task in tasks} == {(tasks[0].id, "submitted")}
    other = await send(client, message({"item": "a laptop"}, agent=BUYER, id="m2", context="c"))
    bobs = await send(await client_of(gate, Role.SENDER, "bob"), said)
    starts = await gate.ledger.starts.all()
    assert sorted(start.id for start in starts) == sorted({tasks[0].id, other.id, bobs.id})
    kept = {start.id: (start.deployment, json.loads(start.parameters), start.context_id) for start in starts}
    assert kept[tasks[0].id] == (BUYER, {"item": "a laptop", "n": 3}, None)
    assert kept[other.id] == (BUYER, {"item": "a laptop"}, "c")
    assert (tasks[0].context_id, other.context_id) == (tasks[0].id, "c")
    signals = {one.source for one in await gate.ledger.signals.all()}
    assert signals == {"a2a:ada", "a2a:bob"}
    assert {made for _, made in await gate.signals()} == {"delivered"}


async def test_a_start_that_cannot_be_is_refused_with_the_field_named(door: Gate) -> None:
    client = await client_of(door, Role.SENDER)
    wrong = {
        "agent": message({}, agent="buyer"),
        "parameters.x.$ref": message({"x": {"$ref": 1}}, agent=BUYER),
        "parts": message([1], agent=BUYER),
        "metadata.agent": message({}, agent=7),  # type: ignore[arg-type]
        "message.message_id": message({}, agent=BUYER, id=""),
        "message.messageId": message({}, agent=BUYER, id="x" * 256),
    }
    for field, said in wrong.items():
        with pytest.raises(InvalidParamsError) as refused:
            await send(client, said)
        data: Any = refused.value.data
        assert [one["field"] for one in data["errors"]] == [field if field != "agent" else "deployment"]
    with pytest.raises(InvalidParamsError, match="9007199254740992: send it as a text part"):
        await send(client, message({"n": 2**53}, agent=BUYER))
    assert await door.ledger.starts.all() == []
    await send(client, message(text='{"n": 9007199254740993}', agent=BUYER))
    [start] = await door.ledger.starts.all()
    assert json.loads(start.parameters) == {"n": 2**53 + 1}


def asks(**columns: Any) -> Callable[[Gate], Any]:
    async def made(gate: Gate) -> None:
        await parked(gate.ledger, [approval(**FORM, evidence="**42 EUR**", **columns)])

    return made


def ended(how: RunState, **what: str) -> Callable[[Gate], Any]:
    async def made(gate: Gate) -> None:
        await claim(gate.ledger)
        assert await gate.ledger.runs.end("run", 1, how, **what)

    return made


async def running(gate: Gate) -> None:
    await claim(gate.ledger)


async def waiting_for_no_person(gate: Gate) -> None:
    await parked(gate.ledger, [signal()])


TWO = Policy(quorum=2).model_dump_json()
BOB = Policy(approvers=("bob",)).model_dump_json()


@pytest.mark.parametrize(
    ("how", "role", "expected"),
    [
        (running, Role.VIEWER, "working"),
        (waiting_for_no_person, Role.APPROVER, "working"),
        (asks(), Role.APPROVER, "input_required"),
        (asks(party="finance"), Role.APPROVER, "input_required"),
        (asks(policy=TWO), Role.APPROVER, "input_required"),
        (asks(), Role.VIEWER, "auth_required"),
        (asks(party="law"), Role.APPROVER, "auth_required"),
        (asks(policy=BOB), Role.APPROVER, "auth_required"),
        (asks(policy=BOB), Role.ADMIN, "auth_required"),
        (ended(RunState.COMPLETED, result='{"paid": 3}'), Role.VIEWER, "completed"),
        (ended(RunState.FAILED, error="ValueError: no"), Role.VIEWER, "failed"),
        (ended(RunState.CANCELLED), Role.VIEWER, "canceled"),
    ],
)
async def test_a_tasks_state_is_what_the_ledger_says_to_who_asks(
    door: Gate, how: Callable[[Gate], Any], role: Role, expected: str
) -> None:
    await how(door)
    task = await (await client_of(door, role, "ada", parties=["finance"])).get_task(GetTaskRequest(id="run"))
    assert (task.id, state(task)) == ("run", expected)
    if expected.endswith("required"):
        [wait] = asked(task)
        assert (wait["reason"], wait["form"]["required"]) == ("reason of approval", ["approved"])
        assert (wait["why_not_you"] is None) == (expected == "input_required")
        assert "**42 EUR**" in task.status.message.parts[0].text
    if expected == "completed":
        [artifact] = task.artifacts
        assert shown(artifact.parts[0])["data"] == {"paid": 3}
    if expected == "failed":
        assert task.status.message.parts[0].text == "ValueError: no"


async def test_a_person_who_has_decided_is_not_asked_again(door: Gate) -> None:
    [wait] = (await parked(door.ledger, [approval(**FORM, policy=TWO)])).waits
    await answer(door.ledger, wait.id, '{"approved": true}', actor="ada")
    ada, bob = [await client_of(door, Role.APPROVER, name) for name in ("ada", "bob")]
    states = [state(await client.get_task(GetTaskRequest(id="run"))) for client in (ada, bob)]
    assert states == ["auth_required", "input_required"]


@pytest.mark.parametrize("result", ['{"n": 9007199254740993}', '"\\ud800"', "[" * 60 + "]" * 60, "null", "1.5"])
async def test_a_result_comes_as_it_is(door: Gate, result: str) -> None:
    """As JSON text where the protocol's own values would change it."""
    await ended(RunState.COMPLETED, result=result)(door)
    task = await (await client_of(door, Role.VIEWER)).get_task(GetTaskRequest(id="run"))
    part = shown(task.artifacts[0].parts[0])
    assert (json.loads(part["text"]) if "text" in part else part["data"]) == json.loads(result)


async def test_an_answer_settles_the_wait_and_the_audit_says_who_and_how(gate: Gate) -> None:
    [wait] = (await parked(gate.ledger, [approval(**FORM)])).waits
    client = await client_of(gate, Role.APPROVER, "ada")
    task = await send(client, message({"approved": True, "comment": "ok"}, task="run"))
    assert state(task) == "working"
    settled = await gate.ledger.waits.get(wait.id)
    assert (settled.state, json.loads(settled.answer)) == (WaitState.SETTLED, {"approved": True, "comment": "ok"})
    [decision] = await gate.ledger.waits.decisions_of("run")
    assert (decision.actor, decision.door, decision.verdict, decision.note) == ("ada", "a2a", "won", "message m1")


async def test_a_message_that_is_sent_again_does_not_answer_the_next_question(gate: Gate) -> None:
    """Row 30: the response was lost, the run has gone on, and asks something else meanwhile."""
    await parked(gate.ledger, [approval("first", **FORM)])
    client = await client_of(gate, Role.APPROVER, "ada")
    said = message({"approved": True}, task="run")
    await send(client, said)
    second = await one_more_wait(gate)
    again = await send(client, said)
    assert state(again) == "input_required"
    assert (await gate.ledger.waits.get(second.id)).state == WaitState.OPEN
    await send(client, message({"approved": False}, task="run", id="m2"))
    assert json.loads((await gate.ledger.waits.get(second.id)).answer)["approved"] is False
    assert len(await gate.ledger.waits.decisions_of("run")) == 2


async def test_an_answer_that_does_not_fit_leaves_the_task_asking(door: Gate) -> None:
    [wait] = (await parked(door.ledger, [approval(**FORM)])).waits
    client = await client_of(door, Role.APPROVER)
    wrong = [
        (message({"approved": "perhaps"}, task="run"), "approved"),
        (message(text="yes", task="run"), "answer"),
        (message({"approve": True}, task="run"), "approve"),
        (message({"approved": True}, text="{}", task="run"), "parts"),
        (message({"approved": True}, task="run", wait_id="none"), "metadata.wait_id"),
        (message({"approved": True}, task="run", context="other"), "contextId"),
    ]
    for said, field in wrong:
        with pytest.raises(InvalidParamsError) as refused:
            await send(client, said)
        data: Any = refused.value.data
        assert [one["field"] for one in data["errors"]] == [field]
    assert (await door.ledger.waits.get(wait.id)).state == WaitState.OPEN
    assert state(await send(client, message(text='{"approved": true}', task="run"))) == "working"


async def test_who_may_not_answer_is_refused_and_in_the_audit(gate: Gate) -> None:
    """Row 58."""
    await parked(gate.ledger, [approval(**FORM, party="finance", policy=BOB)])
    tries: list[tuple[Role, str, list[str] | None, str]] = [
        (Role.VIEWER, "vic", None, "The key of vic has the role viewer; this takes one of: admin, approver"),
        (Role.APPROVER, "eve", ["law"], "eve does not answer for finance, who is asked here"),
        (Role.APPROVER, "ada", ["finance"], "ada is not among bob"),
    ]
    for role, name, parties, why in tries:
        with pytest.raises(UnsupportedOperationError, match=why):
            await send(await client_of(gate, role, name, parties=parties), message({"approved": True}, task="run"))
    decisions = await gate.ledger.waits.decisions_of("run")
    assert [(one.actor, one.door, one.verdict) for one in decisions] == [
        (name, "a2a", "refused") for _, name, *_ in tries
    ]


async def test_who_comes_second_is_told_who_was_first(door: Gate) -> None:
    [wait] = (await parked(door.ledger, [approval(**FORM)])).waits
    await answer(door.ledger, wait.id, '{"approved": true}', actor="bob")
    client = await client_of(door, Role.APPROVER)
    with pytest.raises(UnsupportedOperationError, match="asks nothing now"):
        await send(client, message({"approved": False}, task="run"))
    late = message({"approved": False}, id="m2", task="run", wait_id=wait.id)
    with pytest.raises(UnsupportedOperationError, match="bob was first"):
        await send(client, late)
    second = await one_more_wait(door)
    late.metadata.Clear()
    with pytest.raises(UnsupportedOperationError, match="bob was first"):
        await send(client, late)
    assert (await door.ledger.waits.get(second.id)).state == WaitState.OPEN, "it was about the first"


async def test_of_several_questions_the_message_names_the_one_it_answers(door: Gate) -> None:
    rows = [approval("a", **FORM, party="finance"), approval("b", **FORM, party="finance"), approval("c", party="law")]
    waits = (await parked(door.ledger, rows)).waits
    client = await client_of(door, Role.APPROVER, parties=["finance"])
    with pytest.raises(InvalidParamsError, match=rf"metadata.wait_id: .*{waits[0].id} \(a\), {waits[1].id} \(b\)$"):
        await send(client, message({"approved": True}, task="run"))
    await send(client, message({"approved": True}, task="run", wait_id=waits[1].id))
    assert (await door.ledger.waits.get(waits[1].id)).state == WaitState.SETTLED
    await send(await client_of(door, Role.APPROVER, "law", parties=["law"]), message({}, task="run", id="m2"))
    assert (await door.ledger.waits.get(waits[2].id)).state == WaitState.SETTLED, "the one that asks them"


async def test_a_sender_sees_what_they_have_started_and_nothing_else(door: Gate) -> None:
    await claim(door.ledger)
    ada, bob = [await client_of(door, Role.SENDER, name) for name in ("ada", "bob")]
    mine = await send(ada, message({}, agent=BUYER))
    assert state(await ada.get_task(GetTaskRequest(id=mine.id))) == "submitted"
    for client, task_id in ((bob, mine.id), (ada, "run"), (ada, "none")):
        with pytest.raises(TaskNotFoundError):
            await client.get_task(GetTaskRequest(id=task_id))
    assert [task.id for task in (await ada.list_tasks(ListTasksRequest())).tasks] == [mine.id]
    assert (await bob.list_tasks(ListTasksRequest())).total_size == 0
    viewer = await client_of(door, Role.VIEWER)
    assert {task.id for task in (await viewer.list_tasks(ListTasksRequest())).tasks} == {mine.id, "run"}
    with pytest.raises(UnsupportedOperationError, match="the role viewer"):
        await send(viewer, message({}, agent=BUYER))


async def test_tasks_come_by_the_page_and_by_what_is_asked_for(gate: Gate) -> None:
    client = await client_of(gate, Role.ADMIN)
    started = [await send(client, message({}, agent=BUYER, id=f"m{n}", context=f"c{n % 2}")) for n in range(4)]
    await parked(gate.ledger, [approval(**FORM)], run="asks")
    await claim(gate.ledger, "works")
    newest_first = ["works", "asks", *(task.id for task in reversed(started))]
    pages, token = [], ""
    while not pages or token:
        page = await client.list_tasks(ListTasksRequest(page_size=4, page_token=token))
        assert page.total_size == 6
        pages.append([task.id for task in page.tasks])
        token = page.next_page_token
    assert pages == [newest_first[:4], newest_first[4:]]
    asking = await client.list_tasks(ListTasksRequest(status=TaskState.TASK_STATE_INPUT_REQUIRED, page_size=1))
    assert [task.id for task in asking.tasks] == ["asks"]
    context = await client.list_tasks(ListTasksRequest(context_id="c1"))
    assert [task.id for task in context.tasks] == [started[3].id, started[1].id]
    since = ListTasksRequest()
    since.status_timestamp_after.FromDatetime(
        (await gate.ledger.runs.get("works")).started_at - timedelta(seconds=1e-6)
    )
    assert [task.id for task in (await client.list_tasks(since)).tasks] == ["works"]
    for wrong in (ListTasksRequest(page_size=101), ListTasksRequest(page_token="x")):
        with pytest.raises(InvalidParamsError):
            await client.list_tasks(wrong)


async def test_a_task_is_found_by_its_runs_id_too(door: Gate) -> None:
    client = await client_of(door, Role.ADMIN)
    task = await send(client, message({}, agent=BUYER))
    await door.ledger.starts.started(task.id, "run")
    await claim(door.ledger)
    by_run = await client.get_task(GetTaskRequest(id="run"))
    assert (by_run.id, state(by_run)) == (task.id, "working")
    assert [one.id for one in (await client.list_tasks(ListTasksRequest())).tasks] == [task.id]


async def test_one_that_ended_in_prefect_before_it_began_has_ended(door: Gate) -> None:
    client = await client_of(door, Role.ADMIN)
    for n, (how, expected) in enumerate(((RunState.CANCELLED, "canceled"), (RunState.FAILED, "failed"))):
        task = await send(client, message({}, agent=BUYER, id=f"m{n}"))
        await door.ledger.starts.close(task.id, how)
        assert state(await client.get_task(GetTaskRequest(id=task.id))) == expected


async def test_a_message_waits_until_the_task_asks_or_is_over(door: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "EVERY_SECONDS", 0.02)
    client = await client_of(door, Role.ADMIN)
    sending = asyncio.create_task(send(client, message({}, agent=BUYER), AT_ONCE.__class__()))
    starts = await wait_until(door.ledger.starts.all)
    await door.ledger.starts.started(starts[0].id, "run")
    await parked(door.ledger, [approval(**FORM)])
    assert state(await asyncio.wait_for(sending, 30)) == "input_required"
    monkeypatch.setattr(handler, "PATIENCE_SECONDS", 0.1)
    assert state(await send(client, message({"approved": True}, task="run", id="m2"), AT_ONCE.__class__())) == "working"


async def test_a_retried_run_is_at_work_again(door: Gate) -> None:
    await ended(RunState.FAILED, error="x")(door)
    assert await take_over(door.ledger)
    assert state(await (await client_of(door, Role.VIEWER)).get_task(GetTaskRequest(id="run"))) == "working"


async def test_a_ledger_that_is_away_is_no_loss(door: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await client_of(door, Role.SENDER)

    async def away(**_: object) -> None:
        raise LedgerUnavailable("there", "gone")

    monkeypatch.setattr(door.ledger.signals, "deliver", away)
    with pytest.raises(A2AClientError, match="HTTP Error 503"):
        await send(client, message({}, agent=BUYER))


async def test_nobody_comes_in_without_a_good_key(door: Gate) -> None:
    for headers in ({}, {"Authorization": "Bearer sb_x"}):
        answered = await door.client.post(
            "/a2a", json={"jsonrpc": "2.0", "id": 1, "method": "GetTask"}, headers=headers
        )
        assert (answered.status_code, "key" in answered.json()["error"]) == (401, True)
    public = await door.client.get("/.well-known/agent-card.json")
    assert (public.status_code, [skill["id"] for skill in public.json()["skills"]]) == (200, ["agents"])
    refused = await door.client.get("/.well-known/agent-card.json", headers={"Authorization": "Bearer sb_x"})
    assert refused.status_code == 401


SAYS = '{"message": {"messageId": "%s", "role": "ROLE_USER", "parts": [%s], "metadata": {"agent": "%s"}}}'
CALLS = [
    ("Nothing", "{}"), ("GetTask", "null"), ("GetTask", "[]"), ("GetTask", '{"id": 7}'), ("GetTask", "{}"),
    ("GetTask", '{"id": "\\u0000"}'), ("CancelTask", '{"id": "x\\u0000"}'), ("SubscribeToTask", '{"id": ""}'),
    ("SendMessage", "{}"), ("SendMessage", SAYS % ("a\\u0000", '{"text": "x"}', "a/b")),
    ("SendMessage", SAYS % ("a", '{"data": NaN}', "a/b")),
    ("SendMessage", SAYS % ("a", '{"data": {"x": 1e999}}', "a/b")),
    ("SendMessage", SAYS % ("a", '{"data": {}}', "a\\u0000/b")),
    ("SendMessage", SAYS % ("a", '{"raw": "eA=="}', "a/b")),
    ("SendMessage", SAYS % ("a", '{"data": ' + "[" * 150 + "]" * 150 + "}", "a/b")),
    ("SendMessage", '{"message": {"messageId": "a", "taskId": "\\u0000", "parts": [{"text": "x"}]}}'),
    ("ListTasks", '{"contextId": "\\u0000"}'), ("ListTasks", '{"pageToken": "nan/x"}'),
    ("ListTasks", '{"pageSize": -1}'),
    ("ListTasks", '{"pageToken": "1e300/x"}'), ("GetTaskPushNotificationConfig", '{"taskId": "x", "id": "\\u0000"}'),
    ("CreateTaskPushNotificationConfig", '{"taskId": "x", "url": "file:///etc/passwd"}'),
]  # fmt: skip
BODIES = [
    b"", b"{", b"\xff", b"[]", b"7", b"null", b"[" * 5000, b"{}", b'{"jsonrpc": "2.0", "id": "\\ud800", "method": "x"}',
    b'{"jsonrpc": "2.0", "id": [1], "method": "GetTask"}', b'{"jsonrpc": "1.0", "id": 1, "method": "GetTask"}',
    *(f'{{"jsonrpc": "2.0", "id": 1, "method": "{method}", "params": {params}}}'.encode() for method, params in CALLS),
]  # fmt: skip


async def test_no_body_breaks_it(gate: Gate) -> None:
    """What is refused is told so in the protocol's terms, as no fault of the gateway's."""
    headers = {"Content-Type": "application/json", "A2A-Version": "1.0"} | await gate.as_(Role.ADMIN)
    for body in BODIES:
        answered = await gate.client.post("/a2a", content=body, headers=headers)
        assert answered.status_code == 200, (body, answered.text)
        assert answered.json()["error"]["code"] != -32603, (body, answered.text)
    assert await gate.ledger.starts.all() == []
