"""Runs that the ledger tells of (on PostgreSQL) because their wait has settled, and which nobody has woken.

Who settled the wait wakes the run as a rule, and has ``HEAD_START`` for that. Then one call to Prefect for all that
were heard of shows which are still asleep. What was not heard the keeper finds after ``settings.WAKE_GRACE``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from time import monotonic

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import StateType

from standby.ledger import Ledger
from standby.patience import Patience
from standby.projection import states_of
from standby.waker import Waker
from standby.wakeups import call

HEAD_START = 0.5
"""Seconds that who has settled a wait has to wake its run, before the keeper does."""

MOST = 10_000
"""Runs that are remembered between two looks; the keeper finds the others later."""


class Missed:
    def __init__(self, ledger: Ledger, patience: Patience, waker: Waker) -> None:
        self._ledger, self._patience, self._waker = ledger, patience, waker
        self._heard: dict[str, float] = {}  # run id: when its head start is over
        self._something = asyncio.Event()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        async with self._ledger.notifications.to(self._hear):
            yield

    def _hear(self, run_id: str | None) -> None:
        # None: what was told while the connection was away is lost; the next tick looks at the ledger anyway.
        if run_id is not None and len(self._heard) < MOST:
            self._heard.setdefault(run_id, monotonic() + HEAD_START)
            self._something.set()

    async def until_due(self, seconds: float) -> None:
        """Return when a head start is over, or after ``seconds``."""
        end = monotonic() + seconds
        while (left := min([end, *self._heard.values()]) - monotonic()) > 0:
            self._something.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._something.wait()

    def forget(self) -> None:
        """Another keeper is at work, and has heard the same."""
        self._heard.clear()

    async def wake_heard(self, client: PrefectClient) -> None:
        """Have the runs woken whose head start is over, and which are still asleep."""
        now = monotonic()
        due = [run_id for run_id, end in self._heard.items() if end <= now]
        if not due:
            return
        for run_id in due:
            del self._heard[run_id]
        ready = {
            run.id
            for run in await self._ledger.runs.still_ready(due)
            if run.deployment_id is not None
            and run.id not in self._waker
            # A host of this machine that listens takes it up.
            and (run.wake_address is None or not call(run.wake_address))
        }
        for run_id, state in (await states_of(client, ready)).items():
            if state.type in (StateType.PAUSED, StateType.CRASHED) and self._patience.allows(run_id):
                self._patience.tried(run_id)
                self._waker.add(run_id)
