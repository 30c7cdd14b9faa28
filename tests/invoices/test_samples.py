"""The samples on their whole way, against a real provider: the sandbox bank in a process of its own."""

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from blocks.payment_provider import PaymentProvider
from tasks.apply_policy import apply_policy
from tasks.book import book
from tasks.check_arithmetic import check_arithmetic
from tasks.decline import decline
from tasks.errors import PaymentConflict, ProviderFailed
from tasks.match_order import match_order
from tasks.models import Payment, PaymentDecision, Receipt, Settlement
from tasks.pay import find_payment, pay
from tasks.read_invoice import read_invoice
from tasks.register_invoice import register_invoice
from tasks.write_receipt import write_receipt
from tests.bank.process import Bank, running_bank, until
from tests.invoices.documents import CREDIT_NOTE, IN_POLICY, NO_ORDER, OVER_LIMIT, PRICE_DIFFERS, SAMPLES, document

D = Decimal


@pytest.fixture
async def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bank]:
    async with running_bank(tmp_path, settle_after=0.05) as bank:

        async def load(*_: object) -> PaymentProvider:
            return PaymentProvider(base_url=bank.url)

        monkeypatch.setattr("tasks.pay.load_or_default", load)
        yield bank


async def processed(name: str, monkeypatch: pytest.MonkeyPatch, decision: PaymentDecision | None = None) -> Receipt:
    """A document on its way, as the agent takes it; ``decision`` is what a person says when one is asked."""
    for module in ("tasks.pay", "tasks.book"):
        monkeypatch.setattr(f"{module}.idempotency_key", lambda: f"{name}/step")
    invoice = await read_invoice(SAMPLES / name)
    await check_arithmetic(invoice)
    await register_invoice(invoice, f"run of {name}")
    match = await apply_policy(invoice, await match_order(invoice))
    assert match.within_policy == (decision is None), match.reasons
    if decision is not None and not decision.approved:
        return await write_receipt(await decline(invoice, decision))
    amount = match.suggested_amount if decision is None or decision.amount is None else decision.amount
    if amount == 0:
        return await write_receipt(await book(invoice, match, decision=decision))

    async def settled() -> Payment | None:
        found = await find_payment(invoice, amount)
        return found if found is not None and found.settled_at else None

    payment = await pay(invoice, amount)
    report = await until(settled)
    settlement = Settlement.model_validate({**report.model_dump(), "payment_id": report.id})
    return await write_receipt(await book(invoice, match, payment, settlement, decision))


@pytest.mark.usefixtures("bank")
async def test_every_sample_ends_as_its_comment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    yes = PaymentDecision(approved=True, account="6000", comment="fine")
    no = PaymentDecision(approved=False, comment="ask them for the price that was agreed")
    part = PaymentDecision(approved=True, amount=D("7000.00"), account="0650")
    receipts = [
        await processed(IN_POLICY, monkeypatch),
        await processed(OVER_LIMIT, monkeypatch, part),
        await processed(PRICE_DIFFERS, monkeypatch, no),
        await processed(NO_ORDER, monkeypatch, yes),
        await processed(CREDIT_NOTE, monkeypatch),
    ]
    assert [(receipt.outcome, receipt.amount, receipt.account) for receipt in receipts] == [
        ("paid", D("850.61"), "4930"),
        ("paid", D("7000.00"), "0650"),
        ("declined", D(0), None),
        ("paid", D("340.20"), "6000"),
        ("credited", D(0), "4930"),
    ]
    assert all(receipt.file and Path(receipt.file).is_file() for receipt in receipts)


async def test_ordering_again_with_the_same_key_pays_once(bank: Bank, key: str) -> None:
    invoice = document(IN_POLICY)
    assert await find_payment(invoice, D("850.61")) is None
    first = await pay(invoice, D("850.61"))
    assert (await pay(invoice, D("850.61"))).id == first.id
    assert (await bank.counts())["payments"] == 1
    with pytest.raises(PaymentConflict, match="used with another order before"):
        await pay(invoice, D("850.60"))


async def test_a_lost_answer_is_found_by_the_probe(bank: Bank, key: str) -> None:
    await bank.configure(forgetful=1)
    with pytest.raises(ProviderFailed) as caught:
        await pay(document(IN_POLICY), D("850.61"))
    assert caught.value.maybe_ordered
    found = await find_payment(document(IN_POLICY), D("850.61"))
    assert found is not None
    assert (await bank.counts())["payments"] == 1
