"""Who comes to the gateway with a key, and what of an agent's they may see and decide."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from standby import clock
from standby.errors import NotAllowed
from standby.ledger import Ledger
from standby.policy import Policy, Vote, place_of
from standby.states import Door, Role, Verdict

OF_A_CALLER = {Door.GATEWAY: "key", Door.A2A: "a2a", Door.MCP: "mcp"}
"""How the source begins of what a caller sends through each door; their name follows."""


class Caller(NamedTuple):
    """Who asks. ``parties``: the parties they answer for; None: every one."""

    name: str
    role: Role
    parties: frozenset[str] | None
    key_id: str

    def may_answer_for(self, party: str | None) -> bool:
        return party is None or self.role is Role.ADMIN or self.parties is None or party in self.parties

    def source(self, door: Door) -> str:
        """Whom a signal is from that they send through this door."""
        return f"{OF_A_CALLER[door]}:{self.name}"

    @property
    def sources(self) -> list[str]:
        return [self.source(door) for door in OF_A_CALLER]

    @property
    def sees_all(self) -> bool:
        """Whether they see every run. A sender sees what they have started."""
        return self.role is not Role.SENDER


def caller_of(key: Any) -> Caller:
    """Whom a key (its ledger row) lets in."""
    parties = None if key.parties is None else frozenset(json.loads(key.parties))
    return Caller(key.name, Role(key.role), parties, key.id)


def why_no_more(key: Any) -> str | None:
    """Why a key (its ledger row) lets nobody in any more; None while it does."""
    if key.revoked_at is not None:
        return "was revoked"
    return "has expired" if key.expires_at is not None and key.expires_at <= clock.utcnow() else None


async def delegates(ledger: Ledger) -> dict[str, str]:
    """Who decides in whose place now: from, to."""
    now = clock.utcnow()
    return {row.giver: row.taker for row in await ledger.delegations.all() if row.until is None or row.until > now}


def may_answer(caller: Caller, wait: Any, delegates: dict[str, str]) -> bool:
    """Whether a wait (its ledger row) asks the caller: their party, or by its policy them or whom they stand in for.

    Who is named stays named when an escalation asks another party.
    """
    if caller.may_answer_for(wait.party):
        return True
    approvers = () if wait.policy is None else Policy.model_validate_json(wait.policy).approvers
    return any(name == caller.name or delegates.get(name) == caller.name for name in approvers)


def why_not(caller: Caller, wait: Any, decisions: Iterable[Any], delegates: dict[str, str]) -> str | None:
    """Why the caller may not answer an open approval (its ledger row), of whose run these are the decisions; None if
    they may."""
    if caller.role not in (Role.APPROVER, Role.ADMIN):
        return f"the key of {caller.name} has the role {caller.role}, which answers nothing"
    if not may_answer(caller, wait, delegates):
        return f"{caller.name} does not answer for {wait.party}, who is asked here"
    if wait.policy is None:
        return None
    votes = [
        Vote(one.actor, one.place or one.actor, approved=False)  # only who, here, and not what
        for one in decisions
        if (one.wait_id, one.opening, one.verdict) == (wait.id, wait.opening, Verdict.COUNTED)
    ]
    try:
        place_of(Policy.model_validate_json(wait.policy), caller.name, votes, delegates)
    except NotAllowed as refused:
        return str(refused)
    return None
