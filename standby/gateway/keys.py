"""Keys of the gateway: how they are made, and who a request comes from.

A key is 32 random bytes, so its SHA-256 is all that need be kept: there is nothing to guess, and a slow hash would
only cost time at every request.
"""

from __future__ import annotations

import json
import secrets
from datetime import datetime
from hashlib import sha256
from typing import Annotated, NoReturn

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from standby.callers import Caller, caller_of, why_no_more
from standby.gateway.names import shallow, storable
from standby.gateway.refusals import Refused
from standby.ledger import Ledger
from standby.states import Door, Role

PREFIX = "sb_"
given_key = HTTPBearer(auto_error=False, description="A key made by `standby keys add`.")


async def make_key(
    ledger: Ledger, name: str, role: Role, *, parties: list[str] | None = None, expires_at: datetime | None = None
) -> tuple[str, str]:
    """A new key and its id. The key is shown once and cannot be found again."""
    key = PREFIX + secrets.token_urlsafe(32)
    key_id = await ledger.keys.add(name=name, role=role, digest=_digest(key), parties=parties, expires_at=expires_at)
    return key, key_id


def _digest(key: str) -> str:
    return sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


async def _said(request: Request) -> str | None:
    """The body as JSON text; None if it is no JSON."""
    body = await request.body()
    try:
        shallow(body)
        return json.dumps(json.loads(body))
    except (ValueError, RecursionError):
        return None


def _may_be_one(wait_id: str) -> bool:
    """Whether it can be looked for: nothing has checked the path yet."""
    try:
        return bool(storable(wait_id))
    except ValueError:
        return False


def lacks(caller: Caller, roles: set[Role]) -> str | None:
    """Why the caller, who has none of these roles, is refused; None if they have one."""
    if caller.role in roles:
        return None
    return f"The key of {caller.name} has the role {caller.role}; this takes one of: {', '.join(sorted(roles))}."


class Allow:
    """A FastAPI dependency: the caller, who must have one of these roles, or be an admin."""

    def __init__(self, *roles: Role) -> None:
        self.roles = {*roles, Role.ADMIN}

    async def __call__(
        self, request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(given_key)]
    ) -> Caller:
        if given is None:
            raise Refused(401, "No key was sent. Send one in the header `Authorization: Bearer KEY`.")
        ledger: Ledger = request.app.state.ledger
        row = await ledger.keys.find(_digest(given.credentials))
        if row is None:
            raise Refused(401, "This key is unknown. `standby keys add` makes a new one.")
        if (how := why_no_more(row)) is not None:
            why = f"The key of {row.name} {how}. `standby keys add` makes a new one."
            await self._refuse(request, row.name, 401, why)
        caller = caller_of(row)
        if (why_not := lacks(caller, self.roles)) is not None:
            await self._refuse(request, caller.name, 403, why_not)
        return caller

    async def _refuse(self, request: Request, name: str, status: int, why: str) -> NoReturn:
        """Who has a key and is kept from deciding a wait with it is in the audit."""
        wait_id: str | None = request.path_params.get("wait_id")
        if request.method == "POST" and wait_id and _may_be_one(wait_id):
            ledger: Ledger = request.app.state.ledger
            await ledger.waits.note_not_allowed(wait_id, Door.GATEWAY, name, why, await _said(request))
        raise Refused(status, why)
