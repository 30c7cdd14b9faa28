"""What one agent may do: data that people edit, and nothing else. Unknown means no."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator

from standby.agents.budgets import Budget, _lower
from standby.agents.conditions import Condition
from standby.errors import UsageError
from standby.policy import SPAN, Policy
from standby.values import summary


class Permission(StrEnum):
    ALLOW = "allow"
    ASK = "ask"
    DENY = "deny"


STRICTEST_FIRST = (Permission.DENY, Permission.ASK, Permission.ALLOW)


class AtStop(StrEnum):
    """What happens when a limit of the scope is reached."""

    FAIL = "fail"  # run_agent raises ScopeStopped
    FINISH = "finish"  # run_agent returns what there is, without an output
    ASK = "ask"  # a person is asked for more


def inlined(choices: type[StrEnum]) -> WithJsonSchema:
    """In the form that people fill in: the choices themselves, so that the field keeps its own title."""
    return WithJsonSchema({"type": "string", "enum": [str(one) for one in choices]})


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(_Data):
    """What is allowed of one tool. Several rules may be on the same tool.

    ``when``: all of these must hold. A call is denied if a ``deny`` rule may apply to it (none of its conditions
    certainly fails), else allowed if an ``allow`` rule holds, else asked about if an ``ask`` rule holds, else denied.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "description": "Denied if a deny rule may apply, else allowed, else asked about, else denied."
        }
    )

    tool: str = Field(title="Tool", description="Its name.", min_length=1)
    permission: Annotated[Permission, inlined(Permission)] = Field(title="Permission")
    when: tuple[Condition, ...] = Field(
        default=(), title="When", description="Conditions on the arguments, which must all hold."
    )


class Asking(_Data):
    """How people are asked: which party, by which policy, how long they have. No answer is a no.

    ``max_age``: how old an approval may be when its call acts; by default any age will do.
    """

    model_config = ConfigDict(
        json_schema_extra={"description": "Whom it asks, and how they decide. No answer is a no."}
    )

    party: str | None = Field(default=None, title="Party", description="Who is asked, such as editors.")
    policy: Policy | None = Field(default=None, title="Policy")
    within: timedelta | None = Field(
        default=None, title="Time to answer", description=f"Empty: any. {SPAN}", gt=timedelta(0)
    )
    max_age: timedelta | None = Field(
        default=None,
        title="Age of an approval",
        description=f"How old it may be when its call acts; empty: any. {SPAN}",
        gt=timedelta(0),
    )

    def narrowed(self, other: Asking) -> Asking:
        """What satisfies both: the larger quorum, the approvers in both, the shorter time. The party, and those that
        are asked instead later on, are the ones of ``other`` only where this one leaves that open.

        Raises ``UsageError``.
        """
        times = {"within": _lower(self.within, other.within), "max_age": _lower(self.max_age, other.max_age)}
        mine, theirs = self.policy or Policy(), other.policy or Policy()
        to_parties = self.party is not None or bool(mine.escalate)
        open_ = not to_parties and not mine.approvers
        if to_parties and theirs.approvers and not mine.approvers:
            raise UsageError(
                f"The narrower scope names {', '.join(theirs.approvers)}, the wider one asks a party, and who is of it "
                "no scope knows: name the approvers in the wider one, too, or leave them off the narrower."
            )
        approvers = mine.approvers or theirs.approvers
        if mine.approvers and theirs.approvers:
            approvers = tuple(name for name in mine.approvers if name in theirs.approvers)
            if not approvers:
                raise UsageError("The two scopes have no approver in common, so nobody could approve for both.")
        try:
            policy = Policy(
                quorum=max(mine.quorum, theirs.quorum),
                approvers=approvers,
                not_by=tuple(dict.fromkeys((*mine.not_by, *theirs.not_by))),
                remind=mine.remind or theirs.remind,
                escalate=theirs.escalate if open_ else mine.escalate,
            )
        except ValidationError as error:
            raise UsageError(f"The two scopes cannot both be satisfied: {summary(error)}") from error
        said = self.policy is not None or other.policy is not None
        return Asking(party=other.party if open_ else self.party, policy=policy if said else None, **times)


class AgentScope(_Data):
    """What one agent may do. The defaults allow nothing but to think, without a limit.

    ``goal``: what it is for, shown to whoever is asked. ``tools``: the rules; a tool without one is denied. ``budget``
    and ``deadline``: when it stops. ``at_stop``: what happens then. ``asking``: how people are asked. ``within``: wider
    scopes that must allow the same; ``narrowed`` fills it in. ``purse``: of the agent that hands it on, to which
    what is spent under it counts as well; ``current_scope`` fills it in. ``block``: the document that it was read from,
    by its name, which is read again for those that it is handed on to; ``scope_named`` fills it in.
    """

    goal: str = ""
    tools: tuple[Rule, ...] = ()
    budget: Budget = Budget()
    deadline: AwareDatetime | None = None
    at_stop: AtStop = AtStop.FAIL
    asking: Asking = Asking()
    within: tuple[AgentScope, ...] = ()
    purse: str | None = None
    block: str | None = None

    @model_validator(mode="after")
    def _no_nul(self) -> AgentScope:
        if "\0" in self.goal:
            raise ValueError("the goal has a NUL character, which cannot be shown or stored")
        return self

    def narrowed(self, other: AgentScope) -> AgentScope:
        """``other``, which never allows more than this scope: for a part of the work, or another agent.

        Raises ``UsageError`` where who is asked cannot satisfy both, or both are handed on by different agents.
        """
        if self.purse is not None and other.purse not in (None, self.purse):
            raise UsageError("The two scopes were handed on by different agents: what is spent cannot count to both.")
        return AgentScope(
            goal=other.goal or self.goal,
            tools=other.tools,
            budget=self.budget.narrowed(other.budget),
            deadline=_earlier(self.deadline, other.deadline),
            at_stop=_narrowed_stop(self.at_stop, other.at_stop),
            asking=self.asking.narrowed(other.asking),
            within=(*other.within, self),
            purse=self.purse or other.purse,
            block=other.block,
        )

    def inside(self, wider: AgentScope) -> AgentScope:
        """This scope, which never allows more than ``wider`` as that is now. Of budgets the ledger keeps account.

        Raises ``UsageError`` where who is asked cannot satisfy both.
        """
        wider = _without_account(wider)
        if any(_without_account(one) == wider for one in self.all()):
            return self
        return wider.narrowed(self)

    def all(self) -> Iterator[AgentScope]:
        """This scope and all that it is within."""
        yield self
        for wider in self.within:
            yield from wider.all()


def _without_account(scope: AgentScope) -> AgentScope:
    return scope.model_copy(update={"budget": Budget(), "purse": None})


def _earlier(mine: datetime | None, other: datetime | None) -> datetime | None:
    return min((moment for moment in (mine, other) if moment is not None), default=None)


def _narrowed_stop(mine: AtStop, other: AtStop) -> AtStop:
    """More can be asked for only where both say so."""
    return other if other is not AtStop.ASK or mine is AtStop.ASK else mine
