"""Senders of webhooks, who sign what they send."""

import base64
import hmac
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from standardwebhooks.webhooks import Webhook

from standby.gateway.webhook_source import WebhookSource

SECRET = "whsec_" + base64.b64encode(b"a secret of some length").decode()


def source(scheme: str, *secrets: str, **more: Any) -> WebhookSource:
    return WebhookSource(scheme=scheme, secrets=list(secrets or [SECRET]), **more)


def standard(body: bytes, *, secret: str = SECRET, at: datetime | None = None, id: str = "msg_1") -> dict[str, str]:
    at = at or datetime.now(UTC)
    signature = Webhook(secret).sign(id, at, body.decode())
    return {"webhook-id": id, "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signature}


def hexed(secret: str, message: bytes) -> str:
    return hmac.new(secret.encode(), message, sha256).hexdigest()
