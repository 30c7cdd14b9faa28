"""Standard Webhooks (standardwebhooks.com): headers ``webhook-id``, ``webhook-timestamp``, ``webhook-signature``.

The signature is the library's to check. It raises what it likes for headers and secrets that are malformed, and knows
one secret and one tolerance, so the age is checked here and the secrets are tried in turn.
"""

from __future__ import annotations

import hmac
import re

from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook

from standby.gateway.sources.base import EMPTY, Incoming, Received, Unverified, text_at

NOT_BASE64 = "is not base64, which secrets of Standard Webhooks are, after whsec_: copy it whole from the sender"
_BASE64 = re.compile("(whsec_)?[A-Za-z0-9+/]+={0,2}")


def receive(incoming: Incoming) -> Received:
    delivery_id = incoming.header("webhook-id")
    timestamp = incoming.header("webhook-timestamp")
    signatures = incoming.header("webhook-signature")
    incoming.check_age(timestamp)
    if not any(_signed(incoming, secret, delivery_id, timestamp, signatures) for secret in incoming.secrets):
        raise Unverified("the signature does not match")
    data = incoming.json()
    return Received(delivery_id, text_at(data, "type"), data)


def why_no_secret(secret: str) -> str | None:
    """Why nobody, or everybody, can sign with it; None for a good one. The library passes over what is not base64, so
    that another secret is left, or none."""
    try:
        Webhook(secret)
    except EmptyWebhookSecretError:
        return EMPTY
    except ValueError:
        return NOT_BASE64
    return None if _BASE64.fullmatch(secret) else NOT_BASE64


def _signed(incoming: Incoming, secret: str, delivery_id: str, timestamp: str, signatures: str) -> bool:
    from datetime import UTC, datetime

    try:
        signed_at = datetime.fromtimestamp(int(float(timestamp)), UTC)
        expected = Webhook(secret).sign(delivery_id, signed_at, incoming.body.decode())
    except (ValueError, OverflowError, OSError, EmptyWebhookSecretError):
        return False
    given = signatures.split(" ")
    return any(hmac.compare_digest(expected.encode(), one.encode("utf-8", "replace")) for one in given)
