"""Keeps the leases of the attempts in this process, from a thread of its own.

A thread, so that an agent which blocks the event loop does not lose its run. It lives while there is an attempt.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from standby import settings
from standby.errors import StandbyError
from standby.ledger import Ledger

log = logging.getLogger("standby.pulse")


class Held(Protocol):
    """An attempt whose lease is kept. ``fence`` is called in the pulse's thread when the run is another attempt's.

    While it is ``lingering`` it has none: its host's stands for it. Its number changes when it goes on.
    """

    id: str
    attempt: int
    lingering: bool

    async def renew(self, ledger: Ledger) -> bool:
        """Renew the lease. False when the run is another attempt's."""

    def fence(self) -> None: ...


class Pulse:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[int, tuple[str, Held]] = {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def holding(self, ledger_url: str, run: Held) -> Iterator[None]:
        """Renew the run's lease, every ``RENEW_EVERY``, until the block ends."""
        with self._lock:
            self._held[id(run)] = (ledger_url, run)
            if self._thread is None:
                self._wake.clear()
                self._thread = threading.Thread(target=self._beat, name="standby-pulse", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                del self._held[id(run)]
                if not self._held:
                    self._wake.set()

    def _beat(self) -> None:
        with asyncio.Runner() as runner:
            ledgers: dict[str, Ledger] = {}
            try:
                while True:
                    self._wake.wait(settings.RENEW_EVERY.total_seconds())
                    with self._lock:
                        held = list(self._held.values())
                        if not held:
                            self._thread = None
                            return
                        self._wake.clear()
                    runner.run(self._renew(ledgers, held))
            finally:
                for ledger in ledgers.values():
                    runner.run(ledger.close())

    async def _renew(self, ledgers: dict[str, Ledger], held: list[tuple[str, Held]]) -> None:
        for url, run in held:
            try:
                if url not in ledgers:
                    ledgers[url] = await Ledger.connect(url)
                attempt = run.attempt
                if run.lingering or await run.renew(ledgers[url]):
                    continue
                with self._lock:
                    still_held = id(run) in self._held
                if still_held and run.attempt == attempt and not run.lingering:
                    run.fence()
            except StandbyError as error:
                # The lease may run out. That is safe: every write checks the attempt number.
                log.warning("The lease of run %s could not be renewed: %s", run.id, error)


pulse = Pulse()
"""The pulse of this process."""
