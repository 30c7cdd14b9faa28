"""Waits for a person."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar, overload

from pydantic import BaseModel, Field

from standby.errors import UsageError
from standby.moments import BusinessDays
from standby.policy import Policy
from standby.states import WaitKind
from standby.values import Codec
from standby.waits.base import NOTHING, Nothing, Wait, one_deadline
from standby.waits.showing import evidence_of

F = TypeVar("F")

log = logging.getLogger("standby.waits")


class Decision(BaseModel):
    """Approve or reject."""

    # The form of an approval that names none. People read the docstring above it.

    approved: bool = Field(title="Approve")
    comment: str = Field(default="", title="Comment")


class Approval(Wait[F]):
    """Ask a person. The answer is ``form``: a Pydantic model, by default ``Decision(approved, comment)``.

    ``show``: what they decide on: Markdown, or a value that is shown as a table (its ``_repr_markdown_`` if it has
    one). ``party``: who is asked, a role or a name. ``policy``: how many have to approve, who may, reminders and
    escalation; by default one answer of anybody decides. ``within`` (a timedelta or ``BusinessDays`` from now) or
    ``by`` (an aware datetime): the deadline; then ``otherwise`` is the answer, or without one ``WaitTimedOut`` is
    raised. The default is no deadline. ``check``: called with an answer of the right type; if it raises an exception,
    such as a ``ValueError`` that says what is wrong, the answer is refused and the run waits on. ``fresh``: returns
    what is decided on as it is now, such as an etag; if that has changed when the run takes the answer in, it is
    refused and asked anew. ``max_age``: so is an answer that is older by then. Raises ``UsageError`` for a policy that
    counts people and a form without a field ``approved``.
    """

    @overload
    def __init__(
        self: Approval[Decision],
        reason: str,
        *,
        show: Any = None,
        party: str | None = None,
        policy: Policy | None = None,
        within: timedelta | BusinessDays | None = None,
        by: datetime | None = None,
        otherwise: Decision | Nothing = NOTHING,
        check: Callable[[Decision], None] | None = None,
        fresh: Callable[[], Awaitable[str]] | None = None,
        max_age: timedelta | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: Approval[F],
        reason: str,
        *,
        form: type[F],
        show: Any = None,
        party: str | None = None,
        policy: Policy | None = None,
        within: timedelta | BusinessDays | None = None,
        by: datetime | None = None,
        otherwise: F | Nothing = NOTHING,
        check: Callable[[F], None] | None = None,
        fresh: Callable[[], Awaitable[str]] | None = None,
        max_age: timedelta | None = None,
    ) -> None: ...
    def __init__(
        self,
        reason: str,
        *,
        form: Any = Decision,
        show: Any = None,
        party: str | None = None,
        policy: Policy | None = None,
        within: timedelta | BusinessDays | None = None,
        by: datetime | None = None,
        otherwise: Any = NOTHING,
        check: Callable[[Any], None] | None = None,
        fresh: Callable[[], Awaitable[str]] | None = None,
        max_age: timedelta | None = None,
    ) -> None:
        deadline = one_deadline(within, by)
        if hasattr(fresh, "with_options"):
            raise UsageError(
                f"The approval {reason!r} has a step as fresh=, which a replay would not ask again. Give it a function "
                "that is no step."
            )
        super().__init__(reason, "approval", Codec(lambda: form), party, deadline, otherwise, fresh, max_age)
        if policy is not None and policy.names_people and not _has_switch(self.codec):
            raise UsageError(
                f"The form of the approval {reason!r} has no field 'approved' that is true or false, by which a policy "
                "counts who approves. Add it, or leave policy= out."
            )
        object.__setattr__(self, "policy", policy)
        object.__setattr__(self, "show", show)
        object.__setattr__(self, "further_check", check)

    show: Any
    policy: Policy | None
    further_check: Callable[[F], None] | None

    def check(self, answer: F) -> None:
        if self.further_check is None:
            return
        try:
            self.further_check(answer)
        except (ValueError, TypeError):
            raise
        except Exception as error:  # no answer may fail the run
            log.exception("The check of %r failed, and refused the answer.", self.reason)
            text = " ".join(str(error).split())
            raise ValueError(f"the agent's check failed: {type(error).__name__}: {text}".removesuffix(": ")) from error

    def kind(self) -> WaitKind:
        return WaitKind.APPROVAL

    def more(self) -> dict[str, Any]:
        policy = self.policy.model_dump_json() if self.policy is not None else None
        return {"evidence": evidence_of(self.show), "policy": policy}


def _has_switch(codec: Codec[Any]) -> bool:
    """Under the name it is stored by and the one that forms have for it: an alias would be another."""
    return all(
        schema.get("properties", {}).get("approved", {}).get("type") == "boolean"
        for schema in (codec.schema(), codec.schema(stored=True))
    )
