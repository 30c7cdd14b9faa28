"""What all kinds of wait share: the row a wait is in the ledger, and how its typed answer is read back from JSON."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from standby import clock
from standby.errors import UsageError
from standby.hold import Asked
from standby.ledger.opening import WaitRow
from standby.moments import BusinessDays, Moment, point_in_time
from standby.places import check_text
from standby.states import WaitKind
from standby.values import Codec
from standby.waits.names import type_name
from standby.waits.showing import visible

A = TypeVar("A")


class Nothing:
    def __repr__(self) -> str:
        return "no default"


NOTHING = Nothing()


@dataclass(frozen=True)
class Wait(Generic[A]):
    """Base of all kinds. ``name`` is the default name in the wait's key."""

    reason: str
    name: str
    codec: Codec[A]
    party: str | None = None
    deadline: Moment | None = None
    default: Any = NOTHING
    fresh: Callable[[], Awaitable[str]] | None = None  # what it is about, such as an etag: asked again when it changed
    max_age: timedelta | None = None  # how old an answer may be when the run takes it in

    def row(self, key: str, asked: Asked | None = None) -> WaitRow:
        """The wait as it opens now; ``deadline`` becomes a point in time. ``asked``: how its run is to be held.

        Raises ``UsageError`` for text that cannot be stored, and for a default answer without a deadline.
        """
        has_default, deadline = not isinstance(self.default, Nothing), self.due()
        if has_default and deadline is None:
            raise UsageError(
                f"The wait {self.reason!r} has otherwise=, which counts at its deadline, and has none: give it within= "
                "or by=."
            )
        row = WaitRow(
            key=key,
            kind=self.kind(),
            reason=visible(self.reason),
            party=self.party,
            deadline=deadline,
            has_default=has_default,
            default_answer=self.codec.encode(self.default, f"the default of wait {key!r}")[0] if has_default else None,
            answer_type=type_name(self.codec.annotation),
            answer_schema=self.codec.schema_text,
            hold=asked.text if asked is not None else None,
            **self.more(),
        )
        for field in ("reason", "party", "topic", "correlation", "evidence"):
            check_text(getattr(row, field) or "", f"The {field} of wait {key!r}")
        return row

    async def today(self, key: str, asked: Asked | None = None) -> WaitRow:
        """The wait as it opens now, with what it is about now."""
        row = self.row(key, asked)
        return row if self.fresh is None else replace(row, fresh=await self.fresh())

    def kind(self) -> WaitKind:
        raise NotImplementedError

    def due(self) -> datetime | None:
        """The deadline of a wait that opens now."""
        return None if self.deadline is None else point_in_time(self.deadline)

    def more(self) -> dict[str, Any]:
        """Columns that only this kind has."""
        return {}

    def counts_anew(self) -> bool:
        """Whether an answer counts by the policy as it is when the run takes the answer in, where that is another by
        now. May raise where nothing can come of an answer any more."""
        return False

    def check_age(self, settled_at: datetime) -> None:
        """Raise ``ValueError`` if an answer of that time is too old to act on."""
        if self.max_age is not None and clock.utcnow() - settled_at > self.max_age:
            raise ValueError(f"The answer is older than {self.max_age}, so it is asked anew.")

    def check(self, answer: A) -> None:
        """Raise ``ValueError`` if an answer of the right type will not do all the same."""

    def taken(self, answer: Any) -> A:
        """What ``wait_for`` returns for the answer as it was stored. May raise, the same on every replay."""
        value: A = answer
        return value

    def read(self, text: str) -> tuple[str, A]:
        """An answer's JSON text as it is stored, and its value. Raises ``ValueError`` or ``TypeError``."""
        try:
            answer = self.codec.decode(text)
            self.check(answer)
            return self.codec.encode(answer, f"the answer to {self.reason!r}")
        except (ValueError, TypeError):
            raise
        except Exception as error:  # a validator of the form that fails on what it was given
            raise ValueError(f"{type(error).__name__}: {error}") from error


def one_deadline(within: timedelta | BusinessDays | None, by: datetime | None) -> Moment | None:
    if within is not None and by is not None:
        raise UsageError("A wait has one deadline: give within= or by=, not both.")
    if within is not None and not isinstance(within, timedelta | BusinessDays):
        raise UsageError(f"within= takes a timedelta or BusinessDays, not {within!r}: timedelta(hours=4), say.")
    if by is not None and not isinstance(by, datetime):
        raise UsageError(f"by= takes a datetime with its time zone, not {by!r}.")
    return within if within is not None else by
