"""The calculation rules of EN 16931: a wrong amount is named where it stands, with what it should have been."""

from decimal import Decimal
from itertools import product
from pathlib import Path

import pytest

from tasks.check_arithmetic import check_arithmetic, recompute
from tasks.errors import ArithmeticMismatch
from tasks.models import Invoice
from tasks.read_invoice import load_invoice
from tasks.ubl import parse_invoice
from tests.invoices.documents import (
    CONTRADICTORY,
    CREDIT_NOTE,
    IN_POLICY,
    OVER_LIMIT,
    PEPPOL_NAMES,
    SAMPLES,
    document,
    edited,
    invoice,
)

D = Decimal
GOOD = sorted(path.name for path in SAMPLES.glob("*.xml") if path.name != CONTRADICTORY)
TOTALS = {
    "line_net": ("cac:LegalMonetaryTotal/cbc:LineExtensionAmount", "BR-CO-10"),
    "allowances": ("cac:LegalMonetaryTotal/cbc:AllowanceTotalAmount", "BR-CO-11"),
    "charges": ("cac:LegalMonetaryTotal/cbc:ChargeTotalAmount", "BR-CO-12"),
    "tax_exclusive": ("cac:LegalMonetaryTotal/cbc:TaxExclusiveAmount", "BR-CO-13"),
    "tax": ("cac:TaxTotal/cbc:TaxAmount", "BR-CO-14"),
    "tax_inclusive": ("cac:LegalMonetaryTotal/cbc:TaxInclusiveAmount", "BR-CO-15"),
    "prepaid": ("cac:LegalMonetaryTotal/cbc:PayableAmount", "BR-CO-16"),
    "rounding": ("cac:LegalMonetaryTotal/cbc:PayableAmount", "BR-CO-16"),
    "payable": ("cac:LegalMonetaryTotal/cbc:PayableAmount", "BR-CO-16"),
}


def mismatch(document: Invoice) -> ArithmeticMismatch:
    with pytest.raises(ArithmeticMismatch) as caught:
        recompute(document)
    return caught.value


def moved(original: Invoice, total: str, by: Decimal) -> Invoice:
    totals = original.totals.model_copy(update={total: getattr(original.totals, total) + by})
    return original.model_copy(update={"totals": totals})


@pytest.mark.parametrize("name", GOOD)
def test_the_samples_add_up(name: str) -> None:
    recompute(document(name))


@pytest.mark.parametrize("total", TOTALS)
def test_one_cent_off_in_any_total_is_named(total: str) -> None:
    for name, by in product(GOOD, (D("0.01"), D("-0.01"), D(100))):
        error = mismatch(moved(document(name), total, by))
        assert (error.field, error.rule) == TOTALS[total]
        assert abs(error.stated - error.computed) == abs(by)
        assert error.file == name
        assert f"states {error.stated:f}, but {error.computed:f} follows" in str(error)


@pytest.mark.parametrize("name", PEPPOL_NAMES)
def test_one_cent_off_in_an_official_example_is_named(peppol: Path, name: str) -> None:
    read = load_invoice(peppol / name)
    for total, expected in TOTALS.items():
        error = mismatch(moved(read, total, D("0.01")))
        assert (error.field, error.rule) == expected


@pytest.mark.parametrize(
    ("name", "change", "field", "rule"),
    [
        (IN_POLICY, {"lines__0__net": D("470.03")}, "cac:InvoiceLine[1]/cbc:LineExtensionAmount", "R120"),
        (IN_POLICY, {"lines__1__quantity": D(4999)}, "cac:InvoiceLine[2]/cbc:LineExtensionAmount", "R120"),
        (IN_POLICY, {"lines__1__base_quantity": D(100)}, "cac:InvoiceLine[2]/cbc:LineExtensionAmount", "R120"),
        (CREDIT_NOTE, {"lines__0__unit_price": D(24)}, "cac:CreditNoteLine[1]/cbc:LineExtensionAmount", "R120"),
        (IN_POLICY, {"lines__0__gross_price": D(25)}, "cac:InvoiceLine[1]/cac:Price/cbc:PriceAmount", "R046"),
        (OVER_LIMIT, {"allowances_charges__0__percent": D(3)}, "cac:AllowanceCharge/cbc:Amount", "R040"),
        (OVER_LIMIT, {"allowances_charges__0__charge": True}, "cac:LegalMonetaryTotal/cbc:AllowanceTotal", "BR-CO-11"),
        (IN_POLICY, {"tax_subtotals__0__taxable": D("714.81")}, "cac:TaxTotal/cac:TaxSubtotal/cbc:Taxable", "BR-S-08"),
        (OVER_LIMIT, {"tax_subtotals__0__taxable": D(7530)}, "cac:TaxTotal/cac:TaxSubtotal/cbc:Taxable", "BR-IC-08"),
        (OVER_LIMIT, {"tax_subtotals__0__tax": D("0.01")}, "cac:TaxTotal/cac:TaxSubtotal/cbc:TaxAmount", "BR-IC-09"),
        (IN_POLICY, {"tax_subtotals__0__tax": D("135.84")}, "cac:TaxTotal/cac:TaxSubtotal/cbc:TaxAmount", "BR-CO-17"),
        (IN_POLICY, {"tax_subtotals__0__rate": D(7)}, "cac:TaxTotal/cac:TaxSubtotal/cbc:TaxableAmount", "BR-S-08"),
        (IN_POLICY, {"lines__0__category": "Z", "lines__0__rate": D(0)}, "cac:TaxTotal/cac:TaxSubtotal", "BR-S-08"),
    ],
)
def test_a_wrong_part_is_named_where_it_stands(name: str, change: dict[str, object], field: str, rule: str) -> None:
    error = mismatch(invoice(name, **change))
    assert error.field.startswith(field)
    assert error.rule.endswith(rule)


def test_a_group_of_lines_without_its_vat_breakdown_is_named() -> None:
    read = document("04-no-order.xml")
    kept = read.tax_subtotals[0]
    totals = read.totals.model_copy(update={"tax": kept.tax})
    error = mismatch(read.model_copy(update={"tax_subtotals": [kept], "totals": totals}))
    assert error.field == "cac:TaxTotal/cac:TaxSubtotal (none for category S at 19 %)"
    assert (error.stated, error.computed) == (D(0), D("74.40"))


def test_line_prices_with_allowances_and_charges() -> None:
    extras = [
        {"charge": True, "amount": D(10), "base_amount": D(100), "percent": D(10)},
        {"charge": False, "amount": D(10)},
    ]
    recompute(invoice(IN_POLICY, lines__0__allowances_charges=extras))
    error = mismatch(invoice(IN_POLICY, lines__0__allowances_charges=extras[:1]))
    assert (error.stated, error.computed) == (D("470.00"), D("480.00"))


@pytest.mark.parametrize(("off", "fine"), [("0.02", True), ("0.03", False), ("-0.02", True), ("-0.03", False)])
def test_vat_may_be_rounded_line_by_line(off: str, fine: bool) -> None:
    """Two lines: two cents. What follows from the VAT uses it as it is stated."""
    read = document(IN_POLICY)
    tax = read.totals.tax + D(off)
    change = {"tax": tax, "tax_inclusive": read.totals.tax_inclusive + D(off), "payable": read.totals.payable + D(off)}
    off_by = read.model_copy(
        update={
            "totals": read.totals.model_copy(update=change),
            "tax_subtotals": [read.tax_subtotals[0].model_copy(update={"tax": tax})],
        }
    )
    if fine:
        recompute(off_by)
    else:
        assert mismatch(off_by).rule == "BR-CO-17"


def test_prepayment_and_rounding_lead_to_the_amount_due() -> None:
    read = invoice(IN_POLICY, totals__prepaid=D(100), totals__rounding=D("0.39"), totals__payable=D("751.00"))
    recompute(read)
    assert read.amount_due == D("751.00")


def test_outside_the_scope_of_vat_there_is_no_rate() -> None:
    text = edited(OVER_LIMIT).decode().replace("<cbc:ID>K</cbc:ID>", "<cbc:ID>O</cbc:ID>")
    read = parse_invoice(text.encode(), "o.xml")
    recompute(read)
    assert {line.rate for line in read.lines} == {None}


async def test_the_contradictory_sample_is_refused() -> None:
    with pytest.raises(ArithmeticMismatch) as caught:
        await check_arithmetic(document(CONTRADICTORY))
    assert (caught.value.stated, caught.value.computed) == (D("497.80"), D("487.90"))


async def test_the_step_returns_the_amount_due_with_its_sign() -> None:
    assert await check_arithmetic(document(IN_POLICY)) == D("850.61")
    assert await check_arithmetic(document(CREDIT_NOTE)) == D("-55.93")
