"""The auditor: looks for what must never be in the ledger, and for where the ledger and Prefect disagree."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterTags,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.sorting import FlowRunSort

from standby import clock, settings
from standby.confirming import SHOWN_AS, TO_BE_SHOWN
from standby.connect import ASK_SECONDS, is_slow
from standby.ledger import Ledger
from standby.parking import retried_since
from standby.projection import states_of
from standby.reconciling import ENDED_IN_PREFECT
from standby.states import ENDED, RunState
from standby.values import one_line

LATE = timedelta(seconds=60)
"""What the keeper has not done by then is a finding."""

LATELY = timedelta(days=1)
"""About a run that ended before this, and that Prefect was seen to show so, it is asked only on demand: of those there
are ever more."""

REMEDY = "Was it deleted there? `standby cancel RUN` ends it. Is this another server? Correct PREFECT_API_URL."

OTHER_END = (
    "Do a keeper (`standby up` or `standby keeper`) and a worker on its work pool run? Then set it in Prefect to the "
    "state that it has in the ledger."
)

MANY_CRASHES = 3
"""A start that has failed so often is a finding, though it is tried again."""

MANY_FAILED_POLLS = 3
"""A source of a condition that has failed so often, one after the other, is a finding, though it is asked again."""


class Finding(NamedTuple):
    """One thing that is wrong: the run it concerns (or None), what it is, and what to do."""

    run_id: str | None
    problem: str
    remedy: str


async def _away(client: PrefectClient) -> object | None:
    """Why Prefect cannot be asked; None if it can."""
    try:
        async with asyncio.timeout(ASK_SECONDS):
            return await client.api_healthcheck()
    except TimeoutError as error:
        return error


async def audit(ledger: Ledger, client: PrefectClient | None = None, *, all_ends: bool = False) -> list[Finding]:
    """All findings; empty when all is well. Without a client Prefect is not compared. ``all_ends``: Prefect is asked
    about all runs that have ended, not only about those it has not been seen to know of, and those of the last day."""
    runs = {run.id: run for run in await ledger.runs.all(ended=True)}
    waits = await ledger.waits.open_ones()
    findings = [
        *_about_runs(runs, waits),
        *_about_waits(runs, waits),
        *await _about_decisions(ledger),
        *await _about_starts(ledger),
    ]
    if client is not None:
        away = await _away(client)
        if away is None:
            findings += await _about_prefect(client, runs)
            since = None if all_ends else clock.utcnow() - LATELY
            findings += await _about_ends(client, runs, since)
            findings += await _about_starting(client, runs)
        elif await is_slow(str(client.api_url), away):
            findings.append(Finding(None, f"Prefect at {client.api_url} does not answer in time", "Try again."))
        else:
            why = str(away) or "it does not answer"
            findings.append(Finding(None, f"Prefect at {client.api_url} cannot be reached: {why}", "Start it."))
    return findings


def _about_runs(runs: dict[str, Any], waits: list[Any]) -> list[Finding]:
    now = clock.utcnow()
    groups: dict[str, set[str]] = defaultdict(set)
    for wait in waits:
        groups[wait.run_id].add(wait.group_key)
    found = []
    for run in runs.values():
        opened = groups.get(run.id, set())
        if run.state == RunState.PARKED and len(opened) != 1:
            what = f"is parked with {len(opened)} open waits {sorted(opened)}, not one"
            found.append(Finding(run.id, what, "Resume it in Prefect: it replays and opens the wait it stands at."))
        if run.state == RunState.RUNNING and (run.holder is None or run.lease_expires_at < now - LATE):
            local = run.deployment_id is None
            remedy = "Run the same command again." if local else "Start a keeper (`standby up` or `standby keeper`)."
            found.append(Finding(run.id, "is running, but its process is gone", remedy))
        if run.state == RunState.READY and run.holder is None and run.ready_at < now - LATE:
            what = "has its answer and nobody has taken it up"
            found.append(Finding(run.id, what, "Is a worker running on its work pool? `prefect worker start -p POOL`."))
    return found


def _about_waits(runs: dict[str, Any], waits: list[Any]) -> list[Finding]:
    now = clock.utcnow()
    found = []
    for wait in waits:
        run = runs.get(wait.run_id)
        if run is None or RunState(run.state) in ENDED:
            found.append(Finding(wait.run_id, f"has ended with wait {wait.id} open", "Report this as a bug."))
        if wait.deadline is not None and wait.deadline < now - LATE:
            what = f"wait {wait.id} is overdue since {wait.deadline.isoformat(timespec='seconds')}"
            found.append(Finding(wait.run_id, what, "Start a keeper (`standby up` or `standby keeper`)."))
        if wait.poll is not None and (failed := json.loads(wait.poll).get("failed", 0)) >= MANY_FAILED_POLLS:
            what = (
                f"waits for {wait.reason}, whose source failed at its last {failed} polls: {one_line(wait.poll_note)}"
            )
            found.append(Finding(wait.run_id, what, "Until it is mended, only the signal can say so."))
    return found


async def _about_decisions(ledger: Ledger) -> list[Finding]:
    found = []
    for wait_id, run_id, count in await ledger.waits.decided_more_than_once():
        found.append(Finding(run_id, f"wait {wait_id} was decided {count} times", "Report this as a bug."))
    return found


async def _about_starts(ledger: Ledger) -> list[Finding]:
    return [
        Finding(
            None,
            f"The run of {start.deployment} that signal {start.signal_id} starts was not made"
            f" ({start.note or 'nobody tried'})",
            "Is there such a deployment, and does a keeper run?",
        )
        for start in await ledger.starts.unstarted(clock.utcnow() - LATE)
    ]


async def _about_prefect(client: PrefectClient, runs: dict[str, Any]) -> list[Finding]:
    now = clock.utcnow()
    living = [run for run in runs.values() if RunState(run.state) not in ENDED and run.deployment_id is not None]
    states = await states_of(client, (run.id for run in living))
    found = []
    for run in living:
        state = states.get(run.id)
        if state is None:
            found.append(Finding(run.id, "is in the ledger and not on the Prefect server", REMEDY))
        elif run.state == RunState.PARKED and state.type is not StateType.PAUSED and now - state.timestamp > LATE:
            what = f"is parked in the ledger and {state.name} in Prefect"
            found.append(Finding(run.id, what, "Is a worker running on its work pool? If so, report this."))
    return found


async def _about_ends(client: PrefectClient, runs: dict[str, Any], since: datetime | None) -> list[Finding]:
    """Runs that have ended, and that Prefect shows in another state; those that are gone there are not missed.
    ``since``: not those that had ended before, and that Prefect has been seen to know of."""
    late = clock.utcnow() - LATE
    asked = [run for run in runs.values() if run.deployment_id and RunState(run.state) in ENDED and run.ended_at < late]
    if since is not None:
        asked = [run for run in asked if not run.confirmed or run.ended_at > since]
    found = []
    for ended, shown_as in SHOWN_AS.items():
        ids = [run.id for run in asked if run.state == ended]
        for run_id, state in (
            await states_of(client, ids, [type_ for type_ in StateType if type_ != shown_as])
        ).items():
            if state.timestamp < late and not await _is_retried(client, runs[run_id], state):
                what = f"is {ended} in the ledger and {state.name} in Prefect"
                found.append(Finding(run_id, what, OTHER_END))
    return found


async def _is_retried(client: PrefectClient, run: Any, state: State[Any]) -> bool:
    """Whether somebody has had the run started again since it ended, and it is on its way: not the keeper, which has a
    completed one run again only to be shown so."""
    if state.type in ENDED_IN_PREFECT:
        return False
    return await retried_since(client, UUID(run.id), run.ended_after, run.ended_at, but=TO_BE_SHOWN)


async def _about_starting(client: PrefectClient, runs: dict[str, Any]) -> list[Finding]:
    """Runs that crash again and again before they come to their agent."""
    on_their_way = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.CRASHED]
    found = []
    for flow_run in await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=on_their_way))),
        deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=[settings.AGENT_TAG])),
        sort=FlowRunSort.START_TIME_DESC,
    ):
        if str(flow_run.id) in runs or flow_run.state is None or flow_run.state.name == "Scheduled":
            continue
        crashes = [s for s in await client.read_flow_run_states(flow_run.id) if s.type is StateType.CRASHED]
        if len(crashes) >= MANY_CRASHES:
            why = (crashes[-1].message or "no reason is known").rstrip(".")
            what = f"has not come to its first step in {len(crashes)} tries: {why}"
            found.append(Finding(str(flow_run.id), what, "Mend what keeps it from starting, or cancel it."))
    return found
