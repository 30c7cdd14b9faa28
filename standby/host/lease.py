"""A host's lease in the ledger, which stands for all that is parked warm in it. Kept by the pulse's thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from uuid import uuid4

from standby import settings
from standby.errors import LedgerUnavailable
from standby.ledger import Ledger
from standby.ledger.hosted import LEASES, NO_LIMIT

log = logging.getLogger("standby.host")

BEAT_SECONDS = 1.0
"""How often the event loop says that it goes round."""


class HostLease:
    """``lost`` is called in the event loop that made it when the lease ran out, because the process stood still or the
    ledger was away; the log says which.

    The thread renews it only while the loop goes round: a loop that stands still wakes nobody, and what is parked in it
    has to be woken elsewhere. ``limited``: whether the host has a limit, which other hosts see by the lease's name.
    """

    def __init__(self, address: str, holder: str, *, lost: Callable[[], None], limited: bool = True) -> None:
        self.id = address
        # Hosts of two machines may have one loopback address.
        self._name = f"{LEASES}{address}/{uuid4().hex[:8]}{'' if limited else NO_LIMIT}"
        self._holder, self._lost = holder, lost
        self._loop = asyncio.get_running_loop()
        self._beat = monotonic()
        self.renewed: float | None = None
        self._failed: float | None = None  # when the ledger could last not be used
        self._why = ""  # it was lost

    async def beats(self) -> None:
        """Run in the host's event loop, until cancelled."""
        while True:
            self._beat = monotonic()
            await asyncio.sleep(BEAT_SECONDS)

    async def renew(self, ledger: Ledger) -> bool:
        before, now, length = self.renewed, monotonic(), settings.LEASE.total_seconds()
        if now - self._beat > length:
            return True  # lost when the loop goes round again, and can do something about it
        try:
            taken = await ledger.leases.take(self._name, self._holder, settings.LEASE)
        except LedgerUnavailable:
            self._failed = monotonic()
            raise
        if not taken:
            self._why = "another has it"
            return False
        self.renewed = monotonic()
        silent = 0.0 if before is None else now - before
        # Who stands still does not ask: what the ledger said before that was not the cause.
        tried = self._failed is not None and now - self._failed < length
        cause = "the ledger could not be used" if tried else "the host stood still"
        self._why = f"{cause}, and for {silent:.0f} s it was not renewed"
        return silent < length

    @property
    def alive(self) -> bool:
        return self.renewed is not None and monotonic() - self.renewed < settings.LEASE.total_seconds()

    def fence(self) -> None:
        log.warning("The host's lease ran out: %s. Others may have taken what was parked in it.", self._why)
        self._loop.call_soon_threadsafe(self._lost)

    async def give_up(self, ledger: Ledger) -> None:
        with suppress(LedgerUnavailable):
            await ledger.leases.give_up(self._name, self._holder)
