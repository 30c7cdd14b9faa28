"""Parking warm: the run is parked like any other, and its coroutine stays in the host's memory for a while.

The ledger has the run parked before Prefect hears of it, and running again before Prefect hears of that: Prefect
follows. To everybody else a run that is parked warm is a parked run. Whoever claims it first goes on with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from prefect.exceptions import Pause

from standby import clock, holder, settings
from standby.errors import LedgerUnavailable, UsageError
from standby.faults import reach
from standby.hosting import Hosting, Woken
from standby.ledger.opening import Group
from standby.parking.suspending import suspend, tell_log
from standby.runs import AgentRun
from standby.states import Hold, RunState

log = logging.getLogger("standby.parking")

LEDGER_AWAY_SECONDS = 0.5
"""How long an attempt that lingers waits before it asks a ledger again that could not be reached."""

SAID_EVERY_SECONDS = 30.0
"""How often its log says so."""


async def linger(run: AgentRun, hosting: Hosting, key: str, group: Group) -> tuple[bool, Group]:
    """Park warm, and return when the run goes on here: whether it was resumed in Prefect, where an answer may be, and
    the group as it is then.

    Raises ``Pause`` when it does not stay in memory any longer, and ``Fenced`` when the run is another's.
    """
    seconds = await hosting.linger_seconds(group.waits)
    if seconds is not None and seconds <= 0:
        await suspend(run, key, group)
    tell_log(group)
    parked = await run.ledger.runs.park(run.id, run.attempt, key, Hold.WARM, hosting.address)
    if parked is None:
        run.stop()
    run.lingering = True
    reach("wait.parked")
    hosting.parks(group)
    del group
    let_go = True
    try:
        if parked is RunState.READY:
            woken = Woken.SETTLED
            await hosting.enters()
        else:
            woken = await hosting.until_woken(seconds)
        while True:
            attempt, called, group = await _goes_on(run, hosting, key, woken)
            if attempt:
                let_go = False
                break
            if woken is Woken.EVICTED:
                seconds = 0  # it was called while it was about to go, for nothing
            hosting.lingers_on()
            woken = await hosting.until_woken(seconds)
    except UsageError:
        # Prefect will not have it suspended, and the agent is told so.
        let_go = False
        run.attempt = (
            await run.ledger.hosted.claim_warm(run.id, run.attempt, holder.this_process(), settings.LEASE, stray=True)
            or run.attempt
        )
        raise
    finally:
        run.lingering = False
        hosting.bill(key, let_go=let_go)
    run.attempt = attempt
    reach("wait.woken")
    hosting.goes_on()
    return called is Woken.RESUMED, group


async def _goes_on(run: AgentRun, hosting: Hosting, key: str, woken: Woken) -> tuple[int, Woken, Group]:
    """The number of the attempt that goes on, what it was called for, and the group; 0 when it lingers on."""
    said_at: float | None = None
    attempt: int | None = 0
    while True:
        try:
            if attempt:
                return attempt, woken, await run.ledger.waits.group(run.id, key)
            run.sure_at = clock.elapsed()
            if woken is Woken.EVICTED:
                state = await hosting.shown()
                if isinstance(state, Woken):
                    woken = state
                elif await run.ledger.hosted.evict(run.id, run.attempt, hosting.cold_address):
                    raise run.must_stop(Pause(state=state))
                else:
                    woken = Woken.SETTLED  # it is READY
                await hosting.enters()
            stray = woken is Woken.RESUMED
            if stray and not await hosting.is_resumed():
                return 0, woken, Group(False, [])
            # Both at once: where the run has its answer, nobody but the run changes the group.
            attempt, group = await _both(
                run.ledger.hosted.claim_warm(run.id, run.attempt, holder.this_process(), settings.LEASE, stray=stray),
                run.ledger.waits.group(run.id, key),
            )
        except LedgerUnavailable as error:
            if said_at is None or clock.elapsed() - said_at >= SAID_EVERY_SECONDS:
                log.warning("Run %s lingers on: %s", run.id, error)
                said_at = clock.elapsed()
            await asyncio.sleep(LEDGER_AWAY_SECONDS)
            continue
        if attempt is None:
            run.stop()
        if not attempt:
            return 0, woken, Group(False, [])
        if group is not None and group.ready:
            return attempt, woken, group


async def _both(
    claim: Coroutine[Any, Any, int | None], read: Coroutine[Any, Any, Group]
) -> tuple[int | None, Group | None]:
    """A claim that was made counts, also where the read beside it fails (None)."""
    claimed, group = await asyncio.gather(claim, read, return_exceptions=True)
    if isinstance(claimed, BaseException):
        raise claimed
    if isinstance(group, LedgerUnavailable):
        return claimed, None
    if isinstance(group, BaseException):
        raise group
    return claimed, group
