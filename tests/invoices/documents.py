"""Documents to test with: the samples, edited in one place each."""

from pathlib import Path
from typing import Any

from tasks.models import Invoice
from tasks.ubl import parse_invoice

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "deployments" / "samples" / "invoices"
ORDERS = ROOT / "deployments" / "samples" / "purchase_orders.csv"
PEPPOL = ROOT / ".." / "shared" / "data" / "peppol"
PEPPOL_NAMES = (
    "Allowance-example.xml",
    "base-creditnote-correction.xml",
    "base-example.xml",
    "sales-order-example.xml",
    "vat-category-E.xml",
)

IN_POLICY, OVER_LIMIT, PRICE_DIFFERS = "01-in-policy.xml", "02-over-limit.xml", "03-price-differs.xml"
NO_ORDER, CREDIT_NOTE, CONTRADICTORY = "04-no-order.xml", "05-credit-note.xml", "06-contradictory.xml"

Edit = tuple[str, str]


def edited(name: str, *edits: Edit) -> bytes:
    """A sample with each (old, new) replaced where it first stands; old must be there."""
    text = (SAMPLES / name).read_text(encoding="utf-8")
    for old, new in edits:
        assert old in text, f"{name} has no {old!r} to edit"
        text = text.replace(old, new, 1)
    return text.encode()


def document(name: str, *edits: Edit) -> Invoice:
    """The same, read."""
    return parse_invoice(edited(name, *edits), name)


def invoice(name: str = IN_POLICY, **changes: object) -> Invoice:
    """A sample as a model, with fields replaced; a dotted field is written ``totals__payable``."""
    read = document(name)
    plain: Any = read.model_dump()
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = plain
        for parent in parents:
            place = place[int(parent)] if parent.isdigit() else place[parent]
        assert last in place, f"{path}: an invoice has no such field"
        place[last] = value
    return Invoice.model_validate(plain)
