"""Webhooks that are CloudEvents: where type, id and key stand, and what is signed."""

import json
from typing import Any

import httpx
import pytest
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

from tests.gateway.conftest import Gate
from tests.gateway.signing import hexed, source


@pytest.mark.parametrize("kind", ["application/cloudevents-batch+json", "application/cloudevents+json"])
async def test_a_batch_of_cloud_events_is_told_to_come_one_by_one(door: Gate, kind: str) -> None:
    door.sources.blocks["cloud"] = source("cloudevents", "s")
    event = {"id": "1", "source": "/shop", "type": "order.paid", "specversion": "1.0", "data": {}}
    headers = {"Authorization": "Bearer s", "Content-Type": kind}
    sent = await door.client.post("/webhooks/cloud", content=json.dumps([event]).encode(), headers=headers)
    assert (sent.status_code, sent.json()["problems"]) == (
        422,
        [{"field": "event", "reason": "batches are not taken: send each event by itself"}],
    )


async def test_a_signature_over_the_body_is_for_structured_cloud_events_alone(door: Gate) -> None:
    """In binary mode the type and the id are headers, which it does not cover."""
    door.sources.blocks["cloud"] = source("cloudevents", "s", key_at="order")
    attributes = {"id": "1", "source": "/shop", "type": "order.viewed", "specversion": "1.0"}
    event = CloudEvent(attributes | {"datacontenttype": "application/json"}, {"order": "7"})
    structured, binary = to_structured_event(event), to_binary_event(event)
    forged = structured.headers | {"ce-type": "refund.approved", "ce-id": "2"}
    for body, headers, status in (
        (structured.body, structured.headers, 200),
        (structured.body, forged, 422),
        (binary.body, binary.headers, 422),
        (binary.body, binary.headers | {"ce-type": "refund.approved"}, 422),
    ):
        signed = headers | {"X-Signature": "sha256=" + hexed("s", body)}
        sent = await door.client.post("/webhooks/cloud", content=body, headers=signed)
        assert (sent.status_code, "structured mode" in sent.text) == (status, status == 422), sent.text
    assert await door.signals() == [("order.viewed", "buffered")]


@pytest.mark.parametrize("mode", [to_binary_event, to_structured_event])
async def test_cloud_events_binary_and_structured(gate: Gate, mode: Any) -> None:
    gate.sources.blocks["cloud"] = source("cloudevents", "s", key_at="order")
    attributes = {"id": "1", "source": "/shop", "type": "order.paid", "specversion": "1.0"}
    message = mode(CloudEvent(attributes | {"datacontenttype": "application/json"}, {"order": 7}))
    known = message.headers | {"Authorization": "Bearer s"}
    for headers, status in ((known, 200), (known, 200), (message.headers, 401),
                            (message.headers | {"Authorization": "Bearer t"}, 401)):  # fmt: skip
        sent = await gate.client.post("/webhooks/cloud", content=message.body, headers=headers)
        assert sent.status_code == status, sent.text
    [kept] = await gate.ledger.signals.all()
    assert (kept.topic, kept.correlation, kept.delivery_id) == ("order.paid", "7", "/shop 1")
    assert json.loads(kept.payload) == {"order": 7}


@pytest.mark.parametrize("attribute", ["ce-id", "ce-source", "ce-type"])
async def test_an_attribute_of_a_cloud_event_that_is_not_utf_8_is_refused_by_name(door: Gate, attribute: str) -> None:
    """Read with marks in the place of what is wrong, two events would be one."""
    door.sources.blocks["cloud"] = source("cloudevents", "s")
    headers = {"ce-id": "1", "ce-source": "/shop", "ce-type": "paid", "ce-specversion": "1.0",
               "Content-Type": "application/json", "Authorization": "Bearer s"}  # fmt: skip
    for value in ("%FF%01", "%FE%01", "%ED%A0%80"):
        sent = await door.client.post("/webhooks/cloud", content=b"{}", headers=headers | {attribute: value})
        assert (sent.status_code, sent.json()["problems"]) == (422, [{"field": attribute, "reason": "it is not UTF-8"}])
    sent = await door.client.post("/webhooks/cloud", content=b"{}", headers=headers | {attribute: "%C3%A4%25"})
    assert sent.status_code == 200
    [kept] = await door.ledger.signals.all()
    assert "\u00e4%" in f"{kept.delivery_id} {kept.topic}"


@pytest.mark.parametrize("mode", [to_binary_event, to_structured_event])
async def test_places_in_a_cloud_event_are_said_as_in_the_event_or_as_in_its_data(door: Gate, mode: Any) -> None:
    attributes = {"source": "/shop", "type": "order.paid", "specversion": "1.0", "datacontenttype": "application/json"}
    data = {"order": {"id": 7}, "data": {"order": {"id": 8}}}

    async def post(number: int) -> httpx.Response:
        message = mode(CloudEvent(attributes | {"id": f"{number}"}, data))
        headers = message.headers | {"Authorization": "Bearer s"}
        return await door.client.post("/webhooks/cloud", content=message.body, headers=headers)

    places = (
        ("data.order.id", "data.order"),
        ("order.id", "order"),
        ("data.data.order.id", "data"),
        ("order.id", None),
    )
    for number, (key_at, payload_at) in enumerate(places):
        door.sources.blocks["cloud"] = source("cloudevents", "s", key_at=key_at, payload_at=payload_at)
        assert (await post(number)).status_code == 200
    kept = [(row.correlation, json.loads(row.payload)) for row in await door.ledger.signals.all()]
    assert kept == [("7", data["order"]), ("7", data["order"]), ("8", data), ("7", data)]
    for number, key_at in enumerate(("data.order.no", "order.no")):
        door.sources.blocks["cloud"] = source("cloudevents", "s", key_at=key_at)
        refused = await post(100 + number)
        assert (refused.status_code, refused.json()["problems"][0]["field"]) == (422, "data.order.no")
