"""Keeps the leases of the attempts in this process, from a thread of its own.

A thread, so that an agent which blocks the event loop does not lose its run. It lives while there is an attempt.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from standby import clock, settings
from standby.ledger import Ledger

log = logging.getLogger("standby.pulse")

TOGETHER = 500
"""How many runs' leases are renewed by one statement."""


class Held(Protocol):
    """An attempt whose lease is kept. ``fence`` is called in the pulse's thread when the run is another attempt's.

    While it is ``lingering`` it has none: its host's stands for it. Its number changes when it goes on. ``sure_at`` is
    when its lease was last asked for and given.
    """

    id: str
    attempt: int
    lingering: bool
    sure_at: float

    def fence(self) -> None: ...


class Kept(Protocol):
    """Another lease, which is renewed by itself. ``fence`` is called in the pulse's thread when it was lost."""

    id: str

    async def renew(self, ledger: Ledger) -> bool:
        """Renew the lease. False when it was lost meanwhile."""

    def fence(self) -> None: ...


class Pulse:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[int, tuple[str, Held]] = {}
        self._of_run: dict[str, list[Held]] = {}  # the same by run: two, while one attempt takes over from another
        self._kept: dict[int, tuple[str, Kept]] = {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def holding(self, ledger_url: str, run: Held) -> Iterator[None]:
        """Renew the run's lease, every ``RENEW_EVERY``, until the block ends."""
        run_id = run.id
        with self._among(self._held, ledger_url, run):
            with self._lock:
                self._of_run.setdefault(run_id, []).append(run)
            try:
                yield
            finally:
                with self._lock:
                    left = [one for one in self._of_run.pop(run_id) if one is not run]
                    if left:
                        self._of_run[run_id] = left

    def holds(self, run_id: str, attempt: int | None = None) -> bool:
        """Whether an attempt at this run, or this one, is at work in this process."""
        with self._lock:  # by an index: a keeper asks for each run, of a process that has thousands
            return any(attempt in (None, run.attempt) for run in self._of_run.get(run_id, ()))

    @contextmanager
    def keeping(self, ledger_url: str, lease: Kept) -> Iterator[None]:
        """Renew the lease, every ``RENEW_EVERY``, until the block ends."""
        with self._among(self._kept, ledger_url, lease):
            yield

    @contextmanager
    def _among(self, all_of_them: dict[int, Any], ledger_url: str, one: Any) -> Iterator[None]:
        with self._lock:
            all_of_them[id(one)] = (ledger_url, one)
            if self._thread is None or not self._thread.is_alive():
                self._wake.clear()
                self._thread = threading.Thread(target=self._beat, name="standby-pulse", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                del all_of_them[id(one)]
                if not self._held and not self._kept:
                    self._wake.set()

    def _beat(self) -> None:
        with asyncio.Runner() as runner:
            ledgers: dict[str, Ledger] = {}
            try:
                while True:
                    self._wake.wait(settings.RENEW_EVERY.total_seconds())
                    with self._lock:
                        held, kept = list(self._held.values()), list(self._kept.values())
                        if not held and not kept:
                            self._thread = None
                            return
                        self._wake.clear()
                    runner.run(self._renew_all(ledgers, held, kept))
            finally:
                for ledger in ledgers.values():
                    runner.run(ledger.close())

    async def _renew_all(
        self, ledgers: dict[str, Ledger], held: list[tuple[str, Held]], kept: list[tuple[str, Kept]]
    ) -> None:
        for url, lease in kept:
            with _survived(lease.id):
                if not await lease.renew(await _ledger(ledgers, url)):
                    lease.fence()
        by_ledger: dict[str, list[Held]] = {}
        for url, run in held:
            by_ledger.setdefault(url, []).append(run)
        for url, runs in by_ledger.items():
            for first in range(0, len(runs), TOGETHER):
                some = runs[first : first + TOGETHER]
                with _survived(", ".join(run.id for run in some)):
                    await self._renew(await _ledger(ledgers, url), some)

    async def _renew(self, ledger: Ledger, runs: Sequence[Held]) -> None:
        holding = [(run, run.attempt) for run in runs if not run.lingering]
        if not holding:
            return
        asked_at = clock.elapsed()
        now = await ledger.runs.renew_all({(run.id, attempt) for run, attempt in holding}, settings.LEASE)
        for run, attempt in holding:
            if now.get(run.id) == attempt:
                run.sure_at = max(run.sure_at, asked_at)
                continue
            with self._lock:
                still_held = id(run) in self._held
            if still_held and run.attempt == attempt and not run.lingering:
                run.fence()


async def _ledger(ledgers: dict[str, Ledger], url: str) -> Ledger:
    if url not in ledgers:
        ledgers[url] = await Ledger.connect(url)
    return ledgers[url]


@contextmanager
def _survived(what: str) -> Iterator[None]:
    """Whatever fails for one must not end the thread, which keeps the leases of all."""
    try:
        yield
    except Exception as error:
        # The lease may run out. That is safe: every write checks the attempt number.
        log.warning("The lease of %s could not be renewed: %s: %s", what, type(error).__name__, error)


pulse = Pulse()
"""The pulse of this process."""
