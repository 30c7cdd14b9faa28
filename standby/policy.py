"""Who decides an approval, how many of them, and who is asked when nobody does: data, and pure functions on it.

A policy is stored with its wait and applied by the ledger's transactions and the keeper, never by the flow.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from standby.errors import NotAllowed

SPAN = "A span of time as ISO 8601 has it: PT30M, PT4H, P3D."
"""For forms, which show it as text."""


LONGEST = timedelta(days=3650)
"""Until the last reminder or escalation. A date beyond what calendars hold would stop whoever computes it."""


class Escalation(BaseModel):
    """After this long without a decision, ``to`` (a party) is asked instead."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    after: timedelta = Field(title="After", description=SPAN, gt=timedelta(0), le=LONGEST)
    to: str = Field(title="To", description="The party that is asked instead.", min_length=1)


class Policy(BaseModel):
    """How an approval is decided.

    ``quorum``: how many people have to approve (1). ``approvers``: who may decide, by name; none means whoever the door
    lets answer for the wait's party. ``not_by``: who may not, such as who asked for the payment. ``remind``: how long
    after the opening the party is reminded, each time. ``escalate``: who is asked instead, after how long.

    With ``approvers`` the wait is rejected as soon as those who are left cannot make the quorum; without them, by the
    first rejection. Whoever is asked by delegation decides in the place of who delegated.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra={"description": "Who decides, and how many of them."}
    )

    quorum: int = Field(default=1, title="Quorum", description="How many people have to approve.", ge=1)
    approvers: tuple[str, ...] = Field(
        default=(), title="Approvers", description='Who may decide: ["ada", "bob"]. Empty: whoever may for the party.'
    )
    not_by: tuple[str, ...] = Field(default=(), title="Not by", description='Who may not: ["carol"].')
    remind: tuple[timedelta, ...] = Field(
        default=(), title="Reminders", description='How long after it was asked: ["PT4H", "P1D"].'
    )
    escalate: tuple[Escalation, ...] = Field(
        default=(),
        title="Escalation",
        description='Who is asked instead, after how long: [{"after": "P2D", "to": "managers"}].',
    )

    @model_validator(mode="after")
    def _can_be_met(self) -> Policy:
        able = set(self.approvers) - set(self.not_by)
        if self.approvers and len(able) < self.quorum:
            raise ValueError(f"{self.quorum} people have to approve, and only {len(able)} of approvers= may")
        if any(not name.strip() or "\0" in name for name in (*self.approvers, *self.not_by)):
            raise ValueError("approvers= and not_by= take names, which are not empty and have no NUL character")
        if any(not timedelta(0) < after <= LONGEST for after in self.remind):
            raise ValueError("remind= takes spans of time after the opening, above zero and of ten years at most")
        return self

    @property
    def names_people(self) -> bool:
        """Whether it must be known who decides: then a door that does not know takes no answer."""
        return self.quorum > 1 or bool(self.approvers) or bool(self.not_by)

    @property
    def said(self) -> str:
        """The policy in a few words, for whoever is asked; empty where there is nothing to say."""
        parts = []
        if self.quorum > 1:
            parts.append(f"{self.quorum} people have to approve")
        if self.approvers:
            parts.append(f"{'of' if self.quorum > 1 else 'one of'} {', '.join(self.approvers)}")
        if self.not_by:
            parts.append(f"not {', '.join(self.not_by)}")
        return ", ".join(parts)


class Vote(NamedTuple):
    """A decision that counts: by whom, in whose place (the same person unless delegated), and which."""

    actor: str
    place: str
    approved: bool


class Standing(StrEnum):
    OPEN = "open"
    APPROVED = "approved"
    REJECTED = "rejected"


def may_count(policy: Policy, vote: Vote) -> bool:
    """Whether a vote counts under this policy, which may be another than when it was given."""
    if vote.actor in policy.not_by or vote.place in policy.not_by:
        return False
    return not policy.approvers or vote.place in policy.approvers


def standing(policy: Policy, votes: Iterable[Vote]) -> Standing:
    """What the votes so far come to."""
    votes = list(votes)
    approvals = sum(vote.approved for vote in votes)
    if approvals >= policy.quorum:
        return Standing.APPROVED
    rejections = len(votes) - approvals
    able = len(set(policy.approvers) - set(policy.not_by)) if policy.approvers else policy.quorum
    return Standing.REJECTED if able - rejections < policy.quorum else Standing.OPEN


def approves(answer: str | None) -> bool:
    """Whether an answer, as JSON text, is an approval."""
    plain = json.loads(answer or "null")
    return isinstance(plain, dict) and plain.get("approved") is True


def place_of(policy: Policy, actor: str | None, votes: Iterable[Vote], delegates: dict[str, str]) -> str:
    """In whose place ``actor`` decides: their own, or that of one who delegated to them (``delegates``: from, to).

    Raises ``NotAllowed``.
    """
    if not policy.names_people:
        return actor or ""
    if not actor:
        raise NotAllowed("it has to be known who decides: answer in the terminal or through the gateway")
    votes = list(votes)
    if actor in policy.not_by:
        raise NotAllowed(f"{actor} may not decide this")
    if any(vote.actor == actor for vote in votes):
        raise NotAllowed(f"{actor} has decided already, and counts once")
    if not policy.approvers:
        return actor
    taken = {vote.place for vote in votes}
    for place in (actor, *(giver for giver, taker in delegates.items() if taker == actor)):
        if place in policy.approvers and place not in policy.not_by and place not in taken:
            return place
    if actor in taken:
        raise NotAllowed(f"somebody has decided in the place of {actor}")
    raise NotAllowed(f"{actor} is not among {', '.join(policy.approvers)}")


def disagreement(mine: dict[str, Any], earlier: dict[str, Any]) -> list[str]:
    """Fields in which two approvals differ. Everybody must approve the same; comments are their own."""
    return sorted(name for name in {*mine, *earlier} - {"comment"} if mine.get(name) != earlier.get(name))


class Due(NamedTuple):
    """What is to be done now for a wait that is open: a reminder, and who is asked from now on (None: as before)."""

    remind: bool
    party: str | None


def moments(policy: Policy) -> list[tuple[timedelta, str | None]]:
    """When something is due, counted from the opening, in order: a reminder (None) or an escalation (to whom)."""
    due: list[tuple[timedelta, str | None]] = [(after, None) for after in policy.remind]
    due += [(one.after, one.to) for one in policy.escalate]
    return sorted(due, key=lambda moment: moment[0])


def next_due(policy: Policy, opened_at: datetime, done: int) -> datetime | None:
    """When the next of ``moments`` is due, of which ``done`` are done; None when there is none left."""
    left = moments(policy)[done:]
    return opened_at + left[0][0] if left else None


def due(policy: Policy, opened_at: datetime, now: datetime, done: int) -> tuple[Due, int]:
    """What is due now, and how many of ``moments`` are done then. What was missed while nobody looked is done once."""
    remind, party, count = False, None, done
    for after, to in moments(policy)[done:]:
        if opened_at + after > now:
            break
        count += 1
        if to is None:
            remind = True
        else:
            party = to
    return Due(remind, party), count
