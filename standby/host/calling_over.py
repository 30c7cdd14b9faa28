"""Takes up what is warm in another host of the pool, has its answer and no slot there, while there is a slot here.

Only what can begin here is called over, and only while Prefect can be asked: the host that has it goes on without.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from standby import clock, settings
from standby.errors import CodeNotLoaded, UsageError
from standby.host.ends import is_over
from standby.projection import UNREAD, runs_of

if TYPE_CHECKING:
    from standby.host.host import Host

log = logging.getLogger("standby.host")


async def call_over(host: Host) -> None:
    """Call over as many as there are free slots. Raises ``LedgerUnavailable``."""
    if host.bound or not host.open or host.following.is_late or host.intake.is_aside or host.slots.free <= 0:
        return
    since, hosted = clock.utcnow() - settings.ELSEWHERE, host.ledger.hosted
    waiting = dict(await hosted.waiting_elsewhere(host.deployments, host.holder, since, host.slots.free))
    async for run_id in _can_begin(host, list(waiting)):
        if await hosted.call_over(run_id, waiting[run_id], f"{host.address}#{run_id}"):
            log.info("Run %s has its answer and no slot in the host that had it warm: it goes on here.", run_id)
            host.intake.want([run_id])


async def _can_begin(host: Host, run_ids: list[str]) -> AsyncIterator[str]:
    try:
        flow_runs = await runs_of(host.plain, run_ids)
        for run_id in run_ids:
            flow_run = flow_runs.get(run_id)
            try:
                if flow_run is None or is_over(flow_run.state) or (await host.placing.of(flow_run)).flow is None:
                    continue
            except (UsageError, CodeNotLoaded) as error:
                log.debug("Run %s waits for a slot elsewhere, and cannot begin here: %s", run_id, error)
                continue
            yield run_id
    except UNREAD as error:
        log.debug("What waits for a slot elsewhere is left there, for Prefect cannot be asked: %s", error)
