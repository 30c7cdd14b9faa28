"""An attempt takes its run, and lets it go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from datetime import datetime

from standby import holder, settings
from standby.checkpoints import CheckpointStore, shared_ledger
from standby.errors import LedgerUnavailable, StandbyError
from standby.hosting import current_hosting
from standby.interrupts import noticed
from standby.ledger.runs import Claim
from standby.pulse import pulse
from standby.runs import AgentRun, current_run
from standby.states import Hold, RunState
from standby.stops import Fenced

log = logging.getLogger("standby.runs")


class Ended(Exception):
    """The run has completed before; its result is here, and nothing is to be done."""

    def __init__(self, result: str | None) -> None:
        super().__init__("The run has completed.")
        self.result = result


class WasCancelled(Exception):
    """The run was cancelled before, and nobody has retried it: Prefect is to show that, and nothing is to be done."""

    def __init__(self, run_id: str, error: str | None) -> None:
        super().__init__(f"Run {run_id} was cancelled, and was not retried since: {error}")


class HasFailed(StandbyError):
    """The run has failed before, and nobody has retried it."""

    def __init__(self, run_id: str, error: str | None) -> None:
        super().__init__(f"Run {run_id} has failed, and was not retried since: {error}")


@asynccontextmanager
async def attach(
    run_id: str,
    *,
    flow: str,
    name: str,
    deployment_id: str | None,
    hold: Hold,
    store: CheckpointStore,
    is_retry: Callable[[Claim], Awaitable[bool]],
) -> AsyncIterator[AgentRun]:
    """Take the run for a new attempt and read its journal. Raises ``Ended``, ``WasCancelled``, ``HasFailed`` or
    ``Fenced``.

    A run that has failed or was cancelled is taken only if ``is_retry`` says that it was started again after that.
    This attempt may also have been started before, and come late: two are, when a worker is so slow that the keeper
    took it for dead.

    While another attempt holds the run this waits for at most one lease: it ends, it dies, or it is alive and this
    attempt gives way (``Fenced``).
    """
    url = store.resolved_url()
    async with shared_ledger(url) as ledger:
        me = holder.this_process()
        dead: str | None = None
        retried: datetime | None = None
        give_way = asyncio.get_running_loop().time() + settings.LEASE.total_seconds() + 1
        hosting = current_hosting.get()
        given = hosting.claimed if hosting is not None else None
        while True:
            claim = given or await ledger.runs.claim(
                run_id, flow=flow, name=name, deployment_id=deployment_id, holder=me, lease=settings.LEASE,
                presumed_dead=dead, retried=retried,
            )  # fmt: skip
            if claim.was is RunState.COMPLETED:
                raise Ended(claim.result)
            if claim.attempt:
                break
            if claim.ended_at is not None:
                if not await is_retry(claim):
                    if claim.was is RunState.CANCELLED:
                        raise WasCancelled(run_id, claim.error)
                    raise HasFailed(run_id, claim.error)
                retried = claim.ended_at
                continue
            assert claim.holder is not None
            if holder.is_dead(claim.holder):
                dead = claim.holder
                continue
            if asyncio.get_running_loop().time() > give_way:
                log.info("Run %s is being worked on by %s; this attempt gives way.", run_id, claim.holder)
                raise Fenced(run_id, 0)
            await asyncio.sleep(0.5)
        journal = await ledger.checkpoints.journal(run_id)
        run = AgentRun(run_id, claim.attempt, hold, ledger, store, journal, sure_at=claim.asked_at)
        if hosting is not None:
            run.hosting = hosting
            hosting.begins(run)
        with ExitStack() as stack:
            if hosting is None:
                run.ending = stack.enter_context(noticed())
            token = current_run.set(run)
            stack.enter_context(pulse.holding(url, run))
            try:
                yield run
            finally:
                current_run.reset(token)


async def release_quietly(run: AgentRun) -> None:
    """Let the lease go as the attempt ends without result; the keeper finds it by its lease if even that fails."""
    try:
        await run.ledger.runs.release(run.id, run.attempt)
    except LedgerUnavailable as error:
        log.warning("%s", error)
