"""What may be paid without asking a person."""

from decimal import Decimal
from typing import Annotated

from prefect.blocks.core import Block
from pydantic import Field, PlainSerializer, WithJsonSchema

# A number for the UI and in the stored document; a Decimal here, made from the number's shortest decimal form.
Number = Annotated[
    Decimal,
    Field(ge=0, max_digits=16, allow_inf_nan=False),
    WithJsonSchema({"type": "number", "minimum": 0}),
    PlainSerializer(float, return_type=float),
]


class PaymentPolicy(Block):
    """What an accounts-payable agent may pay by itself. Everything else is put before a person."""

    _block_type_name = "Payment Policy"
    _block_type_slug = "payment-policy"
    _description = "What the invoice agent may pay without asking: limits, price tolerance, blocked suppliers."

    auto_approve_up_to: dict[str, Number] = Field(
        default={"EUR": Decimal(1000), "GBP": Decimal(850), "SEK": Decimal(10000), "USD": Decimal(1000)},
        title="Pay without asking up to",
        description="Largest amount due per currency code, VAT included.",
    )
    auto_approve_otherwise: Number = Field(
        default=Decimal(0),
        title="In any other currency up to",
        description="The limit in currencies not listed above. 0 means: always ask.",
    )
    two_approvers_from: dict[str, Number] = Field(
        default={"EUR": Decimal(5000), "GBP": Decimal(4250), "SEK": Decimal(50000), "USD": Decimal(5000)},
        title="Two people approve from",
        description="Amount due per currency code, VAT included, from which two people have to approve where one is "
        "asked. In currencies not listed it is always two.",
    )
    price_tolerance_percent: Number = Field(
        default=Decimal(2),
        title="Price tolerance (percent)",
        description="How far a price, or the order's total, may lie above the order. Below is always fine.",
    )
    require_order: bool = Field(
        default=True,
        title="Require a purchase order",
        description="Ask when no purchase order is found for an invoice.",
    )
    require_iban: bool = Field(
        default=True,
        title="Require a valid IBAN",
        description="Ask when the account to pay to is not an IBAN with correct check digits.",
    )
    blocked_suppliers: list[str] = Field(
        default=[],
        title="Blocked suppliers",
        description="VAT numbers or other identifiers of suppliers that are never paid without asking.",
    )
    default_account: str = Field(
        default="4000",
        title="Default ledger account",
        description="The expense account suggested where the order names none.",
        pattern=r"^[0-9A-Za-z.-]{1,20}$",
    )

    def limit(self, currency: str) -> Decimal:
        """The largest amount due that is paid without asking."""
        return self.auto_approve_up_to.get(currency, self.auto_approve_otherwise)

    def approvers(self, due: Decimal, currency: str) -> int:
        """How many people have to approve, where anybody is asked. One is enough where nothing is to be paid."""
        return 2 if due > 0 and due >= self.two_approvers_from.get(currency, Decimal(0)) else 1
