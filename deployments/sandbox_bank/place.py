"""The port on which the sandbox bank listens: where agents on this machine look for it."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import httpx

if TYPE_CHECKING:
    from blocks.payment_provider import PaymentProvider

HOST = "127.0.0.1"
PORT = 4242
VARIABLE = "PAYMENT_PROVIDER_URL"
BLOCK = "payment-provider/default"


class Port(NamedTuple):
    """A TCP port (0: any free one), and how to choose another, after "choose another: "."""

    number: int
    remedy: str


def port_of(option: int | None) -> Port:
    """The one that was given as ``--port``; else that of ``PAYMENT_PROVIDER_URL``; else that of the block
    ``payment-provider/default`` on the Prefect server, if one is known. 4242 where the address is not of this machine.

    Raises ``ConnectionError`` when a server is known and does not tell.
    """
    if option is not None:
        return Port(option, "--port.")
    if told := os.environ.get(VARIABLE):
        return Port(_port_in(told), f"set {VARIABLE} to another address of this machine.")
    another = f"set {VARIABLE}=http://{HOST}:4343"
    try:
        provider, is_there = asyncio.run(_provider())
    except (httpx.HTTPError, ValueError) as error:
        raise ConnectionError(
            f"The block {BLOCK}, which says where agents look for the bank, cannot be read: "
            f"{str(error) or type(error).__name__}. Correct it or PREFECT_API_URL, or give --port."
        ) from error
    if not is_there:
        return Port(PORT, f"{another}.")
    return Port(_port_in(provider), f"{another}, and once that is up, the same in the block {BLOCK} in the Prefect UI.")


def difference(provider: PaymentProvider) -> str | None:
    """That the variable says another address than the block, in a sentence; None where it does not."""
    told = os.environ.get(VARIABLE, "")
    if not told or told.rstrip("/") == provider.base_url.rstrip("/"):
        return None
    return (
        f"Agents pay at {provider.base_url}, as the block {BLOCK} says, but {VARIABLE} says {told}, where the sandbox "
        "bank listens: change the block in the Prefect UI, or unset the variable."
    )


async def _provider() -> tuple[str, bool]:
    """The address of the provider, and whether a block says it."""
    from blocks.loading import load_or_default  # with Prefect, which takes a second where nobody asks for it
    from blocks.payment_provider import PaymentProvider

    provider = await load_or_default(PaymentProvider)
    return provider.base_url, provider._block_document_id is not None


def _port_in(url: str) -> int:
    told = urlsplit(url)
    return (told.port or PORT) if told.hostname in (HOST, "localhost") else PORT
