"""What a host does for as long as it lives: no error ends it, and none is silent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger("standby.host")

AGAIN_SECONDS = 2.0
"""How long after an error what has raised it begins anew."""


async def lasting(work: Callable[[], Awaitable[None]], undone: str) -> None:
    """Do it until cancelled. ``undone``: what is not done after an error, until it begins anew."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("%s until this is tried again, in %g s.", undone, AGAIN_SECONDS)
        await asyncio.sleep(AGAIN_SECONDS)
