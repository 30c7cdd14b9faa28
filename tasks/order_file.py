"""Purchase orders from a CSV file into the books."""

import asyncio
import csv
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from pathlib import Path

from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from tasks.errors import BadOrderFile, BooksError
from tasks.orders import OrderLine, PurchaseOrder, identifier

_PER_ORDER = ("supplier_id", "supplier_name", "supplier_account", "currency", "account")
_HEADER = ("order_id", *_PER_ORDER, "line_id", "item_id", "description", "quantity", "unit", "unit_price")


def read_orders(path: Path) -> tuple[list[PurchaseOrder], list[OrderLine]]:
    """Purchase orders from a UTF-8 CSV file with one row per order line and the header `_HEADER`.

    ``quantity`` and ``unit_price`` are plain decimals, prices without VAT per one ``unit``. Raises BadOrderFile naming
    the line and column, BooksError if the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _parse_orders(path, file)
    except OSError as error:
        reason = error.strerror or "it cannot be read"
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    raise BooksError(f"The purchase order file {path}: {reason}. Correct orders_file in the block books, or the file.")


def _parse_orders(path: Path, file: Iterable[str]) -> tuple[list[PurchaseOrder], list[OrderLine]]:
    rows = csv.DictReader(file)
    orders: dict[str, PurchaseOrder] = {}
    lines: dict[tuple[str, str], OrderLine] = {}
    if missing := [column for column in _HEADER if column not in (rows.fieldnames or ())]:
        raise BadOrderFile(path.name, 1, missing[0], "the column is missing")
    for row in rows:
        here = rows.line_num
        value = {column: (row[column] or "").strip() for column in _HEADER}
        for column in ("order_id", "supplier_id", "currency", "line_id", "unit"):
            if not value[column]:
                raise BadOrderFile(path.name, here, column, "it is empty")
        order = PurchaseOrder(
            id=identifier(value["order_id"]),
            supplier_id=identifier(value["supplier_id"]),
            supplier_name=value["supplier_name"],
            supplier_account=identifier(value["supplier_account"]) or None,
            currency=value["currency"],
            account=value["account"] or None,
        )
        first = orders.setdefault(order.id, order)
        for column in _PER_ORDER:
            if getattr(first, column) != getattr(order, column):
                raise BadOrderFile(path.name, here, column, f"it differs from the other rows of order {order.id}")
        line = OrderLine(
            order_id=order.id,
            line_id=value["line_id"],
            item_id=value["item_id"] or None,
            description=value["description"],
            quantity=_decimal(path, here, "quantity", value["quantity"]),
            unit=value["unit"],
            unit_price=_decimal(path, here, "unit_price", value["unit_price"]),
        )
        if lines.setdefault((order.id, line.line_id), line) is not line:
            raise BadOrderFile(path.name, here, "line_id", f"order {order.id} has it twice")
    return list(orders.values()), list(lines.values())


def _decimal(path: Path, line: int, column: str, value: str) -> Decimal:
    try:
        number = Decimal(value)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or number < 0:
        raise BadOrderFile(path.name, line, column, f"{value!r} is not a number of at least 0, such as 12.50")
    return number


async def seed_orders(session: AsyncSession, path: Path) -> int:
    """Add the file's orders that the books do not have yet; return how many. Known orders are left as they are."""
    orders, lines = await asyncio.to_thread(read_orders, path)
    known = set(await session.exec(select(PurchaseOrder.id)))
    session.add_all([order for order in orders if order.id not in known])
    await session.flush()
    session.add_all([line for line in lines if line.order_id not in known])
    await session.flush()
    return len({order.id for order in orders} - known)
