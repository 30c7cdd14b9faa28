"""Pays an order: one of each, a repeatable step, an approval, a step that acts once, a signal, an invisible step."""

from standby import Approval, Signal, agent, idempotency_key, step, wait_for
from tests.faults.agents.forms import Order, Payment, Receipt, Settlement, Verdict
from tests.support import outside


@step
async def look_up(number: str) -> Order:
    outside.act("look_up", idempotency_key())
    return Order(number=number, amount=12_050)


async def find_payment(order: Order) -> Payment | None:
    outside.act("asked", idempotency_key())
    [*found] = outside.deeds("pay", idempotency_key())
    return Payment(**found[0].facts) if found else None


@step(effect="once", probe=find_payment)
async def pay(order: Order) -> Payment:
    payment = Payment(order=order.number, amount=order.amount)
    outside.act("pay", idempotency_key(), once=True, **payment.model_dump())
    return payment


@step(visible=False)
def book(number: str, bank: str) -> str:
    outside.act("book", idempotency_key())
    return f"{number} through {bank}"


@agent
async def paying(number: str) -> Receipt:
    order = await look_up(number)
    verdict = await wait_for(Approval("Pay?", show=order, form=Verdict))
    if not verdict.approved:
        return Receipt(order=order, verdict=verdict, payment=None, settlement=None, entry="none")
    payment = await pay(order)
    settlement = await wait_for(Signal("payment.settled", key=number, of=Settlement))
    entry = await book(number, settlement.bank)
    return Receipt(order=order, verdict=verdict, payment=payment, settlement=settlement, entry=entry)
