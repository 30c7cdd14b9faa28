"""Keys of the gateway: how they are made, and who a request comes from.

A key is 32 random bytes, so its SHA-256 is all that need be kept: there is nothing to guess, and a slow hash would
only cost time at every request.
"""

from __future__ import annotations

import json
import secrets
from datetime import datetime
from hashlib import sha256
from typing import Annotated, NamedTuple, NoReturn

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from standby import clock
from standby.gateway.refusals import Refused
from standby.ledger import Ledger
from standby.states import Door, Role

PREFIX = "sb_"
_bearer = HTTPBearer(auto_error=False, description="A key made by `standby keys add`.")


class Caller(NamedTuple):
    """Who asks. ``parties``: the parties they answer for; None: every one."""

    name: str
    role: Role
    parties: frozenset[str] | None

    def may_answer_for(self, party: str | None) -> bool:
        return party is None or self.role is Role.ADMIN or self.parties is None or party in self.parties


async def make_key(
    ledger: Ledger, name: str, role: Role, *, parties: list[str] | None = None, expires_at: datetime | None = None
) -> tuple[str, str]:
    """A new key and its id. The key is shown once and cannot be found again."""
    key = PREFIX + secrets.token_urlsafe(32)
    key_id = await ledger.keys.add(name=name, role=role, digest=_digest(key), parties=parties, expires_at=expires_at)
    return key, key_id


def _digest(key: str) -> str:
    return sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


class Allow:
    """A FastAPI dependency: the caller, who must have one of these roles, or be an admin."""

    def __init__(self, *roles: Role) -> None:
        self.roles = {*roles, Role.ADMIN}

    async def __call__(
        self, request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> Caller:
        if given is None:
            raise Refused(401, "No key was sent. Send one in the header `Authorization: Bearer KEY`.")
        ledger: Ledger = request.app.state.ledger
        row = await ledger.keys.find(_digest(given.credentials))
        if row is None:
            raise Refused(401, "This key is unknown. `standby keys add` makes a new one.")
        if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= clock.utcnow()):
            how = "was revoked" if row.revoked_at is not None else "has expired"
            await self._refuse(
                request, row.name, 401, f"The key of {row.name} {how}. `standby keys add` makes a new one."
            )
        caller = Caller(row.name, Role(row.role), None if row.parties is None else frozenset(json.loads(row.parties)))
        if caller.role not in self.roles:
            allowed = ", ".join(sorted(self.roles))
            why = f"The key of {caller.name} has the role {caller.role}; this takes one of: {allowed}."
            await self._refuse(request, caller.name, 403, why)
        return caller

    async def _refuse(self, request: Request, name: str, status: int, why: str) -> NoReturn:
        """Who has a key and is kept from deciding a wait with it is in the audit."""
        if request.method == "POST" and (wait_id := request.path_params.get("wait_id")):
            await request.app.state.ledger.waits.note_not_allowed(wait_id, Door.GATEWAY, name, why)
        raise Refused(status, why)
