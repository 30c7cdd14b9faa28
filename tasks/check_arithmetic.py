"""Step: recompute every amount of a document by the calculation rules of EN 16931, and compare with what it states.

    line net            = quantity × price ÷ base quantity + charges − allowances        PEPPOL-EN16931-R120
    allowance, charge   = base amount × percent, where both are given                    PEPPOL-EN16931-R040
    net price           = gross price − discount, where a gross price is given           PEPPOL-EN16931-R046
    line total          = Σ line net                                                     BR-CO-10
    allowances          = Σ document allowances                                          BR-CO-11
    charges             = Σ document charges                                             BR-CO-12
    without VAT         = line total − allowances + charges                              BR-CO-13
    taxable per group   = Σ line net − allowances + charges of its category and rate     BR-S-08, BR-E-08, BR-Z-08 ...
    VAT per group       = taxable × rate, rounded; 0 unless the category bears VAT       BR-CO-17, BR-E-09, BR-Z-09 ...
    VAT                 = Σ VAT per group                                                BR-CO-14
    with VAT            = without VAT + VAT                                              BR-CO-15
    payable             = with VAT − prepaid + rounding                                  BR-CO-16

Sums must be exact. What is multiplied and rounded may be off by `ROUNDING`; VAT of a group by one cent for each line,
allowance or charge in it (suppliers who round line by line), but less than 1.00, which is where the official validation
draws the line. Each step uses the stated amounts of the one before, so one wrong amount is named once, where it stands.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Decimal

from standby import step
from tasks.errors import ArithmeticMismatch
from tasks.models import AllowanceCharge, Invoice, Line

CENT = Decimal("0.01")
ROUNDING = Decimal("0.02")
"""How far a rounded product may be off, in the document's currency (the slack of Peppol's own rules)."""
MAX_VAT_SLACK = Decimal("0.99")
_RULES = {"K": "BR-IC", "L": "BR-AF", "M": "BR-AG"}
"""Where EN 16931 names a category's rules by other letters than the category's code."""
_BEARS_VAT = frozenset({"S", "L", "M", "B"})

Group = tuple[str, Decimal | None]


@step
async def check_arithmetic(invoice: Invoice) -> Decimal:
    """The amount due (see `Invoice.amount_due`), once everything before it adds up. Raises `ArithmeticMismatch`."""
    recompute(invoice)
    return invoice.amount_due


def recompute(invoice: Invoice) -> None:
    """Raise `ArithmeticMismatch` at the first amount that contradicts those it follows from."""
    for number, line in enumerate(invoice.lines, 1):
        _check_line(invoice, line, f"cac:{'Invoice' if invoice.kind == 'invoice' else 'CreditNote'}Line[{number}]")
    _check_percentages(invoice, invoice.allowances_charges, "")
    totals, monetary = invoice.totals, "cac:LegalMonetaryTotal/cbc:"
    extras = invoice.allowances_charges
    sums: list[tuple[str, Decimal, Decimal, str]] = [
        ("LineExtensionAmount", totals.line_net, _sum(line.net for line in invoice.lines), "BR-CO-10"),
        ("AllowanceTotalAmount", totals.allowances, _sum(e.amount for e in extras if not e.charge), "BR-CO-11"),
        ("ChargeTotalAmount", totals.charges, _sum(e.amount for e in extras if e.charge), "BR-CO-12"),
        ("TaxExclusiveAmount", totals.tax_exclusive, totals.line_net - totals.allowances + totals.charges, "BR-CO-13"),
    ]
    for name, stated, computed, rule in sums:
        _compare(invoice, monetary + name, stated, computed, rule)
    _check_vat(invoice)
    _compare(
        invoice, monetary + "TaxInclusiveAmount", totals.tax_inclusive, totals.tax_exclusive + totals.tax, "BR-CO-15"
    )
    payable = totals.tax_inclusive - totals.prepaid + totals.rounding
    _compare(invoice, monetary + "PayableAmount", totals.payable, payable, "BR-CO-16")


def _check_line(invoice: Invoice, line: Line, place: str) -> None:
    _check_percentages(invoice, line.allowances_charges, f"{place}/")
    if line.gross_price is not None:
        price = line.gross_price - line.price_discount
        _compare(invoice, f"{place}/cac:Price/cbc:PriceAmount", line.unit_price, price, "PEPPOL-EN16931-R046", ROUNDING)
    computed = line.quantity * line.unit_price / line.base_quantity + _sum(e.signed for e in line.allowances_charges)
    _compare(invoice, f"{place}/cbc:LineExtensionAmount", line.net, _cents(computed), "PEPPOL-EN16931-R120", ROUNDING)


def _check_percentages(invoice: Invoice, extras: list[AllowanceCharge], place: str) -> None:
    for number, extra in enumerate(extras, 1):
        if extra.percent is not None and extra.base_amount is not None:
            counted = f"[{number}]" if len(extras) > 1 else ""
            computed = _cents(extra.base_amount * extra.percent / 100)
            field = f"{place}cac:AllowanceCharge{counted}/cbc:Amount"
            _compare(invoice, field, extra.amount, computed, "PEPPOL-EN16931-R040", ROUNDING)


def _check_vat(invoice: Invoice) -> None:
    taxable: defaultdict[Group, Decimal] = defaultdict(Decimal)
    members: Counter[Group] = Counter()
    for line in invoice.lines:
        taxable[line.category, line.rate] += line.net
        members[line.category, line.rate] += 1
    for extra in invoice.allowances_charges:
        if extra.category is not None:
            taxable[extra.category, extra.rate] += extra.signed
            members[extra.category, extra.rate] += 1
    for number, subtotal in enumerate(invoice.tax_subtotals, 1):
        group: Group = (subtotal.category, subtotal.rate)
        counted = f"[{number}]" if len(invoice.tax_subtotals) > 1 else ""
        place, rule = f"cac:TaxTotal/cac:TaxSubtotal{counted}/cbc:", _rule(subtotal.category)
        _compare(invoice, place + "TaxableAmount", subtotal.taxable, taxable.pop(group, Decimal(0)), f"{rule}-08")
        if subtotal.category in _BEARS_VAT:
            slack = min(MAX_VAT_SLACK, max(ROUNDING, CENT * members[group]))
            computed = _cents(subtotal.taxable * (subtotal.rate or 0) / 100)
            _compare(invoice, place + "TaxAmount", subtotal.tax, computed, "BR-CO-17", slack)
        else:
            _compare(invoice, place + "TaxAmount", subtotal.tax, Decimal(0), f"{rule}-09")
    for (category, rate), amount in taxable.items():
        field = (
            f"cac:TaxTotal/cac:TaxSubtotal (none for category {category}{'' if rate is None else f' at {rate:f} %'})"
        )
        _compare(invoice, field, Decimal(0), amount, f"{_rule(category)}-01")
    _compare(
        invoice,
        "cac:TaxTotal/cbc:TaxAmount",
        invoice.totals.tax,
        _sum(s.tax for s in invoice.tax_subtotals),
        "BR-CO-14",
    )


def _rule(category: str) -> str:
    return _RULES.get(category, f"BR-{category}")


def _compare(
    invoice: Invoice, field: str, stated: Decimal, computed: Decimal, rule: str, slack: Decimal = Decimal(0)
) -> None:
    if abs(stated - computed) > slack:
        raise ArithmeticMismatch(invoice.source, field, stated, computed, rule)


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    return sum(amounts, Decimal(0))


def _cents(amount: Decimal) -> Decimal:
    return amount.quantize(CENT, ROUND_HALF_UP)
