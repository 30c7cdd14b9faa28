"""Waits for a message from outside."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, overload

from standby.moments import BusinessDays
from standby.states import WaitKind
from standby.values import Codec
from standby.waits.base import NOTHING, A, Nothing, Wait, one_deadline


class Signal(Wait[A]):
    """Wait for a message from outside with this ``topic`` and ``key`` (the correlation: an order number, say).

    ``of``: the type of its payload, any JSON by default. The deadline as for ``Approval``.
    """

    @overload
    def __init__(
        self: Signal[Any],
        topic: str,
        *,
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
        of: type[A],
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
        key: str | None = None,
        of: Any = Any,
        reason: str | None = None,
        party: str | None = None,
        within: timedelta | BusinessDays | None = None,
        by: datetime | None = None,
        otherwise: Any = NOTHING,
    ) -> None:
        reason = reason or f"{topic} for {key}" if key is not None else reason or topic
        super().__init__(reason, topic, Codec(lambda: of), party, one_deadline(within, by), otherwise)
        object.__setattr__(self, "correlation", key)

    correlation: str | None

    def kind(self) -> WaitKind:
        return WaitKind.SIGNAL

    def more(self) -> dict[str, Any]:
        return {"topic": self.name, "correlation": self.correlation}
