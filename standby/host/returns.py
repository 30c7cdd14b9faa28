"""Giving runs back: what this host has begun, or was to begin, and does not go on with is taken up by another."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import httpx
from prefect.exceptions import PrefectHTTPStatusError

from standby.errors import LedgerUnavailable
from standby.parking import wake
from standby.runs import AgentRun

if TYPE_CHECKING:
    from standby.host.host import Host

log = logging.getLogger("standby.host")


class Returns:
    def __init__(self, host: Host) -> None:
        self._host = host
        self._context = contextvars.copy_context()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin with it; a host that ends waits for it (``made``)."""
        task = asyncio.get_running_loop().create_task(work, context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def made(self) -> None:
        """Return when all are. Who waits no longer ends none of them: a thread may be done a moment later."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def give_up(self, run_id: str) -> None:
        """Have a run that Prefect has given to this host, and that has not reached the ledger, given to another."""
        try:
            await wake(self._host.plain, run_id, presumed_dead=True)
        except (httpx.HTTPError, PrefectHTTPStatusError) as error:
            log.warning("Run %s is woken by the keeper: %s", run_id, error)

    async def give_back(self, run_id: str, attempt: int, run: AgentRun | None = None, *, begun: bool = True) -> None:
        """Have the run taken up by whoever Prefect gives it to, unless a thread of ``run`` acts on for it here.

        ``begun``: an attempt has begun here. If none has, whoever Prefect shows at work on the run is another: a
        process that was started for it and takes its time to its first line. If that one is dead the keeper sees it.
        """
        try:
            if run is not None:
                await run.threads.none()
            if await self._host.ledger.hosted.give_back(run_id, attempt, self._host.holder):
                await wake(self._host.plain, run_id, presumed_dead=begun)
        except (LedgerUnavailable, httpx.HTTPError, PrefectHTTPStatusError) as error:
            log.warning("Run %s is woken by the keeper: %s", run_id, error)
