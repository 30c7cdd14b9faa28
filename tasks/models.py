"""What the invoice agent's steps hand to each other, and what its approver fills in.

Every amount is a `Decimal` in the currency named beside it, stored in JSON as a string. Every model reads back what it
wrote; fields added later must have a default, so that runs parked on older code still read.
"""

from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, WithJsonSchema, computed_field

from tasks import markdown

DocumentKind = Literal["invoice", "credit_note"]
DifferenceKind = Literal["order", "supplier", "currency", "line", "unit", "quantity", "price", "total", "account"]
Outcome = Literal["paid", "credited", "booked", "declined"]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Party(Record):
    """A supplier or a customer.

    ``id`` is the steadiest of its ``identifiers``: VAT number, else legal registration, else the sender's own party id,
    else its electronic address. All are in capitals and without spaces.
    """

    id: str
    name: str
    identifiers: list[str]
    country: str | None = None
    """ISO 3166 alpha-2 code."""


class AllowanceCharge(Record):
    """A discount or a surcharge; ``amount`` is stated without its sign, ``charge`` says which way it goes."""

    charge: bool
    amount: Decimal
    base_amount: Decimal | None = None
    percent: Decimal | None = None
    reason: str | None = None
    category: str | None = None
    """VAT category code (UNCL 5305: S, Z, E, AE, K, G, O, L, M); only on the document's own, not on a line's."""
    rate: Decimal | None = None
    """VAT rate in percent, as `category`."""

    @property
    def signed(self) -> Decimal:
        return self.amount if self.charge else -self.amount


class Line(Record):
    """One invoice or credit note line. ``unit_price`` is for ``base_quantity`` units, both without VAT."""

    id: str
    name: str
    item_id: str | None = None
    """The seller's item number, else the standard one (GTIN)."""
    order_line: str | None = None
    quantity: Decimal
    unit: str
    """UN/ECE recommendation 20 unit code, for example C62 (one), HUR (hour), DAY."""
    unit_price: Decimal
    base_quantity: Decimal = Decimal(1)
    gross_price: Decimal | None = None
    price_discount: Decimal = Decimal(0)
    allowances_charges: list[AllowanceCharge] = []
    net: Decimal
    category: str
    rate: Decimal | None = None
    """VAT rate in percent; None only where the category has none (O, outside the scope of VAT)."""

    @property
    def price_each(self) -> Decimal:
        """The price of one unit, not rounded."""
        return self.unit_price / self.base_quantity


class TaxSubtotal(Record):
    """VAT of one category and rate (percent)."""

    category: str
    rate: Decimal | None
    taxable: Decimal
    tax: Decimal


class Totals(Record):
    """The document's totals, in the order in which they follow from each other."""

    line_net: Decimal
    allowances: Decimal = Decimal(0)
    charges: Decimal = Decimal(0)
    tax_exclusive: Decimal
    tax: Decimal
    tax_inclusive: Decimal
    prepaid: Decimal = Decimal(0)
    rounding: Decimal = Decimal(0)
    payable: Decimal


class Invoice(Record):
    """A UBL invoice or credit note, as stated by its sender; ``source`` is its file name, for messages."""

    kind: DocumentKind
    source: str
    number: str
    issue_date: date
    due_date: date | None = None
    currency: str
    """ISO 4217 code of every amount."""
    supplier: Party
    customer: Party
    payee: str | None = None
    """Who is to be paid, when it is not the supplier (a factoring company)."""
    order_reference: str | None = None
    buyer_reference: str | None = None
    credited_invoices: list[str] = []
    lines: list[Line]
    allowances_charges: list[AllowanceCharge] = []
    tax_subtotals: list[TaxSubtotal]
    totals: Totals
    payment_means: str | None = None
    """UNCL 4461 code, for example 30 (credit transfer), 58 (SEPA credit transfer), 49 (direct debit)."""
    payment_account: str | None = None
    """The IBAN, or another account number, without spaces; of the first credit transfer the document names."""
    payment_reference: str | None = None

    @property
    def sign(self) -> int:
        """1 when the document asks for money, -1 when it gives some back."""
        return -1 if self.kind == "credit_note" else 1

    @property
    def amount_due(self) -> Decimal:
        """What is left to pay; negative when the supplier owes it (credit notes, negative invoices)."""
        return self.sign * self.totals.payable


class Difference(Record):
    """One thing the invoice and the order do not agree on.

    ``over_percent`` is how far the invoiced value lies above the ordered one, in percent of it (negative: below); None
    where no such comparison makes sense.
    """

    kind: DifferenceKind
    where: str
    ordered: str
    invoiced: str
    over_percent: Decimal | None = None


class Advice(Record):
    """What a language model has proposed to whoever decides. Nobody has checked it.

    ``model``: its name; empty where none is configured. ``failed``: why it has proposed nothing; empty if it has.
    """

    model: str = ""
    account: str | None = None
    """One of the known accounts, where the order names none."""
    reason: str = ""
    """Why this account."""
    differences: str = ""
    """How the model explains that invoice and order differ."""
    failed: str = ""


class Match(Record):
    """An invoice beside its purchase order, and what the payment policy says about it.

    `match_order` fills in what was found, `apply_policy` the verdict. Until then nothing is within policy.
    """

    number: str
    source: str
    kind: DocumentKind
    supplier: str
    currency: str
    payable: Decimal
    tax_exclusive: Decimal
    due_date: date | None = None
    payment_account: str | None = None
    order_id: str | None = None
    matched_by: Literal["reference", "credited invoice", "amount"] | None = None
    order_total: Decimal | None = None
    """Total of the order without VAT; None without an order."""
    claimed_before: Decimal = Decimal(0)
    """What other invoices already claim of the order, without VAT."""
    differences: list[Difference] = []
    order_account: str | None = None
    within_policy: bool = False
    reasons: list[str] = []
    """Why a person must decide; empty exactly when `within_policy`."""
    approvers: int = 1
    """How many people have to approve, unless `within_policy`."""
    suggested_amount: Decimal = Decimal(0)
    """What to pay if approved; 0 for credit notes and whatever else leaves nothing to pay."""
    suggested_account: str = "4000"
    adviser: str = ""
    """The model that may be asked about it; empty where none was configured when the policy was applied."""
    advice: Advice | None = None

    def check_decision(self, decision: "PaymentDecision") -> None:
        """Raise ``ValueError`` for an amount that is more than what is due, which no approval may pay."""
        if decision.approved and decision.amount is not None and decision.amount > self.suggested_amount:
            raise ValueError(
                f"amount: {decision.amount} is more than the {self.suggested_amount} {self.currency} that is due"
            )

    def to_markdown(self) -> str:
        """Evidence for the approver: the facts, the reasons and the differences. What came from the file is escaped."""
        return markdown.evidence(self)


def _without_default(schema: dict[str, Any]) -> None:
    """No default null in the schema: forms would send it back, and null is not a number."""
    schema.pop("default", None)


class PaymentDecision(BaseModel):
    """The approver's form. Unknown fields are refused, so that a misspelt amount is not taken for an empty one."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="Payment decision")

    approved: bool = Field(title="Approve the payment", description="Off: nothing is paid and the invoice is declined.")
    amount: Annotated[Decimal | None, WithJsonSchema({"type": "number", "minimum": 0})] = Field(
        None,
        title="Amount to pay",
        description="In the invoice's currency. Leave empty to pay the amount that is due.",
        ge=0,
        decimal_places=2,
        max_digits=14,
        json_schema_extra=_without_default,
    )
    account: Annotated[str | None, WithJsonSchema({"type": "string"})] = Field(
        None,
        title="Ledger account",
        description="The expense account to book on. Leave empty to book on the suggested one.",
        pattern=r"^[0-9A-Za-z.-]{1,20}$",
        json_schema_extra=_without_default,
    )
    comment: str = Field("", title="Comment", description="Kept with the decision.", max_length=2000)


class Payment(Record):
    """A payment as the provider knows it. Its status is ``accepted`` until it is ``settled``."""

    id: str
    idempotency_key: str
    amount: Decimal
    currency: str
    creditor_name: str
    reference: str
    status: str
    created_at: AwareDatetime
    settled_at: AwareDatetime | None = None


class Settlement(BaseModel):
    """The provider's report that a payment has reached its payee."""

    model_config = ConfigDict(frozen=True)

    payment_id: str
    status: Literal["settled"]
    amount: Decimal
    currency: str
    settled_at: AwareDatetime
    reference: str = ""


class Receipt(Record):
    """How one invoice ended. ``amount`` is what was paid, 0 unless the outcome is ``paid``."""

    outcome: Outcome
    kind: DocumentKind
    number: str
    source: str
    supplier_id: str
    supplier: str
    currency: str
    payable: Decimal
    amount: Decimal = Decimal(0)
    order_id: str | None = None
    account: str | None = None
    booking_id: int | None = None
    payment_id: str | None = None
    settled_at: AwareDatetime | None = None
    comment: str = ""
    file: str | None = None
    """Where the receipt was written."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def summary(self) -> str:
        """One line for people."""
        match self.outcome:
            case "paid":
                what = f"Paid {self.amount} {self.currency} to {self.supplier} for {self.number}"
            case "credited":
                what = f"Credited {self.payable} {self.currency} from {self.supplier}, {self.number}"
            case "booked":
                what = f"Booked {self.number} of {self.supplier}, nothing to pay"
            case "declined":
                why = f": {self.comment}" if self.comment else ""
                return f"Declined {self.number} of {self.supplier}, {self.payable} {self.currency}{why}"
        return f"{what}; booking {self.booking_id} on account {self.account}"

    @classmethod
    def of(cls, outcome: Outcome, invoice: Invoice, **details: Any) -> "Receipt":
        return cls(
            outcome=outcome,
            kind=invoice.kind,
            number=invoice.number,
            source=invoice.source,
            supplier_id=invoice.supplier.id,
            supplier=invoice.supplier.name,
            currency=invoice.currency,
            payable=invoice.totals.payable,
            **details,
        )

    @classmethod
    def declined(cls, invoice: Invoice, decision: PaymentDecision) -> "Receipt":
        """Nothing was paid or booked, because a person said so or nobody answered."""
        return cls.of("declined", invoice, comment=decision.comment)
