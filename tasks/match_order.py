"""Step: find the purchase order of a document, compare the two, and claim the document's part of the order.

An order is found by the reference the document states; a credit note without one takes the order of the invoice it
credits; an invoice without one takes the supplier's only order whose open total is exactly its own. What other
documents claim of the order counts: two invoices for one delivery do not both fit. A credit note gives nothing back to
the order: money that would leave again on the strength of one is a person's decision.
"""

from decimal import Decimal
from pathlib import Path
from typing import Literal

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from blocks.books import Books
from blocks.loading import load_or_default
from standby import step
from tasks.compare_order import CENTS, compare, difference, order_total
from tasks.models import Invoice, Match
from tasks.order_file import seed_orders
from tasks.orders import OrderLine, PurchaseOrder, SeenInvoice, identifier, open_books
from tasks.register_invoice import seen_key

Found = tuple[PurchaseOrder, Literal["reference", "credited invoice", "amount"]]


async def match(invoice: Invoice, database_url: str, orders_file: Path | None = None) -> Match:
    """The document beside its order. May be repeated; the claim is made once, on the registered document."""
    async with open_books(database_url) as session:
        if orders_file is not None:
            await seed_orders(session, orders_file)
        found = await _find(session, invoice)
        facts = Match(
            number=invoice.number,
            source=invoice.source,
            kind=invoice.kind,
            supplier=f"{invoice.supplier.name} ({invoice.supplier.id})",
            currency=invoice.currency,
            payable=invoice.totals.payable,
            tax_exclusive=invoice.totals.tax_exclusive,
            due_date=invoice.due_date,
            payment_account=invoice.payment_account,
        )
        if found is None:
            if invoice.order_reference is None:
                return facts
            unknown = difference("order", "order reference", "no such order", invoice.order_reference)
            return facts.model_copy(update={"differences": [unknown]})
        order, matched_by = found
        lines = await _lines(session, order)
        claimed = await _claimed(session, order, invoice)
        seen = await session.get(SeenInvoice, seen_key(invoice))
        if seen is not None:
            seen.order_id = order.id
            session.add(seen)
        return facts.model_copy(
            update={
                "order_id": order.id,
                "matched_by": matched_by,
                "order_total": order_total(lines),
                "claimed_before": claimed,
                "differences": compare(invoice, order, lines, claimed),
                "order_account": order.account,
            }
        )


@step
async def match_order(invoice: Invoice, books: str = "default") -> Match:
    """As `match`, with the database and the order file of the block ``books``."""
    block = await load_or_default(Books, books)
    return await match(
        invoice,
        block.database_url.get_secret_value(),
        None if block.orders_file is None else Path(block.orders_file),
    )


async def _find(session: AsyncSession, invoice: Invoice) -> Found | None:
    if invoice.order_reference is not None:
        order = await session.get(PurchaseOrder, identifier(invoice.order_reference))
        return None if order is None else (order, "reference")
    for number in invoice.credited_invoices:
        credited = await session.get(SeenInvoice, (invoice.supplier.id, "invoice", identifier(number)))
        if credited is not None and credited.order_id is not None:
            order = await session.get(PurchaseOrder, credited.order_id)
            return None if order is None else (order, "credited invoice")
    if invoice.kind == "credit_note":
        return None
    query = select(PurchaseOrder).where(
        col(PurchaseOrder.supplier_id).in_(invoice.supplier.identifiers), PurchaseOrder.currency == invoice.currency
    )
    fitting = []
    for order in await session.exec(query):
        left = order_total(await _lines(session, order)) - await _claimed(session, order, invoice)
        if left > 0 and abs(left - invoice.totals.tax_exclusive) <= CENTS:
            fitting.append(order)
    return (fitting[0], "amount") if len(fitting) == 1 else None


async def _lines(session: AsyncSession, order: PurchaseOrder) -> list[OrderLine]:
    query = select(OrderLine).where(OrderLine.order_id == order.id).order_by(col(OrderLine.line_id))
    return list(await session.exec(query))


async def _claimed(session: AsyncSession, order: PurchaseOrder, invoice: Invoice) -> Decimal:
    """What documents other than this one claim of the order; declined ones claim nothing."""
    rows = await session.exec(select(SeenInvoice).where(SeenInvoice.order_id == order.id))
    others = [row for row in rows if row.status != "declined" and _key(row) != seen_key(invoice)]
    return sum((row.claims for row in others), Decimal(0))


def _key(row: SeenInvoice) -> tuple[str, str, str]:
    return row.supplier_id, row.kind, row.number_key
