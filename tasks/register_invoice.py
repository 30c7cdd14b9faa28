"""Step: register a document in the books, so that nothing is processed twice."""

from datetime import UTC, datetime
from decimal import Decimal

from blocks.books import Books
from blocks.loading import load_or_default
from standby import step
from tasks.errors import DuplicateInvoice
from tasks.models import Invoice
from tasks.orders import SeenInvoice, identifier, open_books


def seen_key(invoice: Invoice) -> tuple[str, str, str]:
    """Supplier, kind and number, spelling aside. A credit note may carry the number of the invoice it credits."""
    return invoice.supplier.id, invoice.kind, identifier(invoice.number)


async def register(invoice: Invoice, run_id: str, database_url: str) -> bool:
    """Register the document for this run; True if it was not yet. May be repeated by the same run.

    A document that another run declined may be registered again: it then belongs to this run.
    Raises DuplicateInvoice if another run has it open or booked, naming that run and its file.
    """
    async with open_books(database_url) as session:
        seen = await session.get(SeenInvoice, seen_key(invoice))
        if seen is not None and seen.run_id == run_id:
            return False
        if seen is not None and seen.status != "declined":
            raise DuplicateInvoice(invoice.source, invoice.number, invoice.supplier.name, seen.file, seen.run_id)
        supplier_id, kind, number_key = seen_key(invoice)
        row = SeenInvoice(
            supplier_id=supplier_id,
            kind=kind,
            number_key=number_key,
            number=invoice.number,
            file=invoice.source,
            run_id=run_id,
            claims=max(Decimal(0), invoice.sign * invoice.totals.tax_exclusive),
            registered_at=datetime.now(UTC),
        )
        await session.merge(row)
        return True


@step
async def register_invoice(invoice: Invoice, run_id: str, books: str = "default") -> bool:
    """As `register`, in the database of the block ``books``."""
    block = await load_or_default(Books, books)
    return await register(invoice, run_id, block.database_url.get_secret_value())
