"""`POST /signals/{topic}`: for senders with a key; a 2xx means that the ledger has it."""

import asyncio
import json

import httpx
import pytest
from pydantic import BaseModel, JsonValue

from standby import Approval
from standby.ledger import Ledger
from standby.states import Role, WaitState
from tests.gateway.conftest import Gate
from tests.ledger.acts import claim, open_group, parked, signal


class Settlement(BaseModel):
    amount: int


async def test_a_signal_settles_the_wait_for_its_topic_and_key(gate: Gate) -> None:
    [wait] = (await parked(gate.ledger, [signal()])).waits
    sent = await gate.client.post(
        "/signals/paid", json={"key": "7", "payload": {"amount": 3}}, headers=await gate.as_(Role.SENDER, "bank")
    )
    assert (sent.status_code, sent.json()["disposition"], sent.json()["wait_id"]) == (200, "delivered", wait.id)
    settled = await gate.ledger.waits.get(wait.id)
    assert (settled.state, settled.answer) == (WaitState.SETTLED, '{"amount":3}')
    [decision] = await gate.ledger.waits.decisions_of("run")
    assert decision.actor == "key:bank"


async def test_one_that_comes_early_is_kept_and_used(gate: Gate) -> None:
    sent = await gate.client.post("/signals/paid", json={"key": "7"}, headers=await gate.as_(Role.SENDER))
    assert sent.json()["disposition"] == "buffered"
    await claim(gate.ledger)
    [wait] = (await open_group(gate.ledger, [signal()])).waits
    assert wait.answer == "null"
    assert await gate.signals() == [("paid", "delivered")]


async def test_what_means_something_to_standby_itself_is_not_for_every_sender(gate: Gate) -> None:
    """To stop an agent one may cancel it; nobody sends the starts that other agents' requests are kept as."""
    await claim(gate.ledger)
    mallory, root = await gate.as_(Role.SENDER, "mallory"), await gate.as_(Role.ADMIN, "root")
    for body in ({"key": "run"}, {"key": "no such run"}, {}):
        refused = await gate.client.post("/signals/agent.stop", json=body, headers=mallory)
        assert (refused.status_code, "mallory has started no run" in refused.json()["error"]) == (403, True)
    for headers in (mallory, root):
        body = {"key": "mcp:bob/1", "start": {"deployment": "seller/live"}}
        refused = await gate.client.post("/signals/standby.start", json=body, headers=headers)
        assert refused.status_code == 403
    assert (await gate.client.post("/signals/agent.stop", json={"key": "run"}, headers=root)).status_code == 200
    assert await gate.signals() == [("agent.stop", "buffered")]


async def test_one_that_may_start_a_run_starts_it_or_is_refused_with_the_field_named(gate: Gate) -> None:
    """While Prefect cannot be asked it is taken, and says that a run will start."""
    sender = await gate.as_(Role.SENDER)
    start = {"deployment": "seller/live", "payload_as": "order"}
    wrong = [({"start": {"deployment": "seller"}, "key": "7"}, "body.start.deployment"), ({"start": start}, "key")]
    for body, field in wrong:
        refused = await gate.client.post("/signals/paid", json=body, headers=sender)
        assert (refused.status_code, refused.json()["problems"][0]["field"]) == (422, field)
    told = []
    for delivery in ("a", "a", "b"):
        body = {"key": "7", "delivery_id": delivery, "start": start}
        told.append((await gate.client.post("/signals/paid", json=body, headers=sender)).json())
    assert [(one["disposition"], one["starts"]) for one in told] == [
        ("delivered", True), ("duplicate", True), ("buffered", False)
    ]  # fmt: skip
    assert len(await gate.ledger.starts.all()) == 1


async def test_what_needs_no_start_is_taken_whatever_its_start_says(gate: Gate) -> None:
    """Beside many others, which are taken in together with it."""
    await parked(gate.ledger, [signal()])
    sender = await gate.as_(Role.SENDER)
    start = {"deployment": "seller/live", "payload_as": "order", "parameters": {"order": 1}}

    async def send(key: str | None, delivery: str) -> httpx.Response:
        body = {"key": key, "delivery_id": delivery, "start": start}
        return await gate.client.post("/signals/paid", json=body, headers=sender)

    assert (await send("7", "a")).json()["disposition"] == "delivered"
    assert (await send("7", "b")).json()["disposition"] == "buffered"
    others = [gate.client.post("/signals/paid", json={"key": str(n)}, headers=sender) for n in range(100, 120)]
    refused, *taken = await asyncio.gather(send("8", "c"), *others)
    assert (refused.status_code, refused.json()["problems"][0]["field"]) == (422, "start.payload_as")
    assert {one.status_code for one in taken} == {200}
    assert (await send("7", "a")).json()["disposition"] == "duplicate"
    assert len(await gate.signals()) == 22, "of what was refused there is nothing"
    assert await gate.ledger.starts.all() == []


@pytest.mark.parametrize(
    "name",
    [
        "a/b\n",
        "a\0/b",
        "../count",
        "a/..",
        "./b",
        "a/b?x=1",
        "a/b#c",
        "a%2fb/c",
        "a/b&c",
        "a/b/c",
        "a/",
        "a" * 512 + "/b",
    ],
)
async def test_what_no_deployment_can_be_called_is_refused_also_while_prefect_cannot_be_asked(
    gate: Gate, name: str
) -> None:
    """Prefect's client would take some for other addresses, and break on others."""
    body = {"key": "7", "start": {"deployment": name}}
    refused = await gate.client.post("/signals/paid", json=body, headers=await gate.as_(Role.SENDER))
    assert refused.status_code == 422
    assert refused.json()["problems"][0]["field"].removeprefix("body.") == "start.deployment"
    assert await gate.signals() == []


@pytest.mark.parametrize("name", [".a/.b", "my flow/live (eu)", "größe/v1.2"])
async def test_what_one_may_be_called_is_taken(gate: Gate, name: str) -> None:
    body = {"key": "7", "start": {"deployment": name}}
    sent = await gate.client.post("/signals/paid", json=body, headers=await gate.as_(Role.SENDER))
    assert (sent.status_code, sent.json()["starts"]) == (200, True)


LARGE = "x" * 600_000


@pytest.mark.parametrize(
    ("start", "payload", "field"),
    [
        ('{"deployment": "a/b", "parameters": {"x": ["\\ud800"]}}', "1", "start.parameters.x.0"),
        ('{"deployment": "a/b", "parameters": {"x": {"\\ud800": 1}}}', "1", "start.parameters.x"),
        ('{"deployment": "a/b", "parameters": {"x": "a\\u0000"}}', "1", "start.parameters.x"),
        ('{"deployment": "a/b", "parameters": {"x": 1e400}}', "1", "start.parameters.x"),
        ('{"deployment": "a/b", "payload_as": "\\ud800"}', "1", "start.payload_as"),
        ('{"deployment": "a/\\ud800"}', "1", "start.deployment"),
        ('{"deployment": "a/b", "payload_as": "x"}', '{"a": "\\ud800"}', "payload.a"),
        ('{"deployment": "a/b", "payload_as": "x"}', f'"{LARGE}"', "payload"),
        (f'{{"deployment": "a/b", "parameters": {{"x": "{LARGE}"}}}}', "1", "start.parameters"),
    ],
    ids=["value", "name", "NUL", "infinite", "payload_as", "deployment", "payload", "large payload", "large parameter"],
)  # fmt: skip
async def test_parameters_that_prefect_never_takes_are_refused(
    gate: Gate, start: str, payload: str, field: str
) -> None:
    headers = {"Content-Type": "application/json"} | await gate.as_(Role.SENDER)
    body = f'{{"key": "7", "payload": {payload}, "start": {start}}}'
    refused = await gate.client.post("/signals/paid", content=body.encode(), headers=headers)
    assert (refused.status_code, [problem["field"] for problem in refused.json()["problems"]]) == (422, [field])
    assert await gate.signals() == []


async def test_a_large_payload_that_is_no_parameter_is_kept_for_the_run_it_starts(gate: Gate) -> None:
    body = {"key": "7", "payload": LARGE, "start": {"deployment": "a/b"}}
    sent = await gate.client.post("/signals/paid", json=body, headers=await gate.as_(Role.SENDER))
    assert (sent.status_code, sent.json()["disposition"]) == (200, "buffered")


async def test_the_same_delivery_a_hundred_times_at_once_counts_once(gate: Gate) -> None:
    """Row 26: one effect, and the same acknowledgement for each."""
    await parked(gate.ledger, [signal()])
    sender = await gate.as_(Role.SENDER)
    body = {"key": "7", "delivery_id": "d-1", "payload": 1}
    sent = await asyncio.gather(*(gate.client.post("/signals/paid", json=body, headers=sender) for _ in range(100)))
    assert {answer.status_code for answer in sent} == {200}
    assert len({answer.json()["signal_id"] for answer in sent}) == 1
    assert sorted({answer.json()["disposition"] for answer in sent}) == ["delivered", "duplicate"]
    assert await gate.signals() == [("paid", "delivered")]


async def test_a_duplicate_is_told_what_became_of_the_first(gate: Gate) -> None:
    [wait] = (await parked(gate.ledger, [signal()])).waits
    sender = await gate.as_(Role.SENDER)

    async def send(key: str, delivery: str) -> dict[str, object]:
        body = {"key": key, "delivery_id": delivery}
        return dict((await gate.client.post("/signals/paid", json=body, headers=sender)).json())

    for key, delivery, became, run in (("7", "a", "delivered", "run"), ("8", "b", "buffered", None)):
        first, again = await send(key, delivery), await send(key, delivery)
        assert (first["disposition"], first["first"], first["run_id"]) == (became, None, run)
        assert (again["disposition"], again["first"], again["run_id"]) == ("duplicate", became, run)
        assert (again["signal_id"], again["wait_id"]) == (first["signal_id"], first["wait_id"])
    assert (await send("7", "a"))["wait_id"] == wait.id


async def test_two_senders_may_use_the_same_delivery_id(gate: Gate) -> None:
    for name in ("bank", "shop"):
        sender = await gate.as_(Role.SENDER, name)
        sent = await gate.client.post("/signals/paid", json={"delivery_id": "1"}, headers=sender)
        assert sent.json()["disposition"] == "buffered"


async def test_a_payload_that_does_not_fit_is_rejected_with_the_field_named(gate: Gate) -> None:
    """Row 31: refused, the run still waits, and the next one can answer."""
    row = signal(answer_type=f"{__name__}:Settlement", answer_schema=json.dumps(Settlement.model_json_schema()))
    [wait] = (await parked(gate.ledger, [row])).waits
    sender = await gate.as_(Role.SENDER)
    body = {"key": "7", "payload": {"amount": "much"}, "delivery_id": "d"}
    told = [await gate.client.post("/signals/paid", json=body, headers=sender) for _ in range(2)]
    for sent in told:
        assert (sent.status_code, [problem["field"] for problem in sent.json()["problems"]]) == (422, ["amount"])
    assert told[0].json()["problems"] == told[1].json()["problems"]
    assert (await gate.ledger.waits.get(wait.id)).state == WaitState.OPEN
    good = await gate.client.post("/signals/paid", json={"key": "7", "payload": {"amount": 3}}, headers=sender)
    assert good.json()["disposition"] == "delivered"
    assert await gate.signals() == [("paid", "rejected"), ("paid", "delivered")]


async def test_a_corrected_payload_under_the_same_delivery_id_is_told_to_come_under_a_new_one(gate: Gate) -> None:
    row = signal(answer_type=f"{__name__}:Settlement", answer_schema=json.dumps(Settlement.model_json_schema()))
    await parked(gate.ledger, [row])
    sender = await gate.as_(Role.SENDER)
    body = {"key": "7", "payload": {"amount": "much"}, "delivery_id": "d"}
    assert (await gate.client.post("/signals/paid", json=body, headers=sender)).status_code == 422
    corrected = await gate.client.post("/signals/paid", json=body | {"payload": {"amount": 3}}, headers=sender)
    assert corrected.status_code == 422
    assert "was refused before" in corrected.json()["error"]
    assert "under a new delivery id" in corrected.json()["error"]
    assert [problem["field"] for problem in corrected.json()["problems"]] == ["amount"]
    new = body | {"payload": {"amount": 3}, "delivery_id": "e"}
    assert (await gate.client.post("/signals/paid", json=new, headers=sender)).json()["disposition"] == "delivered"


async def test_a_signal_that_is_wrong_as_a_whole_is_wrong_at_its_payload(gate: Gate) -> None:
    row = signal(answer_type=f"{__name__}:Settlement", answer_schema=json.dumps(Settlement.model_json_schema()))
    await parked(gate.ledger, [row])
    sent = await gate.client.post("/signals/paid", json={"key": "7"}, headers=await gate.as_(Role.SENDER))
    assert (sent.status_code, [problem["field"] for problem in sent.json()["problems"]]) == (422, ["payload"])


async def test_a_body_that_is_no_json_is_told_why(door: Gate) -> None:
    headers = await door.as_(Role.SENDER) | {"Content-Type": "application/json"}
    sent = await door.client.post("/signals/paid", content=b'{"key": ', headers=headers)
    assert sent.json()["problems"] == [{"field": "body", "reason": "it is not JSON: Expecting value at character 8"}]


@pytest.mark.parametrize(
    ("body", "kind", "field", "says"),
    [
        (b'{"key": "7", "start": {"deployment": "nope"}}', "application/json", "body.start.deployment",
         "it is named flow/deployment"),
        (b"null", "application/json", "body", "it is null"),
        (b"", "application/json", "body", "it is empty"),
        (b"{}", "application/x-www-form-urlencoded", "header.content-type",
         "it is application/x-www-form-urlencoded: send JSON as application/json"),
        (b"{}", "text/plain", "header.content-type", "it is text/plain"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_said_as_people_say_it(
    door: Gate, body: bytes, kind: str, field: str, says: str
) -> None:
    headers = await door.as_(Role.SENDER) | {"Content-Type": kind}
    sent = await door.client.post("/signals/paid", content=body, headers=headers)
    [problem] = sent.json()["problems"]
    assert (sent.status_code, problem["field"]) == (422, field)
    assert says in problem["reason"]
    assert "pattern" not in problem["reason"]
    assert await door.signals() == []


async def test_json_needs_no_header(door: Gate) -> None:
    body = json.dumps({"key": "7"}).encode()
    sent = await door.client.post("/signals/paid", content=body, headers=await door.as_(Role.SENDER))
    assert (sent.status_code, sent.json()["disposition"]) == (200, "buffered")


async def test_what_reached_nobody_can_be_sent_on_its_way_again(gate: Gate) -> None:
    row = signal(answer_type=f"{__name__}:Settlement", answer_schema=json.dumps(Settlement.model_json_schema()))
    await parked(gate.ledger, [row])
    sent = await gate.client.post(
        "/signals/paid", json={"key": "7", "payload": {"amount": "x"}}, headers=await gate.as_(Role.SENDER)
    )
    assert sent.status_code == 422
    [rejected] = await gate.ledger.signals.all()
    again = await gate.ledger.signals.redrive(rejected.id)
    assert again is not None
    assert again.disposition == "delivered"
    assert await gate.ledger.signals.redrive(rejected.id) is None, "it has reached somebody"
    assert await gate.ledger.signals.redrive("nothing") is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"key": "a\0b"}, "body.key"),
        ({"key": ""}, "body.key"),
        ({"key": "x" * 256}, "body.key"),
        ({"key": 7}, "body.key"),
        ({"delivery_id": ["d"]}, "body.delivery_id"),
        ({"payload": 1, "extra": 2}, "body.extra"),
        ([], "body"),
    ],
)
async def test_a_request_that_does_not_fit_is_refused_by_field(door: Gate, body: object, field: str) -> None:
    sent = await door.client.post("/signals/paid", json=body, headers=await door.as_(Role.SENDER))
    assert (sent.status_code, [problem["field"] for problem in sent.json()["problems"]]) == (422, [field])
    assert await door.signals() == []


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b'{"payload": NaN}', b'{"key": "\\ud800"}', b"[" * 5000, b'{"payload":' + b"[" * 5000],
)
async def test_no_body_breaks_it(door: Gate, body: bytes) -> None:
    headers = {"Content-Type": "application/json"} | await door.as_(Role.SENDER)
    sent = await door.client.post("/signals/paid", content=body, headers=headers)
    assert 400 <= sent.status_code < 500, sent.text
    assert sent.json()["error"]
    assert await door.signals() == []


@pytest.mark.parametrize("topic", ["%ff%fe", "%ed%a0%80", "a%C3"])
async def test_a_topic_that_is_not_utf_8_is_refused_by_name(door: Gate, topic: str) -> None:
    """Read with marks in the place of what is wrong, it would be another one's."""
    sent = await door.client.post(f"/signals/{topic}", json={}, headers=await door.as_(Role.SENDER))
    assert (sent.status_code, sent.json()["problems"][0]["field"]) == (422, "path.topic")
    assert await door.signals() == []


async def test_a_topic_may_have_any_characters(door: Gate) -> None:
    topics = {"%C3%A4%20b": "\u00e4 b", "%EF%BF%BD": "\ufffd", "%25ff": "%ff", "a%2Fb": "a/b", "a/b/": "a/b/"}
    for path, topic in topics.items():
        sent = await door.client.post(f"/signals/{path}", json={}, headers=await door.as_(Role.SENDER, path))
        assert sent.status_code == 200, sent.text
        assert (await door.signals())[-1] == (topic, "buffered")


async def test_what_is_nested_too_deeply_is_refused_at_the_door(door: Gate) -> None:
    """Brackets in a text are none."""
    headers = {"Content-Type": "application/json"} | await door.as_(Role.SENDER)
    [wait] = (await parked(door.ledger, [Approval("Pay?", form=list[JsonValue]).row("approval")])).waits
    answering = {"Content-Type": "application/json"} | await door.as_(Role.APPROVER, "bob")
    for payload, status in (
        ("[" * 98 + "]" * 98, 200),
        ('"\\"' + "[" * 5000 + '"', 200),
        ("[]," * 200 + "[]", 200),
        ('{"a":' * 100 + "1" + "}" * 100, 422),
        ("[" * 100 + '"]"' + "]" * 100, 422),
    ):
        body = b'{"payload":[%s]}' % payload.encode()
        sent = await door.client.post("/signals/paid", content=body, headers=headers)
        assert (sent.status_code, "nested more than 100 deep" in sent.text) == (status, status == 422), sent.text
    deep = b"[" * 101 + b"]" * 101
    sent = await door.client.post(f"/waits/{wait.id}/answer", content=deep, headers=answering)
    assert (sent.status_code, sent.json()["problems"][0]["field"]) == (422, "body")
    assert await door.ledger.waits.decisions_of("run") == []


async def test_a_surrogate_in_a_payload_is_kept_as_it_came(gate: Gate) -> None:
    headers = {"Content-Type": "application/json"} | await gate.as_(Role.SENDER)
    sent = await gate.client.post("/signals/paid", content=b'{"payload": "\\u0000\\ud83d\\ude00"}', headers=headers)
    assert sent.status_code == 200
    [kept] = await gate.ledger.signals.all()
    assert json.loads(kept.payload) == "\0\U0001f600"


async def test_a_body_over_the_limit_is_not_read(door: Gate) -> None:
    """Row 34: also when it does not say how long it is."""
    sender = {"Content-Type": "application/json"} | await door.as_(Role.SENDER)
    large = b'{"payload":"' + b"x" * 2_000_000 + b'"}'

    async def in_parts():
        for start in range(0, len(large), 65_536):
            yield large[start : start + 65_536]

    for content in (large, in_parts()):
        sent = await door.client.post("/signals/paid", content=content, headers=sender)
        assert (sent.status_code, "larger than 1048576 bytes" in sent.json()["error"]) == (413, True)
    assert await door.signals() == []


async def test_a_ledger_that_is_away_is_no_loss(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was taken, and the sender is told to try again."""
    from standby.errors import LedgerUnavailable
    from tests.gateway.conftest import opened

    ledger = await Ledger.connect(sqlite_url)
    async with opened(ledger) as gate:
        sender = await gate.as_(Role.SENDER)

        async def away(**_: object) -> None:
            raise LedgerUnavailable("there", "gone")

        monkeypatch.setattr(ledger.signals, "deliver", away)
        sent = await gate.client.post("/signals/paid", json={}, headers=sender)
    await ledger.close()
    assert (sent.status_code, sent.headers["retry-after"]) == (503, "2")
    assert "there" not in sent.text
