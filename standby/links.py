"""Approval links: an address that lets one person answer one opening of one wait, once.

The token in it is the credential, signed with a secret that the ledger keeps: whoever holds the link answers as that
person. It is good until the wait's deadline, and for seven days at most.
"""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from standby import clock
from standby.errors import NotAllowed, UnknownWait
from standby.ledger import Ledger
from standby.policy import Policy, place_of
from standby.states import WaitKind, WaitState

LONGEST = timedelta(days=7)
"""How long a link is good where the wait has no earlier deadline."""


class Link(NamedTuple):
    """What a token says. ``person`` stands as the actor in the audit; ``expires_at`` is in whole seconds."""

    wait_id: str
    opening: int
    person: str
    expires_at: datetime

    def token(self, secret: bytes) -> str:
        says = [self.wait_id, self.opening, self.person, int(self.expires_at.timestamp())]
        text = _base64(json.dumps(says, separators=(",", ":")).encode())
        return f"{text}.{_signature(text, secret)}"


def read(token: str, secret: bytes) -> Link | None:
    """What the token says; None unless it is, to the letter, one that was signed with this secret."""
    text, _, signature = token.partition(".")
    if not hmac.compare_digest(_signature(text, secret).encode(), signature.encode("utf-8", "replace")):
        return None
    wait_id, opening, person, expires = json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return Link(wait_id, opening, person, datetime.fromtimestamp(expires, UTC))


async def link_for(ledger: Ledger, wait: Any, person: str) -> Link:
    """A link to a wait (its ledger row) for this person.

    Raises ``UnknownWait`` for what is no open approval, and ``NotAllowed`` for who may not decide it.
    """
    now = clock.utcnow()
    expires_at = min(now + LONGEST, wait.deadline or now + LONGEST).replace(microsecond=0)
    if wait.kind != WaitKind.APPROVAL or wait.state != WaitState.OPEN or expires_at <= now:
        raise UnknownWait(wait.id[:8], f"a link is for an open approval, and this {wait.kind} is {_how(wait)}")
    if wait.policy is not None:
        given = {row.giver: row.taker for row in await ledger.delegations.all() if row.until is None or row.until > now}
        try:
            place_of(Policy.model_validate_json(wait.policy), person, (), given)
        except NotAllowed as error:
            raise NotAllowed(
                f"There is no link to wait {wait.id[:8]} for {person}: {error}. `standby show` says who decides, "
                "`standby delegations add` lets somebody stand in."
            ) from None
        if await ledger.waits.decided_by(wait.id, wait.opening, person) is not None:
            raise NotAllowed(f"{person} has decided already, and counts once.")
    return Link(wait.id, wait.opening, person, expires_at)


async def address_of(ledger: Ledger, link: Link, gateway_url: str) -> str:
    """The link as an address on the gateway."""
    return f"{gateway_url}/answer/{link.token(await secret_of(ledger))}"


async def secret_of(ledger: Ledger) -> bytes:
    return await ledger.secrets.get("links")


def _how(wait: Any) -> str:
    return str(wait.state) if wait.state != WaitState.OPEN or wait.kind != WaitKind.APPROVAL else "past its deadline"


def _signature(text: str, secret: bytes) -> str:
    return _base64(hmac.digest(secret, text.encode("utf-8", "replace"), "sha256"))


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
