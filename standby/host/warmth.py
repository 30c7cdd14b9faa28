"""What a host keeps warm: how long each run lingers, which goes first when memory is short, and what it costs."""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import psutil

from standby import settings
from standby.branches import apart
from standby.errors import LedgerUnavailable, UsageError
from standby.hold import Asked, Costs, Warm, evict, linger
from standby.hosting import Woken
from standby.ledger import Ledger
from standby.outlook import Outlook
from standby.outlooks import Outlooks

if TYPE_CHECKING:
    from standby.host.guest import Guest

log = logging.getLogger("standby.host")

GIB_PER_RUN = 64 / 1024**2
"""What a run that is parked warm holds of memory, in GiB, beside what its own code holds."""

COLD_SECONDS, COLD_CPU_SECONDS = 0.15, 0.05
"""What a cold wake takes longer than a warm one, and how much of a processor."""

BILL_SECONDS = 1.0
"""How long a bill waits before it is written down: SQLite has one writer, and the run that wakes comes first."""

CLOSE_SECONDS = 5.0
"""How long writing what is left to write down may take when the host ends."""

CHECK_SECONDS = 1.0
"""How often the host looks at its memory."""


def memory_limit() -> int:
    """Bytes that the host may have in memory before runs that linger are let go: ``STANDBY_HOST_MEMORY`` in MiB, by
    default half of the machine's. Raises ``UsageError`` for what is no number above 0."""
    told = os.environ.get("STANDBY_HOST_MEMORY")
    if not told:
        return psutil.virtual_memory().total // 2
    try:
        if (mebibytes := float(told)) > 0:
            return int(mebibytes * 2**20)
    except (ValueError, OverflowError):
        pass
    raise UsageError(f"STANDBY_HOST_MEMORY is how many MiB a host may hold, not {told!r}.")


class Held(NamedTuple):
    """Since when a run lingers, what is expected of its wait, and how long that had lasted by then."""

    since: float
    outlook: Outlook
    waited: float


class Warmth:
    """``guests``: the attempts that linger."""

    def __init__(self, ledger: Ledger, guests: Callable[[], Iterable[Guest]]) -> None:
        self._ledger, self._guests = ledger, guests
        self._costs = Costs.of(
            settings.prices(), gib=GIB_PER_RUN, cold_seconds=COLD_SECONDS, cold_cpu_seconds=COLD_CPU_SECONDS
        )
        self._outlooks = Outlooks(ledger, self._costs.break_even)
        self._process = psutil.Process()
        self.limit = memory_limit()
        self.held: WeakKeyDictionary[Guest, Held] = WeakKeyDictionary()  # some never come to a bill
        self._bills: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()

    async def linger_seconds(self, guest: Guest, waits: list[Any]) -> float | None:
        """How long the run lingers for these waits (ledger rows): 0 not at all, None for ever."""
        assert guest.run is not None
        asked = Asked.read(waits[0].hold)
        outlook, waited = await self._outlooks.of(guest.flow.name, waits)
        seconds = linger(outlook, self._costs, waited=waited, asked=asked)
        if seconds > 0:
            self.held[guest] = Held(monotonic(), outlook, waited)
        return None if math.isinf(seconds) else seconds

    def bill(self, guest: Guest, key: str, *, let_go: bool) -> None:
        """Write down what the run has held for the group ``key``."""
        run_id, name = guest.id, guest.name
        gib_seconds = GIB_PER_RUN * (monotonic() - self.held.pop(guest).since)
        let_go = let_go and not guest.cancelled  # which ends the wait, too

        async def write() -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(BILL_SECONDS):
                    await self._closing.wait()
            try:
                await self._ledger.holds.bill(run_id, key, gib_seconds, let_go=let_go)
            except LedgerUnavailable as error:  # a bill that is not written fails no run
                log.info("What run %s has held is not written down: %s", name, error)

        task = asyncio.create_task(write(), context=apart())
        self._bills.add(task)
        task.add_done_callback(self._bills.discard)

    async def watch(self) -> None:
        """Let runs go, for ever, when the host holds more than it may: the longest expected wait first."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self.make_room(self._process.memory_info().rss - self.limit)

    def make_room(self, over: int) -> int:
        """Let runs go so that this many bytes are freed; how many go."""
        if over <= 0:
            return 0
        now = monotonic()
        warm = {guest.id: guest for guest in self._guests()}
        lingering = [
            Warm(run_id, held.outlook, held.waited + now - held.since, GIB_PER_RUN)
            for run_id, guest in warm.items()
            if (held := self.held.get(guest)) is not None
        ]
        going = evict(lingering, over / 2**30)
        for run_id in going:
            warm[run_id].nudge(Woken.EVICTED)
        if going:
            log.info("%s runs are let go: the host holds %s MiB more than it may.", len(going), over // 2**20)
        return len(going)

    async def close(self) -> None:
        self._closing.set()
        if self._bills:
            _, late = await asyncio.wait(self._bills, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
