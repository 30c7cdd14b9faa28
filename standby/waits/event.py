"""Waits for something that Prefect observes: an event with this name about this resource."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, overload

from standby.ledger.events import topic_of
from standby.moments import BusinessDays
from standby.states import WaitKind
from standby.waits.base import NOTHING, A, Nothing
from standby.waits.signal import Signal


class PrefectEvent(Signal[A]):
    """Wait for an event of Prefect's feed by its name and the id of its resource; the answer is its payload.

    It is the first one that occurred since the run began and that this run has not used yet; every run that waits for
    it gets it. ``of``: the type of the payload, any JSON by default. The deadline as for ``Approval``. A keeper has to
    run. Prefect keeps events for seven days unless told otherwise.
    """

    @overload
    def __init__(
        self: PrefectEvent[Any],
        event: str,
        *,
        resource: str,
        reason: str | None = None,
        party: str | None = None,
        within: timedelta | BusinessDays | None = None,
        by: datetime | None = None,
        otherwise: Any = NOTHING,
    ) -> None: ...
    @overload
    def __init__(
        self,
        event: str,
        *,
        resource: str,
        of: type[A],
        reason: str | None = None,
        party: str | None = None,
        within: timedelta | BusinessDays | None = None,
        by: datetime | None = None,
        otherwise: A | Nothing = NOTHING,
    ) -> None: ...
    def __init__(
        self,
        event: str,
        *,
        resource: str,
        of: Any = Any,
        reason: str | None = None,
        party: str | None = None,
        within: timedelta | BusinessDays | None = None,
        by: datetime | None = None,
        otherwise: Any = NOTHING,
    ) -> None:
        super().__init__(
            event, key=resource, of=of, reason=reason, party=party, within=within, by=by, otherwise=otherwise
        )

    def kind(self) -> WaitKind:
        return WaitKind.EVENT

    def more(self) -> dict[str, Any]:
        return {"topic": topic_of(self.name), "correlation": self.correlation}
