"""``POST /webhooks/{source}``: what other systems send in their own way, verified and taken in as a signal."""

from __future__ import annotations

import json
import logging
from typing import Annotated, Any, Literal, NamedTuple

from fastapi import APIRouter, Depends, Path, Request
from prefect.client.orchestration import PrefectClient
from pydantic import BaseModel, TypeAdapter, ValidationError

from standby import clock
from standby.errors import AnswerRefused
from standby.gateway.names import Name
from standby.gateway.reception import Reception
from standby.gateway.refusals import Refused
from standby.gateway.requests import shallow_body
from standby.gateway.sources import Incoming, receiver
from standby.gateway.sources.base import Malformed, Unverified
from standby.gateway.sources.github import is_ping
from standby.gateway.webhook_source import Mapped, SourcesUnknown, WebhookSource, WebhookSources
from standby.states import Disposition
from standby.values import one_line, problems_of

log = logging.getLogger("standby.gateway")

webhooks = APIRouter(tags=["webhooks"])
_name: TypeAdapter[str] = TypeAdapter(Name)


class Inbox(NamedTuple):
    """What a Prefect server is needed for: the blocks that say how senders sign, and runs to wake and to start."""

    sources: WebhookSources
    client: PrefectClient | None = None


class WebhookOut(BaseModel):
    """What became of the webhook. A sender need look at nothing but the 2xx."""

    disposition: Disposition
    signal_id: str


class Pong(BaseModel):
    """A test that the sender makes; no signal was taken."""

    pong: Literal[True] = True


@webhooks.post("/webhooks/{source}", dependencies=[Depends(shallow_body)])
async def webhook(source: Annotated[Name, Path()], request: Request) -> WebhookOut | Pong:
    """Take a webhook in, if its signature fits one of the secrets of the block `webhook-source/{source}`.

    The ping by which GitHub tests a new webhook is answered, and is no signal.
    """
    try:
        block, meant = await _read(source, request)
    except Refused as refused:
        # What is said of what was sent ends before a colon: after it may stand a piece of it.
        _log(source, refused.status, refused.error, [f"{at}: {why.partition(':')[0]}" for at, why in refused.problems])
        raise
    if meant is None:
        return Pong()
    reception: Reception = request.app.state.reception
    try:
        made = await reception.take(
            topic=meant.topic, key=meant.key, payload=json.dumps(meant.payload), source=f"webhook:{source}",
            delivery_id=meant.delivery_id, start=block.to_start(),
        )  # fmt: skip
    except Refused as refused:
        _log(source, refused.status, refused.error, [field for field, _ in refused.problems])
        raise
    except AnswerRefused as refused:
        _log(source, 422, "It cannot start what the block says.", [field for field, _ in refused.problems])
        raise
    return WebhookOut(disposition=made.disposition, signal_id=made.signal_id)


def _log(source: str, status: int, error: str, problems: list[str]) -> None:
    """One line, without what was sent: a sender may show nobody what it is answered."""
    if 400 <= status < 500:
        said = one_line(f"{error} {', '.join(problems)}")
        log.warning("A webhook of source %r was refused with %s: %s", source, status, said)


async def _read(source: str, request: Request) -> tuple[WebhookSource, Mapped | None]:
    """The source's block and what the message means by it; None for a ping. Raises ``Refused``."""
    block = await _block(request.app.state.inbox, source)
    if block is None:
        raise Refused(
            404, f"There is no source {source!r}: save a block webhook-source/{source} first. If there is one, it "
            "cannot be used, and the gateway's log says why."
        )  # fmt: skip
    incoming = Incoming(
        headers=dict(request.headers.items()),
        body=await request.body(),
        secrets=block.usable_secrets(),
        now=clock.utcnow(),
        tolerance=block.tolerance_seconds,
    )
    try:
        received = receiver(block.scheme)(incoming)
        if block.scheme == "github" and is_ping(received.data):
            return block, None
        meant = block.read(received)
    except Unverified as error:
        raise Refused(401, f"This was not verified as sent by {source}: {error}.") from None
    except Malformed as error:
        raise Refused(422, "The webhook does not fit.", [(error.field, error.reason)]) from None
    _check(meant)
    return block, meant


async def _block(inbox: Inbox | None, source: str) -> WebhookSource | None:
    if inbox is None:
        raise Refused(503, "No Prefect server is known to this gateway, so no source is. Set PREFECT_API_URL.")
    try:
        return await inbox.sources.find(source)
    except SourcesUnknown:
        raise Refused(503, "The Prefect server that knows the sources cannot be asked. Try again.") from None


def _check(meant: Mapped) -> None:
    named: dict[str, Any] = {"topic": meant.topic, "key": meant.key, "delivery id": meant.delivery_id}
    for field, value in named.items():
        if value is not None:
            try:
                _name.validate_python(value)
            except ValidationError as error:
                raise Refused(422, "The webhook does not fit.", [(field, problems_of(error)[0][1])]) from None
