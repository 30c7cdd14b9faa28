"""Which ledger and which Prefect server the terminal talks to.

Prefect: ``PREFECT_API_URL``, else the server that ``standby up`` started in this folder. Ledger:
``STANDBY_LEDGER_URL``; else, with ``PREFECT_API_URL`` set, what the ``CheckpointStore`` block of that server says, or
while it does not answer the ledger of the ``standby up`` that has started it in this folder; else the data folder's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import httpx

from standby import settings

LOOK_SECONDS = 2.0
"""How long a command that needs no Prefect server waits for its word."""

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

ASK_SECONDS = 5.0
"""How long Prefect may take to say where the ledger is."""

SLOW = "takes connections and did not answer in time: it is slow or busy. Try again."


class Place(NamedTuple):
    """Addresses; ``api_url`` is None where no Prefect server is known."""

    ledger_url: str
    api_url: str | None

    @property
    def ui_url(self) -> str | None:
        return self.api_url.removesuffix("/").removesuffix("/api") if self.api_url else None


async def here() -> Place:
    """Raises ``ConnectionError`` where only Prefect knows the ledger, and does not answer within ``ASK_SECONDS``."""
    told_api = os.environ.get("PREFECT_API_URL")
    running = settings.running()
    ledger_url = settings.told_ledger_url()
    if ledger_url is None and told_api is not None:
        try:
            async with asyncio.timeout(ASK_SECONDS):
                ledger_url = await _asked(told_api)
        except (TimeoutError, OSError, httpx.HTTPError) as error:
            # Nor is the data folder's taken: it may be another one, and new.
            if running.get("api_url") != told_api:
                if await is_slow(told_api, error):
                    raise ConnectionError(
                        f"The Prefect server at {told_api}, whose block names the ledger, {SLOW} Or set "
                        "STANDBY_LEDGER_URL to the ledger's address."
                    ) from error
                raise ConnectionError(
                    f"The Prefect server at {told_api}, whose block names the ledger, cannot be asked: "
                    f"{str(error) or 'it does not answer'}. Start it, correct PREFECT_API_URL, or set "
                    "STANDBY_LEDGER_URL to the ledger's address."
                ) from error
            ledger_url = running.get("ledger_url")
    if ledger_url is None and told_api is None:
        ledger_url = running.get("ledger_url")
    return Place(ledger_url or settings.default_ledger_url(), told_api or running.get("api_url"))


async def _asked(api_url: str) -> str | None:
    """What the server's block says; None where there is no such block, or it leaves the address to the process."""
    from prefect.exceptions import ObjectNotFound

    from standby.checkpoints import STORE_NAME, CheckpointStore

    async with open_prefect(api_url) as client:
        try:
            document = await client.read_block_document_by_name(STORE_NAME, CheckpointStore.get_block_type_slug())
        except ObjectNotFound:
            return None
    return str(document.data.get("ledger_url") or "") or None


@contextmanager
def only_server(api_url: str) -> Iterator[None]:
    """All of Prefect that is called here, or in tasks and threads that begin here, talks to this server.

    Prefect's blocks tell of their use by themselves, with the settings in effect and not with the client that they are
    given. Where these name no server, Prefect starts one of its own, on the data of the one that is up.
    """
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE, temporary_settings

    if PREFECT_API_URL.value() == api_url and not PREFECT_SERVER_ALLOW_EPHEMERAL_MODE.value():
        yield  # to make settings takes a tenth of a second
        return
    with temporary_settings({PREFECT_API_URL: api_url, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False}):
        yield


async def is_slow(api_url: str, error: object) -> bool:
    """Whether a server that could not be asked for this error is there, takes connections and answers none in time."""
    if not isinstance(error, TimeoutError | httpx.TimeoutException):
        return False
    url = httpx.URL(api_url)
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            _, writer = await asyncio.open_connection(url.host, url.port or (443 if url.scheme == "https" else 80))
    except OSError:
        return False
    writer.close()
    return True


async def answers(api_url: str) -> bool:
    """Whether there is a server at this address, within ``LOOK_SECONDS``."""
    async with httpx.AsyncClient(timeout=LOOK_SECONDS) as client:
        try:
            await client.get(f"{api_url.rstrip('/')}/health")
        except (httpx.HTTPError, httpx.InvalidURL):
            return False
    return True


def open_prefect(api_url: str) -> PrefectClient:
    """A client of the Prefect server at this address, with the key or password that Prefect's settings hold."""
    from prefect.client.orchestration import PrefectClient
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY

    return PrefectClient(api_url, auth_string=PREFECT_API_AUTH_STRING.value(), api_key=PREFECT_API_KEY.value())
