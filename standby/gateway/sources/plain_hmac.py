"""Plain HMAC: ``X-Signature: sha256=HEX`` over the body, or over ``SECONDS.BODY`` with ``X-Timestamp: SECONDS``.

``X-Delivery-Id`` tells deliveries apart, ``X-Event-Type`` their kinds; both are optional. Without a timestamp a
recording can be sent again, and only a delivery id inside what is signed would tell; so send one where it matters.
"""

from __future__ import annotations

from standby.gateway.sources.base import Incoming, Received


def receive(incoming: Incoming) -> Received:
    signature = incoming.header("x-signature").removeprefix("sha256=")
    message = incoming.body
    if timestamp := incoming.headers.get("x-timestamp"):
        incoming.check_age(timestamp)
        message = timestamp.encode("utf-8", "replace") + b"." + incoming.body
    incoming.check_hmac(message, [signature])
    headers = incoming.headers
    return Received(headers.get("x-delivery-id"), headers.get("x-event-type"), incoming.json())
