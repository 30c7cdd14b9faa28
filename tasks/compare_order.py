"""An invoice beside its purchase order: what the two do not agree on. Nothing here asks the database."""

from collections import defaultdict
from decimal import Decimal

from tasks.markdown import money
from tasks.models import Difference, DifferenceKind, Invoice, Line
from tasks.orders import OrderLine, PurchaseOrder, identifier

CENTS = Decimal("0.02")
"""How far two amounts may lie apart and still be the same after rounding, in the document's currency."""


def compare(invoice: Invoice, order: PurchaseOrder, lines: list[OrderLine], claimed: Decimal) -> list[Difference]:
    """What the document and its order do not agree on. Less than ordered is a partial delivery, not a difference.

    ``claimed`` is what other documents claim of the order, without VAT.
    """
    differences: list[Difference] = []
    if order.supplier_id not in invoice.supplier.identifiers:
        differences.append(difference("supplier", "supplier", order.supplier_id, invoice.supplier.id))
    if order.supplier_account and invoice.payment_account and order.supplier_account != invoice.payment_account:
        differences.append(difference("account", "account to pay to", order.supplier_account, invoice.payment_account))
    if order.currency != invoice.currency:
        return [*differences, difference("currency", "currency", order.currency, invoice.currency)]
    quantities: defaultdict[str, Decimal] = defaultdict(Decimal)
    by_id = {line.line_id: line for line in lines}
    for line in invoice.lines:
        ordered = _ordered(line, lines)
        if ordered is None:
            differences.append(difference("line", f"line {line.id}", "not in the order", line.name))
            continue
        quantities[ordered.line_id] += line.quantity
        differences += _compare_line(line, ordered, invoice.currency)
    for line_id, quantity in quantities.items():
        ordered = by_id[line_id]
        if quantity > ordered.quantity:
            where = f"order line {line_id} quantity"
            differences.append(difference("quantity", where, ordered.quantity, quantity))
    asked = claimed + invoice.totals.tax_exclusive
    total = order_total(lines)
    if invoice.kind == "invoice" and asked > total + CENTS:
        percent = _percent(asked, total)
        differences.append(
            Difference(
                kind="total",
                where="order total without VAT",
                ordered=money(total, order.currency),
                invoiced=money(asked, invoice.currency),
                over_percent=percent,
            )
        )
    return differences


def _compare_line(line: Line, ordered: OrderLine, currency: str) -> list[Difference]:
    """Item, unit and price. The price counts with the line's own discounts and surcharges, by its net amount."""
    differences = []
    if line.item_id and ordered.item_id and line.item_id != ordered.item_id:
        differences.append(difference("line", f"line {line.id} item", ordered.item_id, line.item_id))
    if line.unit.upper() != ordered.unit.upper():
        differences.append(difference("unit", f"line {line.id} unit", ordered.unit, line.unit))
    expected = line.quantity * ordered.unit_price
    if abs(line.net - expected) > CENTS:
        each = line.net / line.quantity if line.quantity else line.net
        differences.append(
            Difference(
                kind="price",
                where=f"line {line.id} price",
                ordered=f"{_shown(ordered.unit_price)} {currency}",
                invoiced=f"{_shown(each.quantize(Decimal('0.0001')))} {currency}",
                over_percent=_percent(line.net, expected),
            )
        )
    return differences


def _ordered(line: Line, lines: list[OrderLine]) -> OrderLine | None:
    """The order line that is referred to, else the one of the same item, else of the same name."""
    for wanted in (
        [each for each in lines if line.order_line and each.line_id == line.order_line],
        [each for each in lines if line.item_id and each.item_id == line.item_id],
        [each for each in lines if identifier(each.description) == identifier(line.name)],
    ):
        if len(wanted) == 1:
            return wanted[0]
    return None


def order_total(lines: list[OrderLine]) -> Decimal:
    """The order's total without VAT, not rounded."""
    return sum((line.total for line in lines), Decimal(0))


def _percent(invoiced: Decimal, ordered: Decimal) -> Decimal | None:
    return None if ordered == 0 else ((invoiced - ordered) / abs(ordered) * 100).quantize(Decimal("0.01"))


def difference(kind: DifferenceKind, where: str, ordered: object, invoiced: object) -> Difference:
    return Difference(kind=kind, where=where, ordered=_shown(ordered), invoiced=_shown(invoiced))


def _shown(value: object) -> str:
    return f"{value.normalize():f}" if isinstance(value, Decimal) else str(value)
