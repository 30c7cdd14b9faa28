"""Webhooks signed as Stripe does: ``Stripe-Signature: t=SECONDS,v1=HEX[,v1=HEX]`` over ``SECONDS.BODY``."""

from __future__ import annotations

from standby.gateway.sources.base import Incoming, Malformed, Received, Unverified, text_at


def receive(incoming: Incoming) -> Received:
    parts = [part.strip().partition("=") for part in incoming.header("stripe-signature").split(",")]
    timestamps = [value for name, _, value in parts if name == "t"]
    signatures = [value for name, _, value in parts if name == "v1"]
    if len(timestamps) != 1 or not signatures:
        raise Unverified("stripe-signature is not of the form t=SECONDS,v1=SIGNATURE")
    incoming.check_age(timestamps[0])
    incoming.check_hmac(timestamps[0].encode("utf-8", "replace") + b"." + incoming.body, signatures)
    data = incoming.json()
    delivery_id = text_at(data, "id")
    if delivery_id is None:
        raise Malformed("body.id", "an event has an id")
    return Received(delivery_id, text_at(data, "type"), data)
