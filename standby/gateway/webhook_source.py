"""The block that describes one source of webhooks: how it signs, and what its messages mean here."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any, ClassVar, Literal, NamedTuple

import httpx
from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import PrefectHTTPStatusError
from pydantic import Field, SecretStr

from standby.gateway.sources import Received
from standby.gateway.sources.base import Malformed
from standby.starts import NAMED, ToStart

KEPT_SECONDS = 15.0
"""How long a gateway uses a block before it looks whether somebody changed it."""


class WebhookSource(Block):
    """A source of webhooks: `POST /webhooks/NAME` on the gateway, where NAME is this block's name."""

    _block_type_name: ClassVar[str] = "Webhook Source"
    _block_type_slug: ClassVar[str] = "webhook-source"

    scheme: Literal["standard", "github", "stripe", "hmac", "cloudevents"] = Field(
        title="Scheme",
        description="How the sender signs: Standard Webhooks, GitHub, Stripe, plain HMAC or CloudEvents.",
    )
    secrets: list[SecretStr] = Field(
        title="Secrets",
        min_length=1,
        description="Any of them will do: have the old and the new one during a rotation.",
    )
    topic: str | None = Field(
        default=None, title="Topic", description="The signals' topic. Empty: the type that the message itself states."
    )
    key_at: str | None = Field(
        default=None, title="Key at", description="Where in the message the signals' key is, such as data.order.id."
    )
    payload_at: str | None = Field(
        default=None, title="Payload at", description="Which part of the message is the payload. Empty: all of it."
    )
    delivery_id_at: str | None = Field(
        default=None,
        title="Delivery id at",
        description="Where the delivery id is, if the scheme has none. Empty: every delivery counts.",
    )
    start: str | None = Field(
        default=None,
        title="Start",
        pattern=NAMED,
        description="flow/deployment of the agent to start when no living run has the message's topic and key.",
    )
    payload_as: str | None = Field(
        default=None,
        title="Payload as",
        description="The parameter of that agent that is the payload. Empty: it is kept for the run's own wait.",
    )
    tolerance_seconds: float = Field(
        default=300, gt=0, title="Tolerance", description="By how many seconds a timestamp may be off."
    )

    def read(self, received: Received) -> Mapped:
        """What a message means here. Raises ``Malformed`` for one that lacks what the block says it has."""
        topic = self.topic or received.type
        if not topic:
            raise Malformed("type", "the message states no type, and the block names no topic")
        key = None if self.key_at is None else _text(received.data, self.key_at)
        delivery_id = received.delivery_id
        if delivery_id is None and self.delivery_id_at is not None:
            delivery_id = _text(received.data, self.delivery_id_at)
        payload = received.data if self.payload_at is None else _at(received.data, self.payload_at)
        return Mapped(topic, key, delivery_id, payload)

    def to_start(self) -> ToStart | None:
        return ToStart(deployment=self.start, payload_as=self.payload_as) if self.start else None


class Mapped(NamedTuple):
    """A webhook as a signal."""

    topic: str
    key: str | None
    delivery_id: str | None
    payload: Any


def _at(data: Any, path: str) -> Any:
    found = data
    for part in path.split("."):
        if isinstance(found, list) and part.isdigit() and int(part) < len(found):
            found = found[int(part)]
        elif isinstance(found, dict) and part in found:
            found = found[part]
        else:
            raise Malformed(f"body.{path}", "it is not there")
    return found


def _text(data: Any, path: str) -> str:
    found = _at(data, path)
    if isinstance(found, bool) or not isinstance(found, str | int):
        raise Malformed(f"body.{path}", "it is neither text nor a whole number")
    return str(found)


class WebhookSources:
    """The blocks of a Prefect server, looked up by name and kept for ``KEPT_SECONDS``."""

    def __init__(self, client: PrefectClient) -> None:
        self._client = client
        self._kept: dict[str, tuple[float, WebhookSource | None]] = {}
        self._lock = asyncio.Lock()

    async def find(self, name: str) -> WebhookSource | None:
        """The block of this name; None if there is none. Raises ``httpx.HTTPError`` if Prefect cannot be asked."""
        async with self._lock:
            until, block = self._kept.get(name, (0.0, None))
            if until > monotonic():
                return block
            try:
                document = await self._client.read_block_document_by_name(name, WebhookSource.get_block_type_slug())
                block = WebhookSource._from_block_document(document)
            except PrefectHTTPStatusError as error:
                if error.response.status_code != 404:
                    raise
                block = None
            except httpx.HTTPError:
                if block is None:
                    raise
            if len(self._kept) > 1000:  # names that strangers tried
                self._kept.clear()
            self._kept[name] = (monotonic() + KEPT_SECONDS, block)
            return block
