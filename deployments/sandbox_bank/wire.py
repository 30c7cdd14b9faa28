"""What travels over HTTP: orders, payments and their reports, the sandbox's controls and its request log."""

import re
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    HttpUrl,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_validator,
)
from standardwebhooks.webhooks import EmptyWebhookSecretError
from standardwebhooks.webhooks import Webhook as Signer

_AMOUNT = re.compile(r"[0-9]{1,15}(\.[0-9]{1,4})?")


class PaymentStatus(StrEnum):
    """accepted -> settled; there is no way back and no other state."""

    ACCEPTED = "accepted"
    SETTLED = "settled"


class ReportState(StrEnum):
    """pending -> delivered | given_up; withheld from the start when `report` was off at settlement."""

    PENDING = "pending"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"
    WITHHELD = "withheld"


class SettleMode(StrEnum):
    AUTO = "auto"
    MANUAL = "manual"


def _decimal_string(value: Any) -> Decimal:
    """Refuse JSON numbers (floats to most senders) and what else Decimal would take: 1e3, 1_000, NaN."""
    if not isinstance(value, str) or not _AMOUNT.fullmatch(value):
        raise ValueError('must be a decimal string such as "120.50": up to 15 digits, then up to 4 decimals')
    return Decimal(value)


Text = Annotated[str, StringConstraints(min_length=1, max_length=140, pattern=r"\S")]
Amount = Annotated[Decimal, BeforeValidator(_decimal_string), Field(gt=0)]
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Za-z]{3}$", to_upper=True)]


class PaymentOrder(BaseModel):
    """The body of POST /payments. Unknown fields are refused: nobody would miss a misspelt `creditor_account`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    amount: Amount
    currency: Currency
    creditor_name: Text
    creditor_account: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    reference: Text


class Webhook(BaseModel):
    """The body of PUT /webhook, as people fill it in at a provider: where the account's reports go, and their secret.

    A user and password in the URL become basic auth. The secret is one of Standard Webhooks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    secret: SecretStr

    @field_validator("url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        try:
            return str(HttpUrl(value))
        except ValidationError:
            raise ValueError("must be an http or https URL") from None

    @field_validator("secret")
    @classmethod
    def _signs(cls, value: SecretStr) -> SecretStr:
        try:
            Signer(value.get_secret_value())
        except (ValueError, EmptyWebhookSecretError):
            raise ValueError("must be whsec_ and base64") from None
        return value


class PaymentView(BaseModel):
    """A payment as callers see it."""

    id: str
    idempotency_key: str
    amount: Decimal
    currency: str
    creditor_name: str
    reference: str
    status: PaymentStatus
    created_at: AwareDatetime
    settled_at: AwareDatetime | None


class Settled(BaseModel):
    """What a report says of its payment."""

    payment_id: str
    status: PaymentStatus
    amount: Decimal
    currency: str
    settled_at: AwareDatetime
    reference: str


class SettlementReport(BaseModel):
    """What the bank posts to the account's webhook; every retry sends the same bytes under the same `webhook-id`."""

    type: Literal["payment.settled"] = "payment.settled"
    timestamp: AwareDatetime
    data: Settled


class Controls(BaseModel):
    """How the sandbox behaves. PUT changes the fields it is given and leaves the others."""

    model_config = ConfigDict(extra="forbid")

    slow_seconds: float = Field(0.0, ge=0, le=600, allow_inf_nan=False)
    """Seconds every /payments answer is held back; the work is done, and committed, before the delay."""
    down: bool = False
    """Every /payments route answers 503 and does nothing; settlement and reports go on."""
    forgetful: int = Field(0, ge=0, le=1_000_000)
    """How many of the next carried-out POST /payments are committed but answered with 500."""
    settle_after: float = Field(2.0, ge=0, le=31_536_000, allow_inf_nan=False)
    """Seconds between acceptance and settlement in auto mode."""
    settle: SettleMode = SettleMode.AUTO
    report: bool = True
    """Off: what settles meanwhile is never reported, and what is pending already is held until it is on."""


class LoggedRequest(BaseModel):
    """One request on /payments."""

    time: AwareDatetime
    method: str
    path: str
    idempotency_key: str | None
    status: int | None
    """The HTTP status answered; None while it is in progress, or for ever if the bank was killed before."""


class ReportView(BaseModel):
    """How the report of one settlement is doing."""

    payment_id: str
    state: ReportState
    attempts: int
    next_at: AwareDatetime
    refusal: str | None
    """Why the last attempt did not count; None if it did, or before the first."""


class Counts(BaseModel):
    payments: int
    requests_by_key: dict[str, int]
    """POST /payments requests by idempotency key, whatever they were answered."""


class Problem(BaseModel):
    """Every error's body."""

    detail: str
    field: str | None = None
