"""Step: book a document, and what was paid for it, into the ledger accounts.

    invoice        debit expense and input VAT      credit accounts payable
    its payment    debit accounts payable           credit bank
    credit note    debit accounts payable           credit expense and input VAT

What was paid before, and what was approved below the amount due, stays open in accounts payable.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from sqlmodel import select

from blocks.books import Books
from blocks.loading import load_or_default
from standby import idempotency_key, step
from tasks.errors import BookingRefused
from tasks.models import Invoice, Match, Outcome, Payment, PaymentDecision, Receipt, Settlement
from tasks.orders import Booking, Posting, SeenInvoice, open_books
from tasks.register_invoice import seen_key


@dataclass(frozen=True)
class Accounts:
    expense: str
    vat: str
    payables: str
    bank: str


def postings(invoice: Invoice, paid: Decimal, accounts: Accounts) -> list[tuple[str, Decimal]]:
    """Account and amount, debit positive, credit negative, without zeros. They add up to zero."""
    totals, sign = invoice.totals, invoice.sign
    entries = [
        (accounts.expense, sign * (totals.tax_exclusive + totals.rounding)),
        (accounts.vat, sign * totals.tax),
        (accounts.payables, -sign * (totals.tax_inclusive + totals.rounding)),
        (accounts.payables, paid),
        (accounts.bank, -paid),
    ]
    return [(account, amount) for account, amount in entries if amount]


def settled_amount(invoice: Invoice, payment: Payment | None, settlement: Settlement | None) -> Decimal:
    """What was paid, 0 without a payment. Raises BookingRefused where payment and settlement contradict each other."""
    if payment is None and settlement is None:
        return Decimal(0)
    if payment is None or settlement is None:
        given = "a settlement without its payment" if payment is None else "a payment without its settlement"
        raise BookingRefused(f"{invoice.source}: {given} cannot be booked. Wait for the settlement first.")
    for field in ("amount", "currency"):
        ordered, reported = getattr(payment, field), getattr(settlement, field)
        if ordered != reported:
            raise BookingRefused(
                f"{invoice.source}: payment {payment.id} was ordered with {field} {ordered} and settled with "
                f"{reported}. Ask the provider which is true, then book it by hand."
            )
    if settlement.payment_id != payment.id or settlement.currency != invoice.currency:
        raise BookingRefused(
            f"{invoice.source}: settlement of {settlement.payment_id} ({settlement.currency}) is not the one of "
            f"payment {payment.id} ({invoice.currency}). Look for who sent it."
        )
    return settlement.amount


async def enter(
    invoice: Invoice,
    order_id: str | None,
    payment_id: str | None,
    paid: Decimal,
    accounts: Accounts,
    key: str,
    url: str,
) -> int:
    """Book once for each ``key``; the booking's number. ``url`` is the database's.

    Raises BookingRefused if the document is already booked under another key.
    """
    async with open_books(url) as session:
        booked = (await session.exec(select(Booking).where(Booking.idempotency_key == key))).first()
        if booked is None:
            supplier_id, kind, number_key = seen_key(invoice)
            same = select(Booking).where(
                Booking.supplier_id == supplier_id, Booking.kind == kind, Booking.number_key == number_key
            )
            if (earlier := (await session.exec(same)).first()) is not None:
                raise BookingRefused(
                    f"{invoice.source}: {invoice.number} of {invoice.supplier.name} is already booked as {earlier.id} "
                    f"(key {earlier.idempotency_key}). Compare the two before booking anything by hand."
                )
            booked = Booking(
                idempotency_key=key,
                supplier_id=supplier_id,
                kind=kind,
                number_key=number_key,
                number=invoice.number,
                currency=invoice.currency,
                order_id=order_id,
                payment_id=payment_id,
                booked_at=datetime.now(UTC),
            )
            session.add(booked)
            await session.flush()
            for account, amount in postings(invoice, paid, accounts):
                session.add(Posting(booking_id=_number(booked), account=account, amount=amount))
            seen = await session.get(SeenInvoice, seen_key(invoice))
            if seen is not None:
                seen.status = "booked"
                session.add(seen)
        return _number(booked)


@step
async def book(
    invoice: Invoice,
    match: Match,
    payment: Payment | None = None,
    settlement: Settlement | None = None,
    decision: PaymentDecision | None = None,
    books: str = "default",
) -> Receipt:
    """Book the document into the block ``books`` and return its receipt.

    The expense account is the decision's, else the one suggested. Without a payment the document is booked as open
    (or as a credit). Booked once for each idempotency key. Raises BookingRefused.
    """
    block = await load_or_default(Books, books)
    account = (decision.account if decision is not None else None) or match.suggested_account
    paid = settled_amount(invoice, payment, settlement)
    accounts = Accounts(account, block.vat_account, block.payables_account, block.bank_account)
    payment_id = None if payment is None else payment.id
    url = block.database_url.get_secret_value()
    booking_id = await enter(invoice, match.order_id, payment_id, paid, accounts, idempotency_key(), url)
    outcome: Outcome = "paid" if paid else "credited" if invoice.amount_due < 0 else "booked"
    return Receipt.of(
        outcome,
        invoice,
        amount=paid,
        order_id=match.order_id,
        account=account,
        booking_id=booking_id,
        payment_id=payment_id,
        settled_at=None if settlement is None else settlement.settled_at,
        comment="" if decision is None else decision.comment,
    )


def _number(booking: Booking) -> int:
    assert booking.id is not None, "a booking has its number once it is flushed"
    return booking.id
