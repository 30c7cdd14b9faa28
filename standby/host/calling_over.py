"""Takes up what is warm in another host of the pool, has its answer and no slot there, while there is a slot here.

Only what can begin here is called over, and only while Prefect can be asked: the host that has it goes on without. To
see whether it can, code may have to be loaded, which takes its time: the host goes on looking meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from json import JSONDecodeError
from typing import TYPE_CHECKING

import httpx
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import PrefectHTTPStatusError

from standby import clock, settings
from standby.errors import CodeNotLoaded, LedgerUnavailable, UsageError
from standby.host.ends import is_over
from standby.projection import UNREAD, runs_of

if TYPE_CHECKING:
    from standby.host.host import Host

log = logging.getLogger("standby.host")


class CallingOver:
    def __init__(self, host: Host) -> None:
        self._host = host
        self._task: asyncio.Task[None] | None = None
        self._said = ""  # of which run and error the log has said last that it is not called over

    @property
    def under_way(self) -> bool:
        return self._task is not None and not self._task.done()

    def begin(self) -> None:
        """Call over as many as there are free slots, unless that is still under way."""
        if not self.under_way and self._may():
            self._task = self._host.start(self._call_over())

    async def end(self) -> None:
        """The host ends: nothing more comes to it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _may(self) -> bool:
        host = self._host
        if host.bound or not host.open or host.following.is_late or host.intake.is_aside:
            return False
        return host.slots.free > 0

    async def _call_over(self) -> None:
        host, hosted, since = self._host, self._host.ledger.hosted, clock.utcnow() - settings.ELSEWHERE
        try:
            waiting = dict(await hosted.waiting_elsewhere(host.deployments, host.holder, since, host.slots.free))
            flow_runs = await runs_of(host.plain, list(waiting))
            for run_id, attempt in waiting.items():
                if run_id not in flow_runs or not await self._can_begin(flow_runs[run_id]):
                    continue
                if not self._may():  # any more: it took its time to see that
                    return
                if await hosted.call_over(run_id, attempt, f"{host.address}#{run_id}"):
                    log.info("Run %s has its answer and no slot in the host that had it warm: it goes on here.", run_id)
                    host.intake.want([run_id])
        except LedgerUnavailable as error:
            log.warning("%s", error)
        except UNREAD as error:
            log.debug("What waits for a slot elsewhere is left there, for Prefect cannot be asked: %s", error)

    async def _can_begin(self, flow_run: FlowRun) -> bool:
        """Raises what Prefect raises that cannot be asked."""
        try:
            return not is_over(flow_run.state) and (await self._host.placing.of(flow_run)).flow is not None
        except (UsageError, CodeNotLoaded) as error:
            log.debug("Run %s waits for a slot elsewhere, and cannot begin here: %s", flow_run.id, error)
        except (httpx.HTTPError, PrefectHTTPStatusError, JSONDecodeError):
            raise
        except Exception as error:  # of this run alone
            if (said := f"{flow_run.id} {error!r}") != self._said:
                self._said = said
                why = "Run %s waits on for a slot elsewhere: whether it can begin here is unknown."
                log.exception(why, flow_run.id)
        return False
