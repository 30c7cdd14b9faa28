"""Wakes runs through Prefect, one call after the other and the longest ready first, beside the keeper's other duties.

Prefect takes some thirty wakes a second, whoever asks: when thousands of runs become ready at once they queue here,
while deadlines go on firing. Nothing is lost with the queue: the keeper finds in the ledger who is ready.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import PrefectHTTPStatusError

log = logging.getLogger("standby.waker")


class Waker:
    """``client`` opens a Prefect client, ``wake`` wakes one run with it (``parking.wake``)."""

    def __init__(
        self,
        client: Callable[[], AbstractAsyncContextManager[PrefectClient]],
        wake: Callable[..., Awaitable[object]],
    ) -> None:
        self._client, self._wake = client, wake
        self._queue: dict[str, bool] = {}  # run id: presumed dead
        self._now: str | None = None  # who is being woken
        self._work: asyncio.Task[None] | None = None

    def __contains__(self, run_id: str) -> bool:
        return run_id == self._now or run_id in self._queue

    def add(self, run_id: str, *, presumed_dead: bool = False) -> None:
        """Have the run woken, after those that were added before; ``presumed_dead`` as ``parking.wake`` takes it."""
        self._queue[run_id] = presumed_dead or self._queue.get(run_id, False)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._until_empty(), name="standby-waker")

    async def finish(self) -> None:
        """Return when all that were added are awake, or could not be woken now."""
        if self._work is not None:
            await self._work

    def forget(self) -> None:
        """Wake nobody else: another keeper does."""
        self._queue.clear()

    async def close(self) -> None:
        self.forget()
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)

    async def _until_empty(self) -> None:
        try:
            while self._queue:  # also what is added while the client is being closed
                async with self._client() as client:
                    while self._queue:
                        self._now = next(iter(self._queue))
                        await self._one(client, self._now, presumed_dead=self._queue.pop(self._now))
                    self._now = None
        except (httpx.HTTPError, OSError) as error:  # Prefect does not answer, to nobody
            log.warning("Runs cannot be woken now and are later: %s: %s", type(error).__name__, error)
            self._queue.clear()
        except Exception:
            log.exception("Runs could not be woken now and are later.")
            self._queue.clear()
        finally:
            self._now = None

    async def _one(self, client: PrefectClient, run_id: str, *, presumed_dead: bool) -> None:
        try:
            await self._wake(client, run_id, presumed_dead=presumed_dead)
        except PrefectHTTPStatusError as error:
            log.warning("Run %s cannot be woken now and is later: %s", run_id, error)
        except (httpx.HTTPError, OSError):
            raise
        except Exception:  # of this run alone
            log.exception("Run %s could not be woken now and is later.", run_id)
