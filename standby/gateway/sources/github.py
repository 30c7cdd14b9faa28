"""GitHub's webhooks: ``X-Hub-Signature-256`` over the body, ``X-GitHub-Delivery``, ``X-GitHub-Event``.

They carry no timestamp; that a delivery counts once is its id's. GitHub signs neither the id nor the event, and has
them nowhere else: who has a recording can send it again under others, unless the block names the topic and has
``delivery_id_at``.
"""

from __future__ import annotations

from typing import Any

from standby.gateway.sources.base import Incoming, Malformed, Received, Unverified, text_at


def receive(incoming: Incoming) -> Received:
    scheme, _, signature = incoming.header("x-hub-signature-256").partition("=")
    if scheme != "sha256":
        raise Unverified("x-hub-signature-256 does not begin with sha256=")
    incoming.check_hmac(incoming.body, [signature])
    if incoming.body.startswith(b"payload="):
        raise Malformed("body", "it is a form: choose the content type application/json for the webhook at GitHub")
    data = incoming.json()
    action = text_at(data, "action")
    event = incoming.headers.get("x-github-event")
    return Received(incoming.header("x-github-delivery"), f"{event}.{action}" if event and action else event, data)


def is_ping(data: Any) -> bool:
    """Whether it is what GitHub sends first to a new webhook; told by the body, which is signed."""
    return isinstance(data, dict) and {"zen", "hook_id", "hook"} <= data.keys()
