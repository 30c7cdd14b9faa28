"""A host's lease in the ledger, which stands for all that is parked warm in it. Kept by the pulse's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from standby import settings
from standby.errors import LedgerUnavailable
from standby.ledger import Ledger
from standby.ledger.hosted import LEASES


class HostLease:
    """``lost`` is called in the event loop that made it when the lease ran out, because the process stood still."""

    def __init__(self, address: str, holder: str, *, lost: Callable[[], None]) -> None:
        self.id, self.attempt, self.lingering = address, 0, False
        self._name, self._holder, self._lost = f"{LEASES}{address}", holder, lost
        self._loop = asyncio.get_running_loop()
        self.renewed: float | None = None

    async def renew(self, ledger: Ledger) -> bool:
        before, now = self.renewed, monotonic()
        await ledger.leases.take(self._name, self._holder, settings.LEASE)
        self.renewed = monotonic()
        return before is None or now - before < settings.LEASE.total_seconds()

    @property
    def alive(self) -> bool:
        return self.renewed is not None and monotonic() - self.renewed < settings.LEASE.total_seconds()

    def fence(self) -> None:
        self._loop.call_soon_threadsafe(self._lost)

    async def give_up(self, ledger: Ledger) -> None:
        with suppress(LedgerUnavailable):
            await ledger.leases.give_up(self._name, self._holder)
