"""Booking: once, balanced, and only what agrees with itself."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from sqlmodel import select

from tasks.book import Accounts, book, enter, postings
from tasks.errors import BookingRefused
from tasks.models import Invoice, Match, Payment, PaymentDecision, Settlement
from tasks.orders import Booking, Posting, open_books
from tests.invoices.documents import CREDIT_NOTE, IN_POLICY, OVER_LIMIT, document, invoice

D = Decimal
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
ACCOUNTS = Accounts(expense="4930", vat="2640", payables="2440", bank="1930")


def a_match(read: Invoice) -> Match:
    return Match(
        number=read.number, source=read.source, kind=read.kind, supplier=read.supplier.name, currency=read.currency,
        payable=read.totals.payable, tax_exclusive=read.totals.tax_exclusive, order_id="PO-2026-0041",
        suggested_account="4930", suggested_amount=max(read.amount_due, D(0)),
    )  # fmt: skip


def a_payment(amount: str = "850.61") -> Payment:
    return Payment(
        id="pay-1", idempotency_key="k", amount=D(amount), currency="EUR", creditor_name="x", reference="RE-26-1187",
        status="accepted", created_at=NOW,
    )  # fmt: skip


def a_settlement(**changes: object) -> Settlement:
    fields = {"payment_id": "pay-1", "status": "settled", "amount": D("850.61"), "currency": "EUR", "settled_at": NOW}
    return Settlement.model_validate({**fields, **changes})


async def ledger(books_url: str) -> list[tuple[str, Decimal]]:
    async with open_books(books_url) as session:
        return [(posting.account, posting.amount) for posting in await session.exec(select(Posting))]


async def test_a_paid_invoice_is_booked_with_its_payment(books_url: str, key: str) -> None:
    read = document(IN_POLICY)
    receipt = await book(read, a_match(read), a_payment(), a_settlement())
    assert await ledger(books_url) == [
        ("4930", D("714.80")),
        ("2640", D("135.81")),
        ("2440", D("-850.61")),
        ("2440", D("850.61")),
        ("1930", D("-850.61")),
    ]
    assert (receipt.outcome, receipt.amount, receipt.payment_id, receipt.settled_at) == (
        "paid",
        D("850.61"),
        "pay-1",
        NOW,
    )
    assert (receipt.order_id, receipt.account, receipt.supplier_id) == ("PO-2026-0041", "4930", "DE900000527")
    async with open_books(books_url) as session:
        booking = (await session.exec(select(Booking))).one()
    assert (booking.id, booking.idempotency_key, booking.payment_id) == (receipt.booking_id, key, "pay-1")
    assert booking.booked_at.tzinfo is not None


async def test_booking_twice_books_once(books_url: str, key: str) -> None:
    read = document(IN_POLICY)
    first = await book(read, a_match(read), a_payment(), a_settlement())
    assert await book(read, a_match(read), a_payment(), a_settlement()) == first
    assert len(await ledger(books_url)) == 5


async def test_booking_many_times_at_once_books_once(any_books_url: str) -> None:
    read = document(IN_POLICY)
    entered = [enter(read, None, "pay-1", D("850.61"), ACCOUNTS, "run-1/step", any_books_url) for _ in range(8)]
    assert len(set(await asyncio.gather(*entered))) == 1
    assert len(await ledger(any_books_url)) == 5


async def test_the_same_document_under_another_key_is_refused(
    books_url: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = document(IN_POLICY)
    await book(read, a_match(read), a_payment(), a_settlement())
    monkeypatch.setattr("tasks.book.idempotency_key", lambda: "run-2/step")
    with pytest.raises(BookingRefused, match=r"RE-26-1187 .* already booked as 1 \(key run-1/step\)"):
        await book(read, a_match(read), a_payment(), a_settlement())
    assert len(await ledger(books_url)) == 5


async def test_the_approver_s_account_and_amount_are_booked(books_url: str, key: str) -> None:
    read = document(IN_POLICY)
    decision = PaymentDecision(approved=True, amount=D(800), account="6800", comment="50.61 disputed")
    receipt = await book(read, a_match(read), a_payment("800"), a_settlement(amount=D(800)), decision)
    assert (receipt.account, receipt.amount, receipt.comment) == ("6800", D(800), "50.61 disputed")
    entries = await ledger(books_url)
    assert ("6800", D("714.80")) in entries
    assert sum(amount for account, amount in entries if account == "2440") == D("-50.61")


async def test_a_credit_note_is_booked_the_other_way_round(books_url: str, key: str) -> None:
    note = document(CREDIT_NOTE)
    receipt = await book(note, a_match(note))
    assert await ledger(books_url) == [("4930", D("-47.00")), ("2640", D("-8.93")), ("2440", D("55.93"))]
    assert (receipt.outcome, receipt.amount, receipt.payment_id) == ("credited", D(0), None)


async def test_what_needs_no_payment_is_booked_without_one(books_url: str, key: str) -> None:
    read = invoice(OVER_LIMIT, totals__prepaid=D(7380), totals__payable=D(0))
    assert (await book(read, a_match(read))).outcome == "booked"
    assert await ledger(books_url) == [("4930", D("7380.00")), ("2440", D("-7380.00"))]


@pytest.mark.parametrize(
    ("payment", "settlement", "says"),
    [
        (a_payment(), None, "a payment without its settlement"),
        (None, a_settlement(), "a settlement without its payment"),
        (a_payment(), a_settlement(amount=D("850.60")), "with amount 850.61 and settled with 850.60"),
        (a_payment(), a_settlement(currency="USD"), "with currency EUR and settled with USD"),
        (a_payment(), a_settlement(payment_id="pay-2"), "settlement of pay-2"),
    ],
)
async def test_a_payment_and_a_settlement_that_disagree_are_not_booked(
    books_url: str, key: str, payment: Payment | None, settlement: Settlement | None, says: str
) -> None:
    read = document(IN_POLICY)
    with pytest.raises(BookingRefused, match=says) as caught:
        await book(read, a_match(read), payment, settlement)
    assert str(caught.value).startswith("01-in-policy.xml: ")
    assert await ledger(books_url) == []


@pytest.mark.parametrize(
    "read",
    [
        document(IN_POLICY),
        document(CREDIT_NOTE),
        invoice(OVER_LIMIT, totals__rounding=D("0.05"), totals__payable=D("7380.05")),
        invoice(IN_POLICY, totals__prepaid=D(100), totals__payable=D("750.61")),
    ],
)
def test_postings_add_up_to_zero(read: Invoice) -> None:
    for paid in (D(0), max(read.amount_due, D(0))):
        assert sum(amount for _, amount in postings(read, paid, ACCOUNTS)) == 0
