"""Prefect's events about the runs of one work pool: one websocket for the whole host."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import State, StateType
from prefect.events import Event
from prefect.events.clients import PrefectEventSubscriber
from prefect.events.filters import EventAnyResourceFilter, EventFilter, EventNameFilter

log = logging.getLogger("standby.host")

NAMES = (
    "Scheduled", "Resuming", "AwaitingRetry", "Late",
    "Cancelling", "Cancelled", "Suspended", "Paused", "Completed", "Failed", "Crashed", "TimedOut",
)  # fmt: skip
"""The states that are heard of. Runs in others, or under other names, the safety poll finds."""

OF_THE_POOL = tuple(
    f"prefect.work-{what}.{told}" for what in ("pool", "queue") for told in ("updated", "paused", "ready", "not-ready")
)
"""What is heard of the pool and its queues: paused or not any more, and with another limit."""

RECONNECT_SECONDS = (0.2, 10.0)
"""How long the first try to connect again waits, and the longest one; doubled in between."""

Heard = Callable[[str, State[Any]], None]


async def hear(
    api_url: str, pool_id: UUID, heard: Heard, changed: Callable[[], None], connected: Callable[[], None]
) -> None:
    """Call ``heard`` with a run's id and its new state, for ever, ``changed`` when the pool or a queue of it has, and
    ``connected`` whenever something may have been missed. Prefect tells of all of it before it is so."""
    wanted = EventFilter(
        event=EventNameFilter(name=[*(f"prefect.flow-run.{name}" for name in NAMES), *OF_THE_POOL]),
        any_resource=EventAnyResourceFilter(id=[f"prefect.work-pool.{pool_id}"]),
    )
    pause = RECONNECT_SECONDS[0]
    while True:
        try:
            async with PrefectEventSubscriber(api_url, wanted, reconnection_attempts=0) as events:
                pause = RECONNECT_SECONDS[0]
                connected()
                async for event in events:
                    if event.event in OF_THE_POOL:
                        changed()
                    elif (state := _state_of(event)) is not None:
                        heard(event.resource.id.removeprefix("prefect.flow-run."), state)
        except Exception as error:  # Prefect's, websockets' and the network's own
            log.warning("Prefect's events are not heard for now: %s: %s", type(error).__name__, error)
        await asyncio.sleep(pause)
        pause = min(pause * 2, RECONNECT_SECONDS[1])


def _state_of(event: Event) -> State[Any] | None:
    told = event.payload.get("validated_state") or {}
    try:
        return State(id=event.id, type=StateType(told["type"]), name=told.get("name"), message=told.get("message"))
    except (KeyError, ValueError):
        return None
