"""Signals: messages addressed to a wait. Each has one outcome, and it is visible."""

from pydantic import BaseModel

from standby import Signal, agent, wait_for
from standby.doors import signal
from standby.states import Disposition
from tests.fundamentals.conftest import Desk


class Paid(BaseModel):
    amount: int


@agent
async def seller(order: str) -> int:
    return (await wait_for(Signal("order.paid", key=order, of=Paid))).amount


@agent
async def seller_by_instalments(order: str) -> list[int]:
    return [(await wait_for(Signal("order.paid", key=order, of=Paid))).amount for _ in range(2)]


async def outcomes(desk: Desk) -> list[str]:
    return [row.disposition for row in await desk.ledger.signals.all()]


async def test_a_signal_is_delivered_to_the_wait_with_its_topic_and_key(desk: Desk):
    """Its payload is the answer, of the type the wait says."""
    run, other = await desk.start(seller, order="7"), await desk.start(seller, order="8")
    await run.open_waits()
    await other.open_waits()
    assert (await desk.signal("order.paid", {"amount": 10}, key="7")).disposition is Disposition.DELIVERED
    assert await run.result() == 10
    assert len(await other.open_waits()) == 1
    await desk.signal("order.paid", {"amount": 20}, key="8")
    assert await other.result() == 20


async def test_an_early_signal_is_kept_and_used_once(desk: Desk):
    """The wait that opens takes it, and does not even park; the next one waits for its own."""
    early = await desk.signal("order.paid", {"amount": 10}, key="7")
    assert early.disposition is Disposition.BUFFERED
    run = await desk.start(seller_by_instalments, order="7")
    [second] = await run.open_waits()
    assert second.key == "order.paid#2"
    await desk.signal("order.paid", {"amount": 20}, key="7")
    assert await run.result() == [10, 20]
    assert await outcomes(desk) == ["delivered", "delivered"]


async def test_a_late_signal_is_late(desk: Desk):
    """Its run has ended: it is told so, and kept for nobody."""
    run = await desk.start(seller, order="7")
    await run.open_waits()
    await desk.signal("order.paid", {"amount": 10}, key="7")
    assert await run.result() == 10
    assert (await desk.signal("order.paid", {"amount": 20}, key="7")).disposition is Disposition.LATE


async def test_a_delivery_counts_once(desk: Desk):
    """Whoever got no acknowledgement sends again, with the same delivery id."""

    async def deliver(amount: int) -> Disposition:
        delivery = await signal(
            desk.ledger, topic="order.paid", key="7", payload=f'{{"amount": {amount}}}', source="shop",
            delivery_id="d-1", api_url=None,
        )  # fmt: skip
        return delivery.disposition

    assert await deliver(10) is Disposition.BUFFERED
    assert await deliver(10) is Disposition.DUPLICATE
    run = await desk.start(seller_by_instalments, order="7")
    [second] = await run.open_waits()
    assert second.key == "order.paid#2"
    assert await deliver(10) is Disposition.DUPLICATE
    await desk.signal("order.paid", {"amount": 20}, key="7")
    assert await run.result() == [10, 20]


async def test_a_signal_that_does_not_fit_is_rejected(desk: Desk):
    """It is refused at the door with the field named, and kept as such; the run waits on."""
    run = await desk.start(seller, order="7")
    await run.open_waits()
    refused = await desk.signal("order.paid", {"amount": "a lot"}, key="7")
    assert (refused.disposition, [field for field, _ in refused.problems]) == ("rejected", ["amount"])
    assert len(await run.open_waits()) == 1
    await desk.signal("order.paid", {"amount": 10}, key="7")
    assert await run.result() == 10
    assert await outcomes(desk) == ["rejected", "delivered"]
