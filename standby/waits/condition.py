"""Waits for a message from outside, or for a poll that finds what it would have said."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NotRequired, TypedDict, overload

from standby.errors import UsageError
from standby.moments import BusinessDays
from standby.states import WaitKind
from standby.waits.base import NOTHING, A, Nothing
from standby.waits.names import importable
from standby.waits.signal import Signal

LONGEST = timedelta(days=3650)
"""Between two polls. A date beyond what calendars hold would stop whoever computes it."""


class Condition(Signal[A]):
    """Wait until something is so: a signal says it, or a poll of the source of truth finds it.

    ``topic``, ``key`` and ``of`` as for ``Signal``. ``poll``: a function in a module that the keeper can import, async
    or not; called with ``args`` (a dict, its parameters by name, JSON), it returns what the signal would have said, or
    None for not yet. It is asked ``every`` (5 s) after the wait opens, and each time after twice as long, up to
    ``at_most`` (5 min). It has 30 s to answer; one that is not async has a thread of its own, and ends with the
    process. Whichever is first answers the wait. The deadline as for ``Approval``. Raises ``UsageError`` for a function
    that cannot be imported and for ``args`` that are no dict of names, or not JSON.
    """

    @overload
    def __init__(
        self: Condition[Any],
        topic: str,
        *,
        poll: Callable[..., Any],
        args: dict[str, Any] | None = None,
        every: timedelta = ...,
        at_most: timedelta = ...,
        key: str | None = None,
        reason: str | None = None,
        party: str | None = None,
        within: timedelta | BusinessDays | None = None,
        by: datetime | None = None,
        otherwise: Any = NOTHING,
    ) -> None: ...
    @overload
    def __init__(
        self,
        topic: str,
        *,
        poll: Callable[..., Any],
        of: type[A],
        args: dict[str, Any] | None = None,
        every: timedelta = ...,
        at_most: timedelta = ...,
        key: str | None = None,
        reason: str | None = None,
        party: str | None = None,
        within: timedelta | BusinessDays | None = None,
        by: datetime | None = None,
        otherwise: A | Nothing = NOTHING,
    ) -> None: ...
    def __init__(
        self,
        topic: str,
        *,
        poll: Callable[..., Any],
        args: dict[str, Any] | None = None,
        every: timedelta = timedelta(seconds=5),
        at_most: timedelta = timedelta(minutes=5),
        key: str | None = None,
        of: Any = Any,
        reason: str | None = None,
        party: str | None = None,
        within: timedelta | BusinessDays | None = None,
        by: datetime | None = None,
        otherwise: Any = NOTHING,
    ) -> None:
        super().__init__(topic, key=key, of=of, reason=reason, party=party, within=within, by=by, otherwise=otherwise)
        if not timedelta(0) < every <= at_most:
            raise UsageError("A condition is polled every= so often, above zero and not above at_most=.")
        if at_most > LONGEST:
            raise UsageError(f"A condition is polled every {LONGEST.days} days at least, and at_most= is {at_most}.")
        if args is not None and not (isinstance(args, dict) and all(isinstance(name, str) for name in args)):
            raise UsageError(
                f"The args= of condition {topic!r} are a dict, the parameters of poll= by name, such as "
                f'{{"order": order}}, not {type(args).__name__} {args!r:.100}.'
            )
        try:
            json.dumps(args or {}, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"The args= of condition {topic!r} are kept as JSON, which they are not: {error}"
            ) from error
        spec = Poll(
            function=importable(poll), args=args or {}, every=every.total_seconds(), at_most=at_most.total_seconds()
        )
        object.__setattr__(self, "poll", spec)

    poll: Poll

    def kind(self) -> WaitKind:
        return WaitKind.CONDITION

    def more(self) -> dict[str, Any]:
        return {**super().more(), "poll": json.dumps(self.poll)}


class Poll(TypedDict):
    """How the keeper asks: ``function`` is ``module:name``, the times are seconds.

    ``failed``: how many polls, up to the last one, have failed one after the other.
    """

    function: str
    args: dict[str, Any]
    every: float
    at_most: float
    failed: NotRequired[int]
