"""`POST /webhooks/{source}`: signed by the official libraries, or as the senders' documentation has it."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from standby.gateway.webhook_source import WebhookSource
from tests.gateway.conftest import Gate
from tests.gateway.signing import SECRET, hexed, source, standard
from tests.ledger.acts import parked, signal

NEWER = "whsec_" + base64.b64encode(b"the one that comes after").decode()
EVENT = {"type": "payment.settled", "data": {"id": "pay_7", "amount": 3}}


async def test_a_standard_webhook_settles_the_wait_it_is_for(gate: Gate) -> None:
    gate.sources.blocks["bank"] = source("standard", key_at="data.id", payload_at="data")
    [wait] = (await parked(gate.ledger, [signal(topic="payment.settled", correlation="pay_7")])).waits
    body = json.dumps(EVENT).encode()
    for disposition in ("delivered", "duplicate"):
        sent = await gate.client.post("/webhooks/bank", content=body, headers=standard(body))
        assert (sent.status_code, sent.json()["disposition"]) == (200, disposition)
    settled = await gate.ledger.waits.get(wait.id)
    assert json.loads(settled.answer) == EVENT["data"]
    [decision] = await gate.ledger.waits.decisions_of("run")
    assert decision.actor == "webhook:bank"


async def test_a_source_may_start_the_run_that_its_message_is_for(door: Gate) -> None:
    """As its block says; once while that run lives."""
    door.sources.blocks["shop"] = source("standard", key_at="data.id", start="payer/live", payload_as="event")
    body = json.dumps(EVENT).encode()
    for number, disposition in enumerate(("delivered", "buffered")):
        sent = await door.client.post("/webhooks/shop", content=body, headers=standard(body, id=f"msg_{number}"))
        assert (sent.status_code, sent.json()["disposition"]) == (200, disposition)
    [start] = await door.ledger.starts.all()
    assert (start.deployment, json.loads(start.parameters), start.correlation) == (
        "payer/live",
        {"event": EVENT},
        "pay_7",
    )


@pytest.mark.parametrize(
    ("topic", "chosen", "status"),
    [
        ("agent.stop", {}, 422), ("standby.start", {}, 422),
        ("paid", {"topic": "agent.stop"}, 200), ("paid", {"topic": "standby.start"}, 422),
    ],
)  # fmt: skip
async def test_no_message_chooses_a_topic_that_means_something_to_standby(
    door: Gate, topic: str, chosen: dict[str, str], status: int
) -> None:
    door.sources.blocks["shop"] = source("standard", key_at="data.id", **chosen)
    body = json.dumps(EVENT | {"type": topic}).encode()
    sent = await door.client.post("/webhooks/shop", content=body, headers=standard(body))
    assert sent.status_code == status, sent.text
    assert len(await door.signals()) == (status == 200)


async def test_both_secrets_are_good_during_a_rotation(door: Gate) -> None:
    door.sources.blocks["bank"] = source("standard", SECRET, NEWER)
    body = json.dumps(EVENT).encode()
    for number, secret in enumerate((SECRET, NEWER)):
        headers = standard(body, secret=secret, id=f"msg_{number}")
        assert (await door.client.post("/webhooks/bank", content=body, headers=headers)).status_code == 200
    door.sources.blocks["bank"] = source("standard", NEWER)
    sent = await door.client.post("/webhooks/bank", content=body, headers=standard(body, id="msg_3"))
    assert sent.status_code == 401


EMPTY = [("hmac", ""), ("github", " "), ("stripe", ""), ("cloudevents", ""), *(
    ("standard", secret) for secret in ("", "!!!", "whsec_")
)]  # fmt: skip


@pytest.mark.parametrize(("scheme", "empty"), EMPTY)
async def test_an_empty_secret_is_refused_by_the_block_and_verifies_nobody(door: Gate, scheme: str, empty: str) -> None:
    """Anybody has it. Prefect's UI saves a block without asking this class, so it is looked at again."""
    good = SECRET if scheme == "standard" else "s3cret"
    for secrets in ([empty], [good, empty], [empty, good]):
        with pytest.raises(ValidationError, match="secrets"):
            source(scheme, *secrets)
        door.sources.blocks["bank"] = source(scheme, good).model_copy(
            update={"secrets": [SecretStr(secret) for secret in secrets]}
        )
        body, now = b'{"id": "evt_1", "type": "x"}', str(int(datetime.now(UTC).timestamp()))
        given = {
            "hmac": {"X-Signature": hexed(empty, body)},
            "github": {"X-Hub-Signature-256": "sha256=" + hexed(empty, body), "X-GitHub-Delivery": "d"},
            "stripe": {"Stripe-Signature": f"t={now},v1={hexed(empty, f'{now}.'.encode() + body)}"},
            "cloudevents": {"Authorization": f"Bearer {empty}"},
            "standard": {"webhook-id": "m", "webhook-timestamp": now, "webhook-signature": "v1,AAAA"},
        }
        sent = await door.client.post("/webhooks/bank", content=body, headers=given[scheme])
        assert sent.status_code == 401, sent.text
    assert await door.signals() == []


@pytest.mark.parametrize("secret", ["not base64 at all", "whsec_a-b_c", "abcd!", "whsec_YWJj=x"])
async def test_a_standard_secret_that_is_not_base64_is_refused_by_the_block(secret: str) -> None:
    with pytest.raises(ValidationError, match="number 2 is not base64"):
        source("standard", SECRET, secret)
    for unpadded in ("whsec_YWI", "YWI"):  # as the library takes it
        assert source("standard", unpadded).usable_secrets() == (unpadded,)


def _without(name: str) -> Any:
    return lambda headers: {key: value for key, value in headers.items() if key != name}


@pytest.mark.parametrize(
    "spoil",
    [
        _without("webhook-id"),
        _without("webhook-timestamp"),
        _without("webhook-signature"),
        lambda headers: headers | {"webhook-timestamp": "soon"},
        lambda headers: headers | {"webhook-timestamp": "nan"},
        lambda headers: headers | {"webhook-timestamp": "9" * 400},
        lambda headers: headers | {"webhook-signature": "v1"},
        lambda headers: headers | {"webhook-signature": "v1,not base64"},
        lambda headers: headers | {"webhook-signature": ",,, ,"},
        lambda headers: headers | {"webhook-signature": "v2," + headers["webhook-signature"][3:]},
        lambda headers: headers | {"webhook-id": "another"},
        lambda headers: headers | {"webhook-signature": b"\xe4\xff"},
    ],
)
async def test_a_webhook_that_is_not_what_was_signed_is_refused(door: Gate, spoil: Any) -> None:
    """Row 34."""
    door.sources.blocks["bank"] = source("standard")
    body = json.dumps(EVENT).encode()
    sent = await door.client.post("/webhooks/bank", content=body, headers=spoil(standard(body)))
    assert sent.status_code == 401, sent.text
    assert "was not verified as sent by bank" in sent.json()["error"]
    assert SECRET not in sent.text
    assert await door.signals() == []


@pytest.mark.parametrize("off", [timedelta(minutes=-6), timedelta(minutes=6)])
async def test_one_from_another_time_is_refused(door: Gate, off: timedelta) -> None:
    door.sources.blocks["bank"] = source("standard")
    body = json.dumps(EVENT).encode()
    sent = await door.client.post("/webhooks/bank", content=body, headers=standard(body, at=datetime.now(UTC) + off))
    assert sent.status_code == 401


async def test_a_changed_body_is_refused(door: Gate) -> None:
    door.sources.blocks["bank"] = source("standard")
    headers = standard(json.dumps(EVENT).encode())
    assert (await door.client.post("/webhooks/bank", content=b"{}", headers=headers)).status_code == 401


async def test_github(gate: Gate) -> None:
    gate.sources.blocks["hub"] = source("github", "s3cret", key_at="issue.number")
    body = json.dumps({"action": "closed", "issue": {"number": 12}}).encode()
    headers = {
        "X-Hub-Signature-256": "sha256=" + hexed("s3cret", body),
        "X-GitHub-Delivery": "72d3162e",
        "X-GitHub-Event": "issues",
    }
    for disposition in ("buffered", "duplicate"):
        sent = await gate.client.post("/webhooks/hub", content=body, headers=headers)
        assert sent.json()["disposition"] == disposition
    [kept] = await gate.ledger.signals.all()
    assert (kept.topic, kept.correlation, kept.delivery_id) == ("issues.closed", "12", "72d3162e")
    headers["X-Hub-Signature-256"] = "sha1=" + hexed("s3cret", body)
    assert (await gate.client.post("/webhooks/hub", content=body, headers=headers)).status_code == 401


def by_github(body: bytes, event: str) -> dict[str, str]:
    signature = "sha256=" + hexed("s3cret", body)
    return {"X-Hub-Signature-256": signature, "X-GitHub-Delivery": "1", "X-GitHub-Event": event}


async def test_the_ping_of_github_is_answered_and_no_signal(door: Gate) -> None:
    door.sources.blocks["hub"] = source("github", "s3cret", key_at="pull_request.number")
    body = json.dumps({"zen": "Keep it logically awesome.", "hook_id": 1, "hook": {"type": "Repository"}}).encode()
    sent = await door.client.post("/webhooks/hub", content=body, headers=by_github(body, "ping"))
    assert (sent.status_code, sent.json()) == (200, {"pong": True})
    assert await door.signals() == []
    unsigned = by_github(b"another body", "ping")
    assert (await door.client.post("/webhooks/hub", content=body, headers=unsigned)).status_code == 401
    other = json.dumps({"action": "opened"}).encode()
    called_ping = await door.client.post("/webhooks/hub", content=other, headers=by_github(other, "ping"))
    assert called_ping.status_code == 422, "the header is not signed, the body is"


async def test_a_form_of_github_is_told_to_choose_json(door: Gate) -> None:
    door.sources.blocks["hub"] = source("github", "s3cret")
    body = b"payload=%7B%22action%22%3A%22opened%22%7D"
    sent = await door.client.post("/webhooks/hub", content=body, headers=by_github(body, "pull_request"))
    [problem] = sent.json()["problems"]
    assert (sent.status_code, problem["field"]) == (422, "body")
    assert "choose the content type application/json" in problem["reason"]


async def test_a_webhook_that_is_refused_is_a_line_in_the_log_without_what_was_sent(
    door: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    door.sources.blocks["bank"] = source("standard", topic="paid", key_at="id", payload_at="amount")
    await parked(door.ledger, [signal(answer_schema='{"type": "number"}')])
    private = {"id": "7", "amount": "private\nwords"}

    async def post(name: str, body: bytes, headers: dict[str, str]) -> int:
        return (await door.client.post(f"/webhooks/{name}", content=body, headers=headers)).status_code

    whole, lacking, broken = json.dumps(private).encode(), b'{"private words": 1}', b"private words"
    sent = [
        await post("shop%0Awords", whole, {}),
        await post("bank", whole, standard(b"another body")),
        await post("bank", lacking, standard(lacking)),
        await post("bank", broken, standard(broken)),
        await post("bank", whole, standard(whole, id="msg_2")),
    ]
    assert sent == [404, 401, 422, 422, 422]
    said = [record.getMessage() for record in caplog.records if record.name == "standby.gateway"]
    assert [(line.split(":")[0], line.rpartition(": ")[2]) for line in said[1:]] == [
        ("A webhook of source 'bank' was refused with 401", "the signature does not match."),
        ("A webhook of source 'bank' was refused with 422", "it is not there"),
        ("A webhook of source 'bank' was refused with 422", "it is not JSON"),
        (
            "A webhook of source 'bank' was refused with 422",
            "The payload does not fit; the run is still waiting. payload",
        ),
    ]
    assert "There is no source" in said[0]
    for line in said:
        assert "\n" not in line
        assert len(line) < 700
        assert SECRET not in line
        assert "private" not in line


async def test_stripe(gate: Gate) -> None:
    gate.sources.blocks["shop"] = source("stripe", "old", "new", key_at="data.object.id", topic="charges")
    body = json.dumps({"id": "evt_1", "type": "charge.paid", "data": {"object": {"id": "ch_1"}}}).encode()
    now = str(int(datetime.now(UTC).timestamp()))
    good = hexed("new", now.encode() + b"." + body)
    for header, status in (
        (f"t={now},v1=00,v1={good}", 200),
        (f"t={now},v0={good}", 401),
        (f"t={int(now) - 1000},v1={good}", 401),
        (f"t={now},t={now},v1={good}", 401),
        ("nonsense", 401),
    ):
        sent = await gate.client.post("/webhooks/shop", content=body, headers={"Stripe-Signature": header})
        assert sent.status_code == status, header
    [kept] = await gate.ledger.signals.all()
    assert (kept.topic, kept.correlation, kept.delivery_id) == ("charges", "ch_1", "evt_1")


async def test_plain_hmac_with_and_without_a_timestamp(gate: Gate) -> None:
    gate.sources.blocks["own"] = source("hmac", "s", topic="done", delivery_id_at="id")
    body = b'{"id": 1}'
    now = str(int(datetime.now(UTC).timestamp()))
    old = str(int(now) - 1000)
    for headers, status in (
        ({"X-Signature": hexed("s", body)}, 200),
        ({"X-Signature": "sha256=" + hexed("s", now.encode() + b"." + body), "X-Timestamp": now}, 200),
        ({"X-Signature": hexed("s", old.encode() + b"." + body), "X-Timestamp": old}, 401),
        ({"X-Signature": hexed("t", body)}, 401),
        ({}, 401),
    ):
        sent = await gate.client.post("/webhooks/own", content=body, headers=headers)
        assert sent.status_code == status, headers
    [kept] = await gate.ledger.signals.all()
    assert kept.delivery_id == "1"


async def test_no_header_that_is_not_signed_counts_with_plain_hmac(door: Gate) -> None:
    """Whoever has a recording of a message can add headers to it: neither another delivery nor another topic."""
    bodies = {"id": {"id": "evt_1", "order": "7"}, "digest": {"type": "order.viewed", "order": "7"}}
    door.sources.blocks["id"] = source("hmac", "s", topic="order.viewed", key_at="order", delivery_id_at="id")
    door.sources.blocks["digest"] = source("hmac", "s", key_at="order")
    await parked(door.ledger, [signal(topic="refund.approved", correlation="7")])
    for name, content in bodies.items():
        body = json.dumps(content).encode()
        told = []
        for more in ({}, {"X-Delivery-Id": "x1"}, {"X-Delivery-Id": "x2", "X-Event-Type": "refund.approved"}):
            headers = {"X-Signature": hexed("s", body)} | more
            sent = await door.client.post(f"/webhooks/{name}", content=body, headers=headers)
            told.append((sent.status_code, sent.json()["disposition"]))
        assert told == [(200, "buffered"), (200, "duplicate"), (200, "duplicate")], name
    assert await door.signals() == [("order.viewed", "buffered")] * 2


async def test_the_same_body_with_another_signed_timestamp_is_another_delivery(door: Gate) -> None:
    door.sources.blocks["own"] = source("hmac", "s", topic="tick")
    now = int(datetime.now(UTC).timestamp())
    for signed_at in (now, now, now - 1):
        headers = {"X-Timestamp": str(signed_at), "X-Signature": hexed("s", f"{signed_at}.1".encode())}
        assert (await door.client.post("/webhooks/own", content=b"1", headers=headers)).status_code == 200
    assert await door.signals() == [("tick", "buffered")] * 2


async def test_a_message_of_plain_hmac_states_its_type_in_what_is_signed(door: Gate) -> None:
    door.sources.blocks["own"] = source("hmac", "s")
    for body, headers in ((b"{}", {"X-Event-Type": "done"}), (b"[]", {}), (b'{"type": 7}', {})):
        headers = headers | {"X-Signature": hexed("s", body)}
        sent = await door.client.post("/webhooks/own", content=body, headers=headers)
        assert (sent.status_code, sent.json()["problems"][0]["field"]) == (422, "type")
    assert await door.signals() == []


async def test_where_the_block_says_the_delivery_id_is_comes_before_a_header(door: Gate) -> None:
    """GitHub signs no header, and has its own id in one."""
    door.sources.blocks["hub"] = source("github", "s", topic="hub", delivery_id_at="id")
    body = b'{"id": 12}'
    for delivery in ("a", "b"):
        headers = {"X-Hub-Signature-256": "sha256=" + hexed("s", body), "X-GitHub-Delivery": delivery}
        assert (await door.client.post("/webhooks/hub", content=body, headers=headers)).status_code == 200
    [kept] = await door.ledger.signals.all()
    assert kept.delivery_id == "12"


@pytest.mark.parametrize(
    ("block", "body", "field"),
    [
        (source("standard"), {"data": 1}, "type"),
        (source("standard", key_at="data.id"), {"type": "t"}, "body.data.id"),
        (source("standard", key_at="data"), {"type": "t", "data": {}}, "body.data"),
        (source("standard", payload_at="data.0"), {"type": "t", "data": []}, "body.data.0"),
        (source("standard"), {"type": 7}, "body.type"),
        (source("standard", key_at="data"), {"type": "t", "data": "x" * 256}, "key"),
        (source("standard", key_at="data"), {"type": "t", "data": "\0"}, "key"),
    ],
)
async def test_a_message_that_lacks_what_the_block_says_is_refused(
    door: Gate, block: WebhookSource, body: Any, field: str
) -> None:
    door.sources.blocks["bank"] = block
    text = json.dumps(body).encode()
    sent = await door.client.post("/webhooks/bank", content=text, headers=standard(text))
    assert (sent.status_code, [problem["field"] for problem in sent.json()["problems"]]) == (422, [field])


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"NaN", b"[" * 100_000])
async def test_signed_nonsense_is_refused_by_field(door: Gate, body: bytes) -> None:
    door.sources.blocks["own"] = source("hmac", "s", topic="t")
    sent = await door.client.post("/webhooks/own", content=body, headers={"X-Signature": hexed("s", body)})
    assert (sent.status_code, sent.json()["problems"][0]["field"]) == (422, "body")


@pytest.mark.parametrize("scheme", ["hmac", "cloudevents"])
async def test_what_is_nested_too_deeply_is_refused_at_the_door(door: Gate, scheme: str) -> None:
    """Whatever would come of it further in: a start, to which the payload is a parameter, is looked through."""
    door.sources.blocks["own"] = source(scheme, "s", topic="t", key_at="key", start="payer/live", payload_as="event")
    event = '{"specversion": "1.0", "id": "%s", "source": "/x", "type": "t", "data_base64": "%s"}'
    for depth in (5, 99, 100, 916, 917, 918, 5000):
        nested = "[" * depth + "]" * depth
        body = f'{{"key": "k{depth}", "text": "[[[", "d": {nested}}}'.encode()
        if scheme == "cloudevents":
            body = (event % (depth, base64.b64encode(body).decode())).encode()
        sent = await door.client.post("/webhooks/own", content=body, headers={"X-Signature": hexed("s", body)})
        assert sent.status_code == (200 if depth < 100 else 422), (depth, sent.text)
        if depth >= 100:
            assert sent.json()["problems"] == [{"field": "body", "reason": sent.json()["problems"][0]["reason"]}]
            assert "nested more than 100 deep" in sent.text
    assert [start.correlation for start in await door.ledger.starts.all()] == ["k5", "k99"]


async def test_a_source_that_is_not_there(door: Gate) -> None:
    sent = await door.client.post("/webhooks/nobody", content=b"{}")
    assert (sent.status_code, "webhook-source/nobody" in sent.json()["error"]) == (404, True)
