"""Where payments are ordered."""

import os

from prefect.blocks.core import Block
from pydantic import Field, SecretStr


class PaymentProvider(Block):
    """The payment provider's HTTP API.

    The defaults: the address in ``PAYMENT_PROVIDER_URL``, else the sandbox bank's on this machine, and its key.
    """

    _block_type_name = "Payment Provider"
    _block_type_slug = "payment-provider"
    _description = "Address and key of the payment provider that the invoice agent orders payments from."

    base_url: str = Field(
        default_factory=lambda: os.environ.get("PAYMENT_PROVIDER_URL", "http://127.0.0.1:4242"),
        title="Address",
        description="Where the provider listens, without /payments.",
        pattern=r"^https?://[^\s]+$",
    )
    api_key: SecretStr = Field(
        default=SecretStr("sandbox"), title="API key", description="Sent as a bearer token with every request."
    )
    timeout_seconds: float = Field(
        default=10.0,
        title="Timeout (seconds)",
        description="How long to wait for a connection, and for each part of an answer.",
        gt=0,
        le=300,
    )
