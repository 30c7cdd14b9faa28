"""Takes signals in for the gateway's requests, and wakes the runs they are for after they were answered.

A request is answered when the ledger has its signal. Prefect, which takes longer, is told in the background; what is
not done there (it is away, too much is to do, the gateway dies) the keeper does.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import PrefectHTTPStatusError

from standby import doors
from standby.gateway.refusals import Refused
from standby.ledger import Ledger
from standby.ledger.signals import Delivery
from standby.parking import wake
from standby.states import Disposition
from standby.wakeups import call

log = logging.getLogger("standby.gateway")

AT_ONCE = 4
"""Wakes at the same time: a Prefect server on SQLite has one writer."""

MOST = 1_000
"""Wakes that may wait for their turn. It takes Prefect half a minute to do as many."""

PATIENCE_SECONDS = 5.0
"""How long a gateway that is told to stop goes on with the wakes it owes."""

SENT_AGAIN = (
    "This delivery was refused before, for what its payload was then, and what is sent under its id now was not looked "
    "at. Send it under a new delivery id."
)


class Reception:
    """``client`` is an open client of the Prefect server, or None where none is known."""

    def __init__(self, ledger: Ledger, client: PrefectClient | None) -> None:
        self._ledger, self._client = ledger, client
        self._room = asyncio.Semaphore(AT_ONCE)
        self._waking: set[asyncio.Task[None]] = set()

    async def take(self, **signal: Any) -> Delivery:
        """``doors.take`` for a request. Raises ``Refused`` for a payload that does not fit."""
        made = await doors.take(self._ledger, client=self._client, **signal)
        not_started = made.start is not None and made.start.run_id is None
        if not_started and Disposition.REJECTED in (made.disposition, made.first):
            raise Refused(422, "The run that it was to start cannot be started.", made.problems)
        if made.first is Disposition.REJECTED:
            raise Refused(422, SENT_AGAIN, made.problems)
        if made.disposition is Disposition.REJECTED:
            raise Refused(422, "The payload does not fit; the run is still waiting.", made.problems)
        if made.wake and made.run_id is not None:
            self._wake(made.run_id, made.wake_address)
        return await doors.start_run(self._ledger, made, self._client)

    def _wake(self, run_id: str, wake_address: str | None) -> None:
        if wake_address is not None and call(wake_address):
            return
        if self._client is not None and len(self._waking) < MOST:
            task = asyncio.create_task(self._in_prefect(self._client, run_id))
            self._waking.add(task)
            task.add_done_callback(self._waking.discard)

    async def _in_prefect(self, client: PrefectClient, run_id: str) -> None:
        async with self._room:
            try:
                await wake(client, run_id)
            except (httpx.HTTPError, PrefectHTTPStatusError, RuntimeError) as error:
                log.warning("Run %s could not be woken now, the keeper will: %s", run_id, error)

    async def close(self) -> None:
        if self._waking:
            await asyncio.wait(self._waking, timeout=PATIENCE_SECONDS)
        left = list(self._waking)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
