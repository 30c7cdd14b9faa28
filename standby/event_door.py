"""Prefect's events as a door: what waits for an event hears of it over Prefect's websocket, from the keeper at work.

What the websocket loses (it does so without a word) is found by asking for events that occurred: for a wait that opens,
since its run began; whenever the websocket is connected, and every ``settings.RECONCILE_EVERY``, for all waits. Prefect
itself takes up to ``OVERLAP`` until what occurred can be asked for.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.events import Event
from prefect.events.clients import PrefectEventSubscriber
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventOrder, EventResourceFilter

from standby import clock, settings
from standby.doors import misfit
from standby.ledger import Ledger
from standby.ledger.events import name_of
from standby.ledger.settling import Settled

log = logging.getLogger("standby.events")

OVERLAP = timedelta(minutes=1)
"""How far before the last time all waits are asked for again. Prefect writes events down every five seconds."""

PAGE = 50
"""Events in one answer, and resources in one question: what the Prefect API gives at most."""

RECONNECT_SECONDS = (0.2, 10.0)
"""How long the first try to connect again waits, and the longest one; doubled in between."""


class EventDoor:
    """``client`` opens a Prefect client; ``wake`` wakes the run of a wait that has settled."""

    def __init__(
        self,
        ledger: Ledger,
        client: Callable[[], AbstractAsyncContextManager[PrefectClient]],
        wake: Callable[[Settled], Awaitable[None]],
    ) -> None:
        self._ledger, self._client, self._wake = ledger, client, wake
        self._names: frozenset[str] = frozenset()
        self._listening: asyncio.Task[None] | None = None
        self._asked: set[tuple[str, int]] = set()  # openings of waits that were asked for
        self._all_asked: datetime | None = None
        self._missed = False  # the websocket was away

    async def tick(self, client: PrefectClient, *, listen: bool) -> None:
        """Ask for what has to be asked for now, and with ``listen`` hear of the rest."""
        waits = await self._ledger.events.awaited()
        self._asked &= {_opening(wait) for wait in waits}
        if listen:
            await self._listen_for(frozenset(map(name_of, waits)))
        if new := [wait for wait in waits if _opening(wait) not in self._asked]:
            await self._ask(client, new, None)
        now = clock.utcnow()
        if self._missed or self._all_asked is None or clock.is_over(self._all_asked, settings.RECONCILE_EVERY):
            self._missed = False  # before it asks: what is missed meanwhile has to be asked for once more
            try:
                if self._all_asked is not None and waits:
                    await self._ask(client, waits, min(self._all_asked, now) - OVERLAP)
            except BaseException:
                self._missed = True
                raise
            self._all_asked = now

    async def close(self) -> None:
        """Hear nothing more."""
        self._names = frozenset()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
            self._listening = None

    async def _listen_for(self, names: frozenset[str]) -> None:
        if names == self._names and (not names or (self._listening and not self._listening.done())):
            return
        await self.close()
        self._names = names
        if names:
            self._listening = asyncio.create_task(self._listen(sorted(names)))

    async def _listen(self, names: list[str]) -> None:
        pause = RECONNECT_SECONDS[0]
        while True:
            try:
                async with self._client() as client:
                    # One try: this loop makes the next one, and then asks for what was missed.
                    subscriber = PrefectEventSubscriber(
                        str(client.api_url), EventFilter(event=EventNameFilter(name=names)), reconnection_attempts=0
                    )
                    async with subscriber as events:
                        self._missed, pause = True, RECONNECT_SECONDS[0]
                        async for event in events:
                            await self._take(client, event)
            except Exception as error:  # Prefect's, websockets' and the network's own
                log.warning("Prefect's events are not heard for now: %s: %s", type(error).__name__, error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, RECONNECT_SECONDS[1])

    async def _take(self, client: PrefectClient, event: Event) -> None:
        waits = await self._ledger.events.awaited(event.event, event.resource.id)
        if new := [wait for wait in waits if _opening(wait) not in self._asked]:
            await self._ask(client, new, None)  # an earlier event comes first
        await self._give([event], waits)

    async def _ask(self, client: PrefectClient, waits: Sequence[Any], since: datetime | None) -> None:
        """Give the waits the events that occurred since then, or else since their runs began."""
        for at in range(0, len(waits), PAGE):
            some = waits[at : at + PAGE]
            begun = min(wait.run_started_at for wait in some)
            occurred = [
                event
                async for event in _occurred(
                    client,
                    {name_of(wait) for wait in some},
                    {wait.correlation for wait in some},
                    begun if since is None else max(begun, since),
                )
            ]
            await self._give(occurred, some)
        self._asked |= {_opening(wait) for wait in waits}

    async def _give(self, events: Iterable[Event], waits: Iterable[Any]) -> None:
        """Each wait the first of the events that is for it and that its run has not used."""
        for wait in waits:
            for event in events:
                named = (event.event, event.resource.id) == (name_of(wait), wait.correlation)
                if named and event.occurred >= wait.run_started_at:
                    settled = await self._ledger.events.deliver(
                        wait, event_id=str(event.id), payload=json.dumps(event.payload), misfit=misfit
                    )
                    if settled is not None:
                        if settled.wake:
                            await self._wake(settled)
                        break


async def _occurred(
    client: PrefectClient, names: set[str], resources: set[str], since: datetime
) -> AsyncIterator[Event]:
    """Events of these names about these resources, in the order in which they occurred."""
    wanted = EventFilter(
        occurred=EventOccurredFilter(since=since),
        event=EventNameFilter(name=sorted(names)),
        resource=EventResourceFilter(id=sorted(resources)),
        order=EventOrder.ASC,
    )
    page = await client.read_events(wanted, limit=PAGE)
    while True:
        for event in page.events:
            yield event
        if page.next_page is None:
            return
        page = await client.read_events_page(str(page.next_page))


def _opening(wait: Any) -> tuple[str, int]:
    return (wait.id, wait.opening)
