"""Step: order a payment from the payment provider, over HTTP; and the probe that asks whether it was ordered.

A payment carries the step's idempotency key. The provider keeps one payment per key, so ordering again after a crash
finds the first one, and `find_payment` tells a payment that was ordered from one that was not.
"""

from decimal import Decimal
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from blocks.loading import load_or_default
from blocks.payment_provider import PaymentProvider
from standby import idempotency_key, step
from tasks.errors import (
    PaymentConflict,
    PaymentRefused,
    ProviderFailed,
    ProviderTimeout,
    ProviderUnreachable,
)
from tasks.models import Invoice, Payment

LONGEST_TEXT = 140
"""Characters of a name or a reference that banks carry (ISO 20022 Max140Text)."""
MAY_PASS = (ProviderUnreachable, ProviderTimeout, ProviderFailed)
"""Errors after which it is worth trying again."""
T = TypeVar("T")
_PAYMENT, _PAYMENTS = TypeAdapter(Payment), TypeAdapter(list[Payment])


async def find_payment(
    invoice: Invoice,
    amount: Decimal,
    provider: str = "default",
) -> Payment | None:
    """The payment this step ordered before, or None if the provider has none with its key. Raises as `pay`."""
    block = await load_or_default(PaymentProvider, provider)
    key = idempotency_key()
    url, response = await _ask(block, "GET", params={"idempotency_key": key})
    if response.status_code != 200:
        raise _refusal(url, response)
    found = _read(url, response, _PAYMENTS)
    if len(found) > 1:
        raise ProviderFailed(url, f"it has {len(found)} payments with the idempotency key {key}")
    return _checked(url, found[0], invoice, amount, key) if found else None


@step(effect="once", probe=find_payment, retries=3, retry_delay_seconds=2, retry_on=MAY_PASS)
async def pay(
    invoice: Invoice,
    amount: Decimal,
    provider: str = "default",
) -> Payment:
    """Order ``amount`` of the invoice's currency to be paid to its payee.

    ``amount`` is above 0, with at most 2 decimals, and at most what is due. ``provider`` names the block with address
    and key.
    Unless it was refused tried 4 times, 2 seconds apart; before each further try the probe looks whether the one before
    has ordered.
    Raises PaymentRefused or ProviderUnreachable (nothing was ordered), PaymentConflict (the key was used with another
    order), ProviderTimeout or ProviderFailed (it may have been ordered).
    """
    block = await load_or_default(PaymentProvider, provider)
    url = _address(block)
    order = order_body(invoice, amount, url)
    key = idempotency_key()
    url, response = await _ask(block, "POST", json=order, headers={"Idempotency-Key": key})
    if response.status_code not in (200, 201):
        raise _refusal(url, response)
    return _checked(url, _read(url, response, _PAYMENT), invoice, amount, key)


def order_body(invoice: Invoice, amount: Decimal, url: str) -> dict[str, str]:
    """The order as JSON. Raises PaymentRefused, before anything is sent, for what must not be paid."""
    due = invoice.amount_due
    if invoice.kind == "credit_note" or due <= 0:
        raise PaymentRefused(
            url, f"{invoice.source} leaves nothing to pay", "Nothing was ordered; book it without one."
        )
    if not amount.is_finite() or amount <= 0 or amount > due:
        raise PaymentRefused(
            url, f"{amount} is not between 0 and the {due:f} {invoice.currency} that {invoice.source} leaves to pay"
        )
    if amount != round(amount, 2):
        raise PaymentRefused(url, f"{amount} has more than 2 decimals")
    order = {
        "amount": f"{amount:.2f}",
        "currency": invoice.currency,
        "creditor_name": (invoice.payee or invoice.supplier.name)[:LONGEST_TEXT],
        "reference": (invoice.payment_reference or invoice.number)[:LONGEST_TEXT],
    }
    if invoice.payment_account is not None:
        order["creditor_account"] = invoice.payment_account
    return order


def open_client(provider: PaymentProvider) -> httpx.AsyncClient:
    key = provider.api_key.get_secret_value()
    return httpx.AsyncClient(timeout=provider.timeout_seconds, headers={"Authorization": f"Bearer {key}"})


def _address(provider: PaymentProvider) -> str:
    return f"{provider.base_url.rstrip('/')}/payments"


async def _ask(provider: PaymentProvider, method: str, **request: Any) -> tuple[str, httpx.Response]:
    url = _address(provider)
    try:
        async with open_client(provider) as client:
            return url, await client.request(method, url, **request)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise ProviderUnreachable(url, f"no connection ({str(error) or type(error).__name__})") from None
    except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise ProviderUnreachable(url, f"it is not an address ({error})") from None
    except httpx.TimeoutException:
        raise ProviderTimeout(url, f"no answer within {provider.timeout_seconds:g} seconds") from None
    except httpx.RequestError as error:
        raise ProviderFailed(url, f"the connection broke ({str(error) or type(error).__name__})") from None


def _refusal(url: str, response: httpx.Response) -> PaymentRefused | PaymentConflict | ProviderFailed:
    status, said = response.status_code, _detail(response)
    if status == 409:
        return PaymentConflict(url, f"the idempotency key was used with another order before ({said})")
    if status in (401, 403):
        return PaymentRefused(
            url,
            f"it does not accept the API key ({said})",
            "Nothing was ordered. Set api_key in the block payment-provider.",
        )
    if 400 <= status < 500:
        return PaymentRefused(url, f"it refused with status {status} ({said})")
    return ProviderFailed(url, f"it answered with status {status} ({said})")


def _detail(response: httpx.Response) -> str:
    try:
        detail = response.json().get("detail")
    except (ValueError, AttributeError):
        detail = None
    return " ".join(str(detail or response.reason_phrase or "no explanation").split())[:200]


def _read(url: str, response: httpx.Response, shape: TypeAdapter[T]) -> T:
    try:
        return shape.validate_json(response.content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the body"
        raise ProviderFailed(url, f"its answer is not a payment ({place}: {first['msg']})") from None


def _checked(url: str, payment: Payment, invoice: Invoice, amount: Decimal, key: str) -> Payment:
    """The payment, if it is the one that was ordered."""
    ordered = (key, amount, invoice.currency)
    if (payment.idempotency_key, payment.amount, payment.currency) != ordered:
        raise PaymentConflict(
            url,
            f"payment {payment.id} over {payment.amount} {payment.currency} stands where {amount} "
            f"{invoice.currency} was ordered (key {key})",
        )
    return payment
