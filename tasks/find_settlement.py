"""Whether a payment has settled: what the keeper asks the payment provider when its report stays away."""

import httpx

from blocks.loading import load_or_default
from blocks.payment_provider import PaymentProvider
from tasks.errors import ProviderFailed
from tasks.models import Payment, Settlement
from tasks.pay import open_client


async def find_settlement(payment_id: str, provider: str = "default") -> Settlement | None:
    """The settlement of a payment, or None while it has not settled.

    ``provider`` names the block with address and key. Raises ``ProviderFailed`` when the provider does not tell.
    """
    block = await load_or_default(PaymentProvider, provider)
    url = f"{block.base_url.rstrip('/')}/payments/{payment_id}"
    try:
        async with open_client(block) as client:
            response = await client.get(url)
            response.raise_for_status()
        payment = Payment.model_validate_json(response.content)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise ProviderFailed(url, str(error) or type(error).__name__) from None
    if payment.status != "settled" or payment.settled_at is None:
        return None
    return Settlement(
        payment_id=payment.id,
        status="settled",
        amount=payment.amount,
        currency=payment.currency,
        settled_at=payment.settled_at,
        reference=payment.reference,
    )
