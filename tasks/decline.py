"""Step: note in the books that a document was declined, which frees its part of the order."""

from blocks.books import Books
from blocks.loading import load_or_default
from standby import step
from tasks.models import Invoice, PaymentDecision, Receipt
from tasks.orders import SeenInvoice, open_books
from tasks.register_invoice import seen_key


async def mark_declined(invoice: Invoice, database_url: str) -> None:
    """May be repeated; a document that is booked, or was never registered, stays as it is."""
    async with open_books(database_url) as session:
        seen = await session.get(SeenInvoice, seen_key(invoice))
        if seen is not None and seen.status == "open":
            seen.status = "declined"
            session.add(seen)


@step
async def decline(invoice: Invoice, decision: PaymentDecision, books: str = "default") -> Receipt:
    """The receipt of a declined document. The same file may be sent again later, to a new run."""
    block = await load_or_default(Books, books)
    await mark_declined(invoice, block.database_url.get_secret_value())
    return Receipt.declined(invoice, decision)
