"""How the bank's reports come in: the block by which a gateway knows them, and telling the sandbox bank where it is.

At a real provider people enter address and secret in their account; the sandbox bank on this machine is told here.
"""

from __future__ import annotations

import base64
import secrets
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr, ValidationError

from blocks.loading import load_or_default
from blocks.payment_provider import PaymentProvider
from standby.gateway.webhook_source import WebhookSource
from standby.values import summary

SOURCE = "bank"
"""The block is ``webhook-source/bank``, and its address on a gateway ``/webhooks/bank``."""

CONNECTS = 5
"""How often a bank is knocked at that does not open: over eight seconds, for it may have been started just now."""


def bank_source() -> WebhookSource:
    """A source with a fresh secret: the bank says which payment has settled, and may say nothing else."""
    return WebhookSource(
        scheme="standard",
        secrets=[SecretStr(f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}")],
        topic="payment.settled",
        key_at="data.payment_id",
        payload_at="data",
    )


async def tell_bank(gateway_url: str) -> str | None:
    """Have the sandbox bank report to this gateway, signed with the first secret of the block; a sentence about it.

    None where the provider is not on this machine. A bank that cannot be told is no error: without its reports the
    poll finds what has settled.
    """
    provider = await load_or_default(PaymentProvider)
    if urlsplit(provider.base_url).hostname not in ("127.0.0.1", "localhost"):
        return None
    try:
        source: WebhookSource = await WebhookSource.aload(SOURCE)
    except ValidationError as error:  # somebody has edited it
        return f"The block webhook-source/{SOURCE} cannot be used: {summary(error)}. Settlements are polled for."
    address = f"{gateway_url.rstrip('/')}/webhooks/{SOURCE}"
    webhook = {"url": address, "secret": source.secrets[0].get_secret_value()}
    headers = {"Authorization": f"Bearer {provider.api_key.get_secret_value()}"}
    transport = httpx.AsyncHTTPTransport(retries=CONNECTS)
    try:
        # trust_env off: no proxy hears of the secret.
        async with httpx.AsyncClient(
            transport=transport, trust_env=False, timeout=provider.timeout_seconds, headers=headers
        ) as client:
            response = await client.put(f"{provider.base_url.rstrip('/')}/webhook", json=webhook)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        why = str(error) or type(error).__name__
    else:
        if response.is_success:
            return f"The bank reports to {address}."
        why = f"status {response.status_code}"
    return (
        f"The bank at {provider.base_url} was not told where to report ({why}), so settlements are polled for. "
        "Run this again once it answers."
    )
