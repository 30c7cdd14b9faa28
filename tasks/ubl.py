"""UBL 2.1 invoices and credit notes (Peppol BIS Billing 3.0) to the `Invoice` model.

Reads what is stated and refuses what cannot be meant; whether the amounts add up is `check_arithmetic`'s question.
Amounts are `[+-]digits[.digits]` as in XML Schema: no exponents, no NaN, at most 12 digits before the point, and 2
after it (prices, quantities and percentages: 10).
"""

import re
from datetime import date
from decimal import Decimal
from typing import NamedTuple

import pycountry

from tasks.errors import (
    CurrencyMismatch,
    DuplicateElement,
    InvalidAmount,
    InvalidField,
    MissingField,
    NotUbl,
    TooLarge,
    UnknownCurrency,
)
from tasks.models import AllowanceCharge, DocumentKind, Invoice, Line, Party, TaxSubtotal, Totals
from tasks.safe_xml import Node, parse_xml

MAX_LINES = 10_000
MAX_ID = 100
"""Characters of a document number, order reference or party id; banks and file names take no more."""
MAX_VAT_PERCENT = Decimal(30)
"""Above every rate in force (27 % at most); more is a typing error or worse."""
MAX_ROUNDING = Decimal(5)
"""The most a document may add by rounding its amount due."""

_ROOTS: dict[str, tuple[DocumentKind, str]] = {
    "{urn:oasis:names:specification:ubl:schema:xsd:Invoice-2}Invoice": ("invoice", "Invoice"),
    "{urn:oasis:names:specification:ubl:schema:xsd:CreditNote-2}CreditNote": ("credit_note", "CreditNote"),
}
_CREDIT_TYPES = frozenset({"81", "83", "261", "262", "296", "308", "381", "396", "420", "458", "532"})
"""Codes of UNTDID 1001 that are credit notes."""
_CATEGORIES = frozenset({"S", "Z", "E", "AE", "K", "G", "O", "L", "M", "B"})
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_CURRENCY = re.compile(r"[A-Z]{3}")
_NO_MONEY = frozenset({"XXX", "XTS"})


def parse_invoice(data: bytes, file: str) -> Invoice:
    """One document, from its bytes; ``file`` is its name, for messages. Raises some `InvoiceError`."""
    root = parse_xml(data, file)
    if root.tag not in _ROOTS:
        raise NotUbl(file, "document", f"its root element is {root.tag[:120]}, not a UBL Invoice or CreditNote")
    kind, word = _ROOTS[root.tag]
    _check_type(root, kind, word)
    currency = _currency(root.need("cbc:DocumentCurrencyCode"))
    tax, subtotals = _tax_total(root, currency)
    totals = _totals(root, currency, kind, tax)
    lines = root.all(f"cac:{word}Line")
    if not lines:
        raise MissingField(file, f"cac:{word}Line", "a document needs at least one line")
    if len(lines) > MAX_LINES:
        raise TooLarge(file, f"cac:{word}Line", f"there are {len(lines)} lines, at most {MAX_LINES} are read")
    due = root.one("cbc:DueDate")
    payee = root.one("cac:PayeeParty")
    payment = _payment_means(root)
    return Invoice(
        kind=kind,
        source=file,
        number=root.need_text("cbc:ID", MAX_ID),
        issue_date=_date(root.need("cbc:IssueDate")),
        due_date=_date(due) if due else payment.due,
        currency=currency,
        supplier=_party(root.need("cac:AccountingSupplierParty/cac:Party")),
        customer=_party(root.need("cac:AccountingCustomerParty/cac:Party")),
        payee=payee.need_text("cac:PartyName/cbc:Name") if payee else None,
        order_reference=_order_reference(root),
        buyer_reference=root.text("cbc:BuyerReference"),
        credited_invoices=[
            reference.need_text("cac:InvoiceDocumentReference/cbc:ID", MAX_ID)
            for reference in root.all("cac:BillingReference")
        ],
        lines=[_line(line, currency, kind) for line in lines],
        allowances_charges=[_allowance(node, currency, taxed=True) for node in root.all("cac:AllowanceCharge")],
        tax_subtotals=subtotals,
        totals=totals,
        payment_means=payment.code,
        payment_account=payment.account,
        payment_reference=payment.reference,
    )


def _check_type(root: Node, kind: DocumentKind, word: str) -> None:
    node = root.need(f"cbc:{word}TypeCode")
    code = node.need_text()
    if (code in _CREDIT_TYPES) != (kind == "credit_note"):
        raise InvalidField(root.file, node.path, f"type {code[:20]!r} contradicts the root element {word}")


def _order_reference(root: Node) -> str | None:
    reference = root.one("cac:OrderReference")
    if reference is None:
        return None
    value = reference.need_text("cbc:ID", MAX_ID)
    return None if value.upper() == "NA" else value  # Peppol: NA where there is only a sales order


def _party(node: Node) -> Party:
    """Names: the registered one, else the trading name. At least one identifier is needed."""
    registered, trading = node.text("cac:PartyLegalEntity/cbc:RegistrationName"), node.text("cac:PartyName/cbc:Name")
    name = registered or trading
    if name is None:
        raise MissingField(node.file, node.place("cac:PartyLegalEntity/cbc:RegistrationName"), "the party has no name")
    found: list[str | None] = []
    for scheme in node.all("cac:PartyTaxScheme"):
        if scheme.text("cac:TaxScheme/cbc:ID") == "VAT":
            found.append(scheme.text("cbc:CompanyID"))
    found.append(node.text("cac:PartyLegalEntity/cbc:CompanyID"))
    found += [identification.text("cbc:ID") for identification in node.all("cac:PartyIdentification")]
    endpoint = node.one("cbc:EndpointID")
    if endpoint is not None and (address := endpoint.text()):
        found.append(f"{endpoint.attribute('schemeID') or ''}:{address}".lstrip(":"))
    identifiers = list(dict.fromkeys("".join(value.upper().split()) for value in found if value))
    if not identifiers:
        raise MissingField(node.file, node.place("cbc:EndpointID"), "the party has no identifier of any kind")
    if longest := next((value for value in identifiers if len(value) > MAX_ID), None):
        raise TooLarge(node.file, node.path, f"an identifier has {len(longest)} characters, at most {MAX_ID} are used")
    country = node.text("cac:PostalAddress/cac:Country/cbc:IdentificationCode")
    return Party(id=identifiers[0], name=name, identifiers=identifiers, country=country)


class _PaymentMeans(NamedTuple):
    code: str | None = None
    account: str | None = None
    reference: str | None = None
    due: date | None = None


def _payment_means(root: Node) -> _PaymentMeans:
    """The first payment means that names an account, else the first one."""
    means = root.all("cac:PaymentMeans")
    if not means:
        return _PaymentMeans()
    chosen = next((node for node in means if node.one("cac:PayeeFinancialAccount")), means[0])
    account, reference = chosen.one("cac:PayeeFinancialAccount"), chosen.one("cbc:PaymentID")
    due = chosen.one("cbc:PaymentDueDate")
    return _PaymentMeans(
        code=chosen.text("cbc:PaymentMeansCode"),
        account="".join(account.need_text("cbc:ID", 64).split()).upper() if account else None,
        reference=reference.need_text(longest=140) if reference else None,
        due=_date(due) if due else None,
    )


def _line(node: Node, currency: str, kind: DocumentKind) -> Line:
    quantity = node.need("cbc:InvoicedQuantity" if kind == "invoice" else "cbc:CreditedQuantity")
    unit = quantity.attribute("unitCode")
    if unit is None:
        raise MissingField(node.file, f"{quantity.path}/@unitCode", "it is missing and required")
    price = node.need("cac:Price")
    base = price.one("cbc:BaseQuantity")
    discount = price.one("cac:AllowanceCharge")
    gross = discount.one("cbc:BaseAmount") if discount else None
    category, rate = _category(node.need("cac:Item/cac:ClassifiedTaxCategory"))
    return Line(
        id=node.need_text("cbc:ID", MAX_ID),
        name=node.need_text("cac:Item/cbc:Name"),
        item_id=node.text("cac:Item/cac:SellersItemIdentification/cbc:ID")
        or node.text("cac:Item/cac:StandardItemIdentification/cbc:ID"),
        order_line=node.text("cac:OrderLineReference/cbc:LineID"),
        quantity=_number(quantity),
        unit=unit,
        unit_price=_amount(price.need("cbc:PriceAmount"), currency, decimals=10, negative=False),
        base_quantity=_number(base, positive=True) if base else Decimal(1),
        gross_price=_amount(gross, currency, decimals=10, negative=False) if gross else None,
        price_discount=_amount(discount.need("cbc:Amount"), currency, decimals=10) if discount else Decimal(0),
        allowances_charges=[_allowance(each, currency, taxed=False) for each in node.all("cac:AllowanceCharge")],
        net=_amount(node.need("cbc:LineExtensionAmount"), currency),
        category=category,
        rate=rate,
    )


def _allowance(node: Node, currency: str, *, taxed: bool) -> AllowanceCharge:
    indicator = node.need("cbc:ChargeIndicator").fits(re.compile("true|false"), "true or false")
    base, factor = node.one("cbc:BaseAmount"), node.one("cbc:MultiplierFactorNumeric")
    category, rate = _category(node.need("cac:TaxCategory")) if taxed else (None, None)
    return AllowanceCharge(
        charge=indicator == "true",
        amount=_amount(node.need("cbc:Amount"), currency),
        base_amount=_amount(base, currency) if base else None,
        percent=_number(factor, negative=False) if factor else None,
        reason=node.text("cbc:AllowanceChargeReason"),
        category=category,
        rate=rate,
    )


def _category(node: Node) -> tuple[str, Decimal | None]:
    """VAT category and rate; category O has no rate, every other needs one (BR-48)."""
    code = node.need("cbc:ID")
    category = code.need_text()
    if category not in _CATEGORIES:
        raise InvalidField(node.file, code.path, f"{category[:20]!r} is not a VAT category of UNCL 5305")
    if category == "O":
        return category, None
    percent = node.need("cbc:Percent")
    rate = _number(percent, negative=False)
    if rate > MAX_VAT_PERCENT:
        raise InvalidAmount(node.file, percent.path, f"a VAT rate of {rate:f} % is above {MAX_VAT_PERCENT} %")
    return category, rate


def _tax_total(root: Node, currency: str) -> tuple[Decimal, list[TaxSubtotal]]:
    """The VAT total in the document's currency; another may stand beside it in the currency VAT is accounted in."""
    accounting = root.one("cbc:TaxCurrencyCode")
    other = _currency(accounting) if accounting else None
    ours = [
        total
        for total in root.all("cac:TaxTotal")
        if other in (None, currency) or total.need("cbc:TaxAmount").attribute("currencyID") != other
    ]
    if not ours:
        raise MissingField(root.file, "cac:TaxTotal", f"no VAT total in {currency}")
    # Read before they are counted: one in a third currency is a mismatch, not a duplicate.
    amounts = [_amount(total.need("cbc:TaxAmount"), currency) for total in ours]
    if len(ours) > 1:
        raise DuplicateElement(root.file, "cac:TaxTotal", f"there are {len(ours)} VAT totals in {currency}")
    subtotals = []
    for node in ours[0].all("cac:TaxSubtotal"):
        category, rate = _category(node.need("cac:TaxCategory"))
        taxable = _amount(node.need("cbc:TaxableAmount"), currency)
        tax = _amount(node.need("cbc:TaxAmount"), currency)
        subtotals.append(TaxSubtotal(category=category, rate=rate, taxable=taxable, tax=tax))
    if not subtotals:
        raise MissingField(root.file, "cac:TaxTotal/cac:TaxSubtotal", "the VAT total has no breakdown")
    keys = [(subtotal.category, subtotal.rate) for subtotal in subtotals]
    if len(set(keys)) < len(keys):
        raise DuplicateElement(root.file, "cac:TaxTotal/cac:TaxSubtotal", "two of them have the same category and rate")
    return amounts[0], subtotals


def _totals(root: Node, currency: str, kind: DocumentKind, tax: Decimal) -> Totals:
    node = root.need("cac:LegalMonetaryTotal")

    def need(name: str) -> Decimal:
        return _amount(node.need(f"cbc:{name}"), currency)

    def may(name: str) -> Decimal:
        found = node.one(f"cbc:{name}")
        return _amount(found, currency) if found else Decimal(0)

    totals = Totals(
        line_net=need("LineExtensionAmount"),
        allowances=may("AllowanceTotalAmount"),
        charges=may("ChargeTotalAmount"),
        tax_exclusive=need("TaxExclusiveAmount"),
        tax=tax,
        tax_inclusive=need("TaxInclusiveAmount"),
        prepaid=may("PrepaidAmount"),
        rounding=may("PayableRoundingAmount"),
        payable=need("PayableAmount"),
    )
    if kind == "credit_note" and totals.payable < 0:
        reason = f"a credit note over {totals.payable:f} would ask for money"
        raise InvalidAmount(root.file, node.place("cbc:PayableAmount"), reason, "Ask the supplier for an invoice.")
    if totals.prepaid < 0 <= totals.tax_inclusive:
        reason = f"{totals.prepaid:f} paid before would add an old debt to this document"
        raise InvalidAmount(root.file, node.place("cbc:PrepaidAmount"), reason)
    if abs(totals.rounding) > MAX_ROUNDING:
        reason = f"{totals.rounding:f} is more than rounding (at most {MAX_ROUNDING})"
        raise InvalidAmount(root.file, node.place("cbc:PayableRoundingAmount"), reason)
    return totals


def _amount(node: Node, currency: str, *, decimals: int = 2, negative: bool = True) -> Decimal:
    stated = node.attribute("currencyID")
    if stated is None:
        raise MissingField(node.file, f"{node.path}/@currencyID", "it is missing and required")
    if stated != currency:
        raise CurrencyMismatch(node.file, node.path, f"it is in {stated[:20]}, the document in {currency}")
    return _number(node, decimals=decimals, negative=negative)


def _number(node: Node, *, decimals: int = 10, negative: bool = True, positive: bool = False) -> Decimal:
    """A decimal number. ``negative=False`` refuses what is below 0, ``positive=True`` also 0."""
    text = node.need_text()
    if not _DECIMAL.fullmatch(text):
        raise InvalidAmount(node.file, node.path, f"{text[:40]!r} is not a plain decimal number such as 120.50")
    whole, _, fraction = text.lstrip("+-").partition(".")
    if len(whole.lstrip("0")) > 12:
        raise InvalidAmount(node.file, node.path, f"{text[:40]} has more than 12 digits before the point")
    if len(fraction.rstrip("0")) > decimals:
        raise InvalidAmount(node.file, node.path, f"{text[:40]} has more than {decimals} decimals")
    value = Decimal(text)
    if (value < 0 and not negative) or (value <= 0 and positive):
        raise InvalidAmount(node.file, node.path, f"{text[:40]} must be {'above' if positive else 'at least'} 0")
    return value


def _date(node: Node) -> date:
    text = node.fits(_DATE, "a date such as 2026-03-31")
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidField(node.file, node.path, f"there is no day {text}") from None


def _currency(node: Node) -> str:
    code = node.fits(_CURRENCY, "a currency code of three capitals, such as EUR")
    if code in _NO_MONEY or pycountry.currencies.get(alpha_3=code) is None:
        raise UnknownCurrency(node.file, node.path, f"ISO 4217 has no currency {code}")
    return code
