"""What the keeper asks Prefect for when Prefect was away: a Prefect that answers by the test's clock, a real ledger."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import httpx
import pytest
from prefect.client.orchestration import PrefectClient
from prefect.events import Event
from prefect.events.filters import EventFilter

from standby import settings
from standby.event_door import OVERLAP, EventDoor
from standby.ledger import Ledger
from standby.ledger.events import topic_of
from standby.ledger.opening import WaitRow
from standby.ledger.settling import Settled
from standby.states import WaitKind
from tests.ledger.acts import parked, states_of
from tests.ledger.conftest import Watch


class FakePrefect:
    def __init__(self) -> None:
        self.away = False
        self.occurred: list[Event] = []

    async def read_events(self, wanted: EventFilter, limit: int) -> Any:
        if self.away:
            raise httpx.ConnectError("away")
        found = [event for event in self.occurred if event.occurred >= wanted.occurred.since]
        return SimpleNamespace(events=found, next_page=None)


@pytest.mark.parametrize("missed", [False, True])
async def test_what_occurs_while_prefect_is_away_for_long_is_found(ledger: Ledger, watch: Watch, missed: bool) -> None:
    """Longer than is asked back; ``missed``: it is noticed first because the websocket has been connected again."""
    waiting = WaitRow(
        key="paid", kind=WaitKind.EVENT, reason="r", topic=topic_of("invoice.paid"), correlation="invoice.7"
    )
    await parked(ledger, [waiting])
    prefect, woken = FakePrefect(), []

    async def wake(settled: Settled) -> None:
        woken.append(settled)

    door = EventDoor(ledger, cast(Any, None), wake)
    client = cast(PrefectClient, prefect)
    await door.tick(client, listen=False)
    prefect.away = True
    watch.forward(settings.RECONCILE_EVERY / 2)
    prefect.occurred.append(
        Event(event="invoice.paid", resource={"prefect.resource.id": "invoice.7"}, occurred=watch.now, id=uuid4())
    )
    door._missed = missed
    for passed in (timedelta(0), settings.RECONCILE_EVERY, OVERLAP, OVERLAP):
        watch.forward(passed)
        if missed or passed:
            with pytest.raises(httpx.ConnectError):
                await door.tick(client, listen=False)
    prefect.away = False
    await door.tick(client, listen=False)
    assert await states_of(ledger) == {"paid": "settled"}
    assert len(woken) == 1
