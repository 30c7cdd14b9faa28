"""What a language model proposes to whoever decides about an invoice: the account to book on, and why things differ.

It is asked only where a person is asked anyway, has no tools, and chooses among the accounts that the books know. Where
no model is configured, or it fails, the person is told so and decides alone.
"""

from pydantic import BaseModel
from sqlmodel import col, select

from blocks.books import Books
from blocks.loading import load_or_default
from standby import step
from tasks.models import Advice, Invoice, Match
from tasks.orders import Booking, OrderLine, Posting, PurchaseOrder, open_books

MOST_ACCOUNTS = 100
MOST_EXAMPLES = 3


class KnownAccount(BaseModel):
    """An expense account that the books have used. ``used_for``: a few of the things that were booked on it."""

    account: str
    used_for: list[str]


async def advise(invoice: Invoice, match: Match) -> Match:
    """The match with what the model proposes: agent code, with steps of its own."""
    if not match.adviser:
        return match.model_copy(update={"advice": Advice()})
    from tasks.adviser import proposal  # needs the extra `models`

    accounts = await known_accounts(invoice)
    advice = await proposal(invoice, match, accounts)
    changed: dict[str, object] = {"advice": advice}
    if advice.account is not None:
        changed["suggested_account"] = advice.account
    return match.model_copy(update=changed)


@step(visible=False)
async def known_accounts(invoice: Invoice, books: str = "default") -> list[KnownAccount]:
    """The expense accounts of orders and of this supplier's earlier bookings, by number; at most 100."""
    block = await load_or_default(Books, books)
    used: dict[str, list[str]] = {}
    async with open_books(block.database_url.get_secret_value()) as session:
        lines = await session.exec(
            select(PurchaseOrder.account, PurchaseOrder.supplier_name, OrderLine.description)
            .where(OrderLine.order_id == PurchaseOrder.id, col(PurchaseOrder.account).is_not(None))
            .order_by(col(PurchaseOrder.id), col(OrderLine.line_id))
        )
        for account, supplier, description in lines:
            if account is not None:
                used.setdefault(account, []).append(f"{description} ({supplier})")
        booked = await session.exec(
            select(Posting.account)
            .join(Booking, col(Booking.id) == Posting.booking_id)
            .where(Booking.supplier_id == invoice.supplier.id)
        )
        for account in booked:
            if account not in (block.vat_account, block.payables_account, block.bank_account):
                used.setdefault(account, []).insert(0, "earlier invoices of this supplier")
    return [
        KnownAccount(account=account, used_for=list(dict.fromkeys(used[account]))[:MOST_EXAMPLES])
        for account in sorted(used)[:MOST_ACCOUNTS]
    ]
