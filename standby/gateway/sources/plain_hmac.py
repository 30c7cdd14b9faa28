"""Plain HMAC: ``X-Signature: sha256=HEX`` over the body, or over ``SECONDS.BODY`` with ``X-Timestamp: SECONDS``.

No other header is signed, so none counts. What the message is stands in the field ``type`` of its body, if it has one;
its delivery id is the digest of what was signed: the same again is the same delivery, also as a recording. Where the
same body may mean another delivery, have a timestamp signed, or an id in the body (the block's ``delivery_id_at``).
"""

from __future__ import annotations

from hashlib import sha256

from standby.gateway.sources.base import Incoming, Received


def receive(incoming: Incoming) -> Received:
    signature = incoming.header("x-signature").removeprefix("sha256=")
    message = incoming.body
    if timestamp := incoming.headers.get("x-timestamp"):
        incoming.check_age(timestamp)
        message = timestamp.encode("utf-8", "replace") + b"." + incoming.body
    incoming.check_hmac(message, [signature])
    data = incoming.json()
    kind = data.get("type") if isinstance(data, dict) else None
    return Received(f"sha256:{sha256(message).hexdigest()}", kind if isinstance(kind, str) else None, data)
