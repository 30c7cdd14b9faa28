"""The official examples of Peppol BIS Billing 3.0 are read as they are meant, and their arithmetic holds."""

from decimal import Decimal
from pathlib import Path

import pytest

from tasks.check_arithmetic import check_arithmetic
from tasks.models import Invoice
from tasks.read_invoice import read_invoice
from tests.invoices.documents import PEPPOL_NAMES

D = Decimal


@pytest.mark.parametrize("name", PEPPOL_NAMES)
async def test_every_example_is_read_and_adds_up(peppol: Path, name: str) -> None:
    invoice = await read_invoice(peppol / name)
    assert await check_arithmetic(invoice) == invoice.amount_due
    assert invoice.source == name
    assert Invoice.model_validate_json(invoice.model_dump_json()) == invoice


async def test_allowances_charges_prepayment_and_a_second_vat_currency(peppol: Path) -> None:
    invoice = await read_invoice(peppol / "Allowance-example.xml")
    totals = invoice.totals
    assert (totals.allowances, totals.charges, totals.prepaid) == (D(200), D(200), D(1000))
    assert (totals.tax, totals.tax_inclusive, totals.payable) == (D(1225), D(7125), D(6125))
    assert [(s.category, s.rate, s.taxable, s.tax) for s in invoice.tax_subtotals] == [
        ("S", D(25), D(4900), D(1225)),
        ("E", D(0), D(1000), D(0)),
    ]
    assert [(e.charge, e.amount, e.percent) for e in invoice.allowances_charges] == [
        (True, D(200), D(20)),
        (False, D(200), None),
    ]
    first, second, _ = invoice.lines
    assert (first.gross_price, first.price_discount, first.unit_price) == (D(450), D(40), D(410))
    assert (second.unit_price, second.base_quantity, second.price_each) == (D(200), D(2), D(100))


async def test_negative_lines_correct_others(peppol: Path) -> None:
    invoice = await read_invoice(peppol / "base-example.xml")
    assert [(line.quantity, line.net) for line in invoice.lines] == [(D(7), D(2800)), (D(-3), D(-1500))]
    assert invoice.supplier.id == "GB1232434"
    assert "GB983294" in invoice.supplier.identifiers
    assert (invoice.payment_account, invoice.payment_means) == ("IBAN32423940", "30")
    assert invoice.due_date is not None


async def test_a_credit_note_gives_money_back_and_names_what_it_credits(peppol: Path) -> None:
    note = await read_invoice(peppol / "base-creditnote-correction.xml")
    assert (note.kind, note.amount_due, note.credited_invoices) == ("credit_note", D("-1656.25"), ["Snippet1"])


async def test_na_is_no_order_reference(peppol: Path) -> None:
    assert (await read_invoice(peppol / "sales-order-example.xml")).order_reference is None


async def test_exempt_goods_bear_no_vat(peppol: Path) -> None:
    invoice = await read_invoice(peppol / "vat-category-E.xml")
    assert (invoice.currency, invoice.totals.tax, invoice.lines[0].category) == ("GBP", D(0), "E")
    assert invoice.due_date is None
