"""Runs the gateway: one uvicorn server on an open ledger."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

import uvicorn

from standby.connect import Place, only_server, open_prefect
from standby.gateway.app import create_app
from standby.gateway.headers import HeadersInTime
from standby.gateway.webhook_source import WebhookSources
from standby.gateway.webhooks import Inbox
from standby.ledger import Ledger


async def serve(ledger: Ledger, place: Place, *, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM. Any number of gateways may serve one ledger."""
    if "STANDBY_CRASH_AT" in os.environ:
        from standby.testing.crash import arm

        arm(os.environ["STANDBY_CRASH_AT"])

    @asynccontextmanager
    async def inbox() -> AsyncIterator[Inbox | None]:
        if place.api_url is None:
            yield None
            return
        async with open_prefect(place.api_url) as client:
            yield Inbox(WebhookSources(client), client)

    # No access log: a path may hold an approval link, which lets whoever reads it answer.
    config = uvicorn.Config(
        create_app(ledger, place, inbox), host=host, port=port, log_level="warning", access_log=False,
        timeout_keep_alive=30, timeout_graceful_shutdown=10, limit_concurrency=1000, server_header=False,
        http=HeadersInTime,
    )  # fmt: skip
    # What is there by now stays. To look through all of it for garbage takes a tenth of a second, now and then, and
    # nobody is answered meanwhile.
    gc.collect()
    gc.freeze()
    # Once it has stopped in order, uvicorn raises the signal again: what is open here is closed, too, and all is well.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    with nullcontext() if place.api_url is None else only_server(place.api_url):
        await uvicorn.Server(config).serve()


def _end(*_: object) -> None:
    raise SystemExit(0)
