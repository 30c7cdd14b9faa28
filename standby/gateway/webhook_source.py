"""The block that describes one source of webhooks: how it signs, and what its messages mean here."""

from __future__ import annotations

import asyncio
import logging
from math import inf
from time import monotonic
from typing import Any, ClassVar, Literal, NamedTuple

import httpx
from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import PrefectHTTPStatusError
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator

from standby import topics
from standby.gateway.sources import Received, why_no_secret
from standby.gateway.sources.base import Malformed
from standby.starts import DeploymentName, ToStart
from standby.values import summary

log = logging.getLogger("standby.gateway")

KEPT_SECONDS = 15.0
"""How long a gateway uses a block before it looks whether somebody changed it."""

UNKNOWN_SECONDS = 1.0
"""How long a name that has no block stays without before it is looked for again."""

LOOK_SECONDS = 3.0
"""How long Prefect may take to say what blocks there are."""


class SourcesUnknown(Exception):
    """Prefect cannot be asked whether there is a block of this name."""


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
        default=None,
        title="Key at",
        description="Where in the message the signals' key is, such as data.order.id. Of a CloudEvent only its data is "
        "looked at: data.order.id and order.id are the same.",
    )
    payload_at: str | None = Field(
        default=None, title="Payload at", description="Which part of the message is the payload. Empty: all of it."
    )
    delivery_id_at: str | None = Field(
        default=None,
        title="Delivery id at",
        description="Where in the message the delivery id is. Empty: the scheme's own; of plain HMAC, the digest of "
        "what is signed.",
    )
    start: DeploymentName | None = Field(
        default=None,
        title="Start",
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

    @field_validator("secrets")
    @classmethod
    def _hide_something(cls, secrets: list[SecretStr], info: ValidationInfo) -> list[SecretStr]:
        """With a secret that is empty anybody can sign."""
        for number, secret in enumerate(secrets, 1):
            if why := why_no_secret(info.data.get("scheme", ""), secret.get_secret_value()):
                raise ValueError(f"number {number} {why}")
        return secrets

    def read(self, received: Received) -> Mapped:
        """What a message means here. Raises ``Malformed`` for one that lacks what the block says it has."""
        topic = self.topic or received.type
        if not topic:
            raise Malformed("type", "the message states no type, and the block names no topic")
        if topic == topics.START or (topic == topics.STOP and self.topic is None):
            raise Malformed("type", f"the topic {topic!r} is Standby's own, and no message's to choose")
        key = None if self.key_at is None else _text(received, self.key_at)
        # What the block says comes first: it is about the body, which every scheme signs.
        at = self.delivery_id_at
        delivery_id = received.delivery_id if at is None else _text(received, at)
        payload = received.data if self.payload_at is None else _at(received, self.payload_at)[0]
        return Mapped(topic, key, delivery_id, payload)

    def usable_secrets(self) -> tuple[str, ...]:
        """Those that hide something, however the block was made: with none, nothing is verified."""
        plain = (secret.get_secret_value() for secret in self.secrets)
        return tuple(secret for secret in plain if why_no_secret(self.scheme, secret) is None)

    def to_start(self) -> ToStart | None:
        return ToStart(deployment=self.start, payload_as=self.payload_as) if self.start else None


class Mapped(NamedTuple):
    """A webhook as a signal."""

    topic: str
    key: str | None
    delivery_id: str
    payload: Any


def _at(received: Received, path: str) -> tuple[Any, str]:
    """What is there, and the whole path of it."""
    parts = path.split(".")
    if received.place != "body" and parts[0] == received.place:
        del parts[0]
    whole = ".".join([received.place, *parts])
    found = received.data
    for part in parts:
        if isinstance(found, list) and part.isdigit() and int(part) < len(found):
            found = found[int(part)]
        elif isinstance(found, dict) and part in found:
            found = found[part]
        else:
            raise Malformed(whole, "it is not there")
    return found, whole


def _text(received: Received, path: str) -> str:
    found, whole = _at(received, path)
    if isinstance(found, bool) or not isinstance(found, str | int):
        raise Malformed(whole, "it is neither text nor a whole number")
    return str(found)


class WebhookSources:
    """The blocks of a Prefect server, by name.

    All are read at once: whoever tries names, before any signature was looked at, makes no call of their own to
    Prefect and puts no block out of here. While Prefect cannot be asked, the blocks that are known stay.
    """

    def __init__(self, client: PrefectClient) -> None:
        self._client = client
        self._blocks: dict[str, WebhookSource] = {}
        self._looked_at = -inf  # by the monotonic clock
        self._looking: asyncio.Task[None] | None = None
        self._why_not: Exception | None = None

    async def find(self, name: str) -> WebhookSource | None:
        """The block of this name; None if there is none. Raises ``SourcesUnknown`` if Prefect cannot be asked."""
        if monotonic() - self._looked_at >= (KEPT_SECONDS if name in self._blocks else UNKNOWN_SECONDS):
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look())
            await asyncio.shield(self._looking)  # others may wait for it, too
        block = self._blocks.get(name)
        if block is None and self._why_not is not None:
            raise SourcesUnknown from self._why_not
        return block

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                self._blocks = await self._read()
            self._why_not = None
        except (TimeoutError, httpx.HTTPError) as error:
            self._why_not = error
        self._looked_at = monotonic()

    async def _read(self) -> dict[str, WebhookSource]:
        try:
            documents = await self._client.read_block_documents_by_type(WebhookSource.get_block_type_slug())
        except PrefectHTTPStatusError as error:
            if error.response.status_code != 404:
                raise
            return {}  # nobody has made one, so the type is not known
        found = {}
        for document in documents:
            try:
                found[str(document.name)] = WebhookSource.model_validate(document.data)
            except ValidationError as error:
                log.warning("The block webhook-source/%s cannot be used: %s", document.name, summary(error))
        return found
