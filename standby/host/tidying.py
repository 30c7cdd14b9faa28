"""Gives back the memory of attempts that are over, when the host has nothing else to do.

What an attempt leaves is tied in circles, for its exceptions and the requests to Prefect hold each other. The collector
by itself comes for it in the midst of a storm, and what it frees stays with the process, in holes between what lives.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from standby.host.host import Host

LOOK_SECONDS = 1.0
"""How often it is looked whether it is time."""

ATTEMPTS = 50
"""So many must be over since the last time: it stops the loop meanwhile, for longer the more is parked warm."""


async def tidy(host: Host) -> None:
    """Look after it until cancelled."""
    done = host.over
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        if host.over - done >= ATTEMPTS and host.is_calm:
            done = host.over
            gc.collect()
            _trim()()


@cache
def _trim() -> Callable[[], object]:
    """What has the C library give free pages back to the system; nothing, where it is another than glibc."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):
        return lambda: None
    return lambda: trim(0)
