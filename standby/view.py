"""What people and scripts are shown of runs and waits: plain dictionaries, the same for tables and ``--json``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from standby import clock
from standby.agents.transcript import read_threads
from standby.connect import Place
from standby.ledger import Ledger
from standby.policy import Policy
from standby.states import RunState, Verdict
from standby.waits import command_for


async def runs_view(ledger: Ledger, place: Place, *, ended: bool = False) -> list[dict[str, Any]]:
    """Runs, oldest first.

    Each: ``run_id, flow, name, state, step`` (the key it reached last; of a run that has failed, of the step or wait
    whose error ended it, None if it was of none), ``started_at``, ``error``, ``wait`` (the open wait, or None),
    ``waits`` (all open ones) and ``ui`` (its page in Prefect).
    """
    runs = await ledger.runs.all(ended=ended)
    ids = [run.id for run in runs]
    steps = await ledger.checkpoints.latest(ids)
    waits: dict[str, list[dict[str, Any]]] = {}
    for wait in await ledger.waits.open_ones():
        votes = await ledger.waits.decisions_of(wait.run_id) if _policy(wait).names_people else []
        waits.setdefault(wait.run_id, []).append(wait_view(wait, votes))
    return [
        {
            "run_id": run.id,
            "flow": run.flow,
            "name": run.name,
            "state": run.state,
            "step": (run.failed_step or run.ended_by) if run.state == RunState.FAILED else steps.get(run.id),
            "wait": waits.get(run.id, [None])[0],
            "waits": waits.get(run.id, []),
            "started_at": iso(run.started_at),
            "error": run.error,
            "ui": run_url(place, run),
        }
        for run in runs
    ]


async def run_view(ledger: Ledger, place: Place, run: Any) -> dict[str, Any]:
    """One run whole: as in ``runs_view``, with its result, what its agents thought, its checkpoints and decisions."""
    waits = await ledger.waits.of_run(run.id)
    journal = sorted(
        await ledger.checkpoints.journal(run.id), key=lambda entry: (entry.position is None, entry.position or 0)
    )
    keys = {wait.id: wait.key for wait in waits}
    decisions = await ledger.waits.decisions_of(run.id)
    shown = [wait_view(wait, decisions) for wait in waits]
    opened = [wait for wait in shown if wait["state"] == "open"]
    return {
        "run_id": run.id,
        "flow": run.flow,
        "name": run.name,
        "state": run.state,
        "attempt": run.attempt,
        "wait": opened[0] if opened else None,
        "started_at": iso(run.started_at),
        "ended_at": iso(run.ended_at),
        "result": json.loads(run.result) if run.result is not None else None,
        "error": run.error,
        "failed_step": run.failed_step,
        "cancelled_by": run.cancelled_by,
        "cancelled_door": run.cancelled_door,
        "agents": await read_threads(ledger, run.id, journal, run.state),
        "checkpoints": [{"key": entry.key, "kind": entry.kind, "state": entry.state} for entry in journal],
        "waits": shown,
        "decisions": [
            {
                "wait": decision.wait_id,
                "key": keys.get(decision.wait_id),
                "verdict": decision.verdict,
                "door": decision.door,
                "actor": decision.actor,
                "in_place_of": decision.place,
                "answer": json.loads(decision.answer) if decision.answer is not None else None,
                "evidence": decision.evidence_digest,
                "note": decision.note,
                "at": iso(decision.decided_at),
            }
            for decision in decisions
        ],
        "ui": run_url(place, run),
    }


def wait_view(wait: Any, decisions: Iterable[Any] = ()) -> dict[str, Any]:
    """One wait (its ledger row), with what its run's decisions tell of it.

    ``age_seconds`` is never negative; times are ISO 8601 in UTC. ``decided_by``: what its policy asks for, in words;
    None where any one answer will do. ``so_far``: whose decisions count already.
    """
    until = wait.settled_at or clock.utcnow()
    policy = _policy(wait)
    return {
        "id": wait.id,
        "run_id": wait.run_id,
        "flow": wait.agent,
        "key": wait.key,
        "kind": wait.kind,
        "state": wait.state,
        "reason": wait.reason,
        "party": wait.party,
        "topic": wait.topic,
        "correlation": wait.correlation,
        "opening": wait.opening,
        "opened_at": iso(wait.opened_at),
        "age_seconds": round(max(0.0, (until - wait.opened_at).total_seconds()), 3),
        "deadline": iso(wait.deadline),
        "default": json.loads(wait.default_answer) if wait.default_answer is not None else None,
        "outcome": wait.outcome,
        "answer": json.loads(wait.answer) if wait.answer is not None else None,
        "refused": wait.refused,
        "evidence": wait.evidence,
        "polls": wait.polls if wait.poll is not None else None,
        "poll_failed": wait.poll_note,
        "policy": json.loads(wait.policy) if wait.policy is not None else None,
        "decided_by": policy.said or None,
        "so_far": so_far(wait, decisions),
        "form": json.loads(wait.answer_schema or "{}"),
        "command": command_for(wait),
    }


def so_far(wait: Any, decisions: Iterable[Any]) -> list[str]:
    """Whose decisions count already for a wait that is open."""
    here = (wait.id, wait.opening, Verdict.COUNTED)
    return [one.actor for one in decisions if (one.wait_id, one.opening, one.verdict) == here]


def _policy(wait: Any) -> Policy:
    return Policy.model_validate_json(wait.policy) if wait.policy is not None else Policy()


def signal_view(signal: Any) -> dict[str, Any]:
    """One signal (its ledger row). Times are ISO 8601 in UTC."""
    return {
        "id": signal.id,
        "topic": signal.topic,
        "key": signal.correlation,
        "source": signal.source,
        "delivery_id": signal.delivery_id,
        "disposition": signal.disposition,
        "wait_id": signal.wait_id,
        "why": signal.note,
        "received_at": iso(signal.received_at),
        "payload": json.loads(signal.payload),
    }


def run_url(place: Place, run: Any) -> str | None:
    """The run's page in the Prefect UI. None for a run without a deployment: it may be on a server of its own."""
    return f"{place.ui_url}/runs/flow-run/{run.id}" if place.ui_url and run.deployment_id else None


def iso(value: datetime | None) -> str | None:
    return value.isoformat(timespec="milliseconds") if value is not None else None


def moment(at: datetime | str) -> str:
    """A time (in UTC; also its ISO 8601 text) for people."""
    return f"{datetime.fromisoformat(at) if isinstance(at, str) else at:%Y-%m-%d %H:%M} UTC"


def age(seconds: float) -> str:
    """A span for people, rounded: ``8 s``, ``12 min``, ``3 h``, ``4 d``."""
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{round(seconds / size)} {unit}"
    return f"{round(seconds / 86_400)} d"
