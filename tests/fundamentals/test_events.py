"""Events that Prefect observes, as answers: heard over its websocket, or found when the websocket lost them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.events.clients import PrefectEventSubscriber
from prefect.events.filters import EventFilter, EventResourceFilter
from pydantic import BaseModel

from standby import Approval, PrefectEvent, agent, clock, settings, wait_any, wait_for
from standby.keeper import Keeper
from tests.fundamentals.conftest import Desk, Run
from tests.support.waiting import wait_until


class Shipped(BaseModel):
    parcels: int


@agent
async def shop(order: str) -> int:
    return (await wait_for(PrefectEvent("order.shipped", resource=order, of=Shipped))).parcels


@agent
async def shop_of_two_shipments(order: str) -> list[int]:
    await wait_for(Approval("Begin?"))
    return [(await wait_for(PrefectEvent("order.shipped", resource=order, of=Shipped))).parcels for _ in range(2)]


@agent
async def hasty_shop(order: str) -> str:
    first = await wait_any(shipped=PrefectEvent("order.shipped", resource=order), stop=Approval("Stop?"))
    return first.name


@pytest.fixture
def order() -> str:
    """A resource of the test's own: the server is shared."""
    return f"order.{uuid4().hex}"


@pytest.fixture
def keeper(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Keeper:
    monkeypatch.setattr(settings, "KEEPER_TICK", timedelta(seconds=0.1))
    return Keeper(desk.ledger, lambda: PrefectClient(desk.url))


@asynccontextmanager
async def listening(keeper: Keeper, monkeypatch: pytest.MonkeyPatch, waits: int) -> AsyncIterator[None]:
    """A keeper at work that asks for no event any more when it has once, for so many waits: it can only hear."""
    connected = asyncio.Event()
    real = PrefectEventSubscriber.__aenter__

    async def connecting(self: PrefectEventSubscriber) -> PrefectEventSubscriber:
        await real(self)
        connected.set()
        return self

    monkeypatch.setattr(PrefectEventSubscriber, "__aenter__", connecting)
    monkeypatch.setattr(settings, "RECONCILE_EVERY", timedelta(hours=1))
    work = asyncio.create_task(keeper.run())
    await wait_until(lambda: connected.is_set() and len(keeper._events._asked) == waits and not keeper._events._missed)
    try:
        yield
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def emit(desk: Desk, resource: str, event: str = "order.shipped", **payload: Any) -> None:
    body = {
        "id": str(uuid4()), "occurred": clock.utcnow().isoformat(), "event": event, "payload": payload,
        "resource": {"prefect.resource.id": resource},
    }  # fmt: skip
    (await desk.client.request("POST", "/events", json=[body])).raise_for_status()


async def written_down(desk: Desk, resource: str) -> bool:
    """Whether Prefect has the event where it can be asked for."""
    of_it = EventFilter(resource=EventResourceFilter(id=[resource]))
    return bool((await desk.client.read_events(of_it, limit=1)).events)


async def found(keeper: Keeper, run: Run) -> Any:
    """What the run returns when a keeper only asks, as the housekeeping flow does."""
    assert run.attempt is not None
    attempt = run.attempt

    async def done() -> bool:
        keeper._events._all_asked = keeper._events._all_asked and keeper._events._all_asked - settings.RECONCILE_EVERY
        await keeper.tick()
        return attempt.done()

    await wait_until(done)
    return await run.result()


async def test_an_event_is_heard_by_every_run_that_waits_for_it(
    desk: Desk, keeper: Keeper, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pushed, for nobody asks. Events of other names, or about others, are none of theirs."""
    runs = [await desk.start(shop, order=order) for _ in range(2)]
    for run in runs:
        await run.open_waits()
    async with listening(keeper, monkeypatch, waits=2):
        await emit(desk, order, "order.packed", parcels=1)
        await emit(desk, "order.another", parcels=2)
        await emit(desk, order, parcels=3)
        assert [await run.result() for run in runs] == [3, 3]
    [decision] = await desk.ledger.waits.decisions_of(runs[0].id)
    assert (decision.door, decision.actor) == ("signal", "prefect-events")


async def test_what_the_websocket_loses_is_found_when_it_is_there_again(
    desk: Desk, keeper: Keeper, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 45: it drops an event and breaks; the keeper connects again, and asks for what it has missed."""
    lost = []
    real = PrefectEventSubscriber.__anext__

    async def losing(self: PrefectEventSubscriber) -> Any:
        event = await real(self)
        if event.resource.id == order:
            lost.append(event)
            await wait_until(lambda: written_down(desk, order))
            raise ConnectionError("the network is gone")
        return event

    run = await desk.start(shop, order=order)
    await run.open_waits()
    monkeypatch.setattr(PrefectEventSubscriber, "__anext__", losing)
    async with listening(keeper, monkeypatch, waits=1):
        await emit(desk, order, parcels=3)
        assert await run.result() == 3
    assert lost


async def test_events_since_the_run_began_count_once_and_in_their_order(desk: Desk, keeper: Keeper, order: str) -> None:
    """G4, for events: what occurred before the wait opened is used; what occurred before the run began is not."""
    await emit(desk, order, parcels=1)
    run = await desk.start(shop_of_two_shipments, order=order)
    await run.open_waits()
    for parcels in (2, 3):
        await emit(desk, order, parcels=parcels)
    await run.answer({"approved": True})
    assert await found(keeper, run) == [2, 3]


async def test_an_event_that_does_not_fit_is_rejected_and_the_next_one_counts(
    desk: Desk, keeper: Keeper, order: str
) -> None:
    run = await desk.start(shop, order=order)
    await run.open_waits()
    await emit(desk, order, parcels="many")
    await emit(desk, order, parcels=2)
    assert await found(keeper, run) == 2
    assert [(row.disposition, row.source) for row in await desk.ledger.signals.all()] == [
        ("rejected", "prefect-events"), ("delivered", "prefect-events")
    ]  # fmt: skip


async def test_it_is_one_of_several_like_any_wait(desk: Desk, keeper: Keeper, order: str) -> None:
    """And what is closed is listened for no more."""
    run = await desk.start(hasty_shop, order=order)
    waits = await run.open_waits()
    assert [wait.topic for wait in waits] == ["event:order.shipped", None]
    await run.answer_to(waits[1], {"approved": True})
    assert await run.result() == "stop"
    assert await desk.ledger.events.awaited() == []
