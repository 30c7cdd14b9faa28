"""The sandbox bank as a child process, for agents that are run by hand and find no bank where they look for it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx

from blocks.loading import load_or_default
from blocks.payment_provider import PaymentProvider
from standby.settings import home


@asynccontextmanager
async def bank_beside() -> AsyncIterator[None]:
    """Start the bank unless one answers; stop it again afterwards. What it knows is kept in the data folder."""
    url = (await load_or_default(PaymentProvider)).base_url
    host, port = urlsplit(url).hostname, urlsplit(url).port
    if host not in ("127.0.0.1", "localhost") or await _answers(url):
        yield
        return
    command = ["-m", "deployments.sandbox_bank", "--port", str(port), "--database", str(home() / "bank.db")]
    bank = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    try:
        assert bank.stdout is not None
        await bank.stdout.readline()  # it says one line when it is there
        yield
    finally:
        if bank.returncode is None:
            bank.terminate()
        await bank.wait()


async def _answers(url: str) -> bool:
    async with httpx.AsyncClient() as client:
        try:
            return (await client.get(f"{url}/health", timeout=2)).status_code == 200
        except httpx.HTTPError:
            return False
