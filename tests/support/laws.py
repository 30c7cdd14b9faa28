"""What must hold after every fault, whatever it was: the four conditions at the top of the failure matrix."""

from __future__ import annotations

from collections import Counter
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import StateType

from standby import holder
from standby.children import DELETED
from standby.doctor import audit
from standby.ledger import Ledger
from standby.projection import states_of
from standby.states import ENDED, CheckpointState, Disposition, RunState, Verdict, WaitState
from tests.support.outside import Deed

SHOWN_AS = {
    RunState.PARKED: StateType.PAUSED,
    RunState.COMPLETED: StateType.COMPLETED,
    RunState.FAILED: StateType.FAILED,
    RunState.CANCELLED: StateType.CANCELLED,
}
"""What Prefect shows of a run at rest."""


async def broken_laws(ledger: Ledger, client: PrefectClient, deeds: list[Deed], acknowledged: list[str]) -> list[str]:
    """What is wrong, once everything has come to rest; empty when all is well.

    ``acknowledged`` are the ids of the signals that a door has taken.
    """
    runs = await ledger.runs.all(ended=True)
    states = await states_of(client, [run.id for run in runs])
    broken = effects_repeated(deeds)
    broken += await _signals_without_outcome(ledger, acknowledged)
    for run in runs:
        waits = await ledger.waits.of_run(run.id)
        broken += _of_run(run, waits, states.get(run.id))
        broken += _of_waits(run, waits, await ledger.waits.decisions_of(run.id))
        broken += await _of_journal(ledger, run)
    return broken + [f"the doctor: {finding}" for finding in await audit(ledger, client)]


def effects_repeated(deeds: list[Deed]) -> list[str]:
    """(b) The outside saw each effect that must happen once, once."""
    counts = Counter((deed.what, deed.key) for deed in deeds if deed.once)
    return [f"{what} for {key} happened {count} times" for (what, key), count in counts.items() if count > 1]


async def _signals_without_outcome(ledger: Ledger, acknowledged: list[str]) -> list[str]:
    """(c) Every acknowledged signal has exactly one outcome, and no two were given to the same wait.

    A delivered one is the answer of its wait, or has started exactly one run.
    """
    signals = await ledger.signals.all()
    started = Counter(start.signal_id for start in await ledger.starts.all() if start.run_id is not None)
    kept = Counter(signal.id for signal in signals)
    broken = [f"signal {name} was acknowledged and is in the ledger {kept[name]} times"
              for name in acknowledged if kept[name] != 1]  # fmt: skip
    for signal in signals:
        wait = await ledger.waits.get(signal.wait_id) if signal.wait_id is not None else None
        delivered = signal.disposition == Disposition.DELIVERED and started[signal.id] != 1
        if delivered and (wait is None or wait.state != WaitState.SETTLED or wait.answer != signal.payload):
            broken.append(f"signal {signal.id} is delivered to {wait}, which does not have it")
    taken = Counter(signal.wait_id for signal in signals
                    if signal.disposition == Disposition.DELIVERED and signal.wait_id is not None)  # fmt: skip
    return broken + [f"wait {wait} was given {count} signals" for wait, count in taken.items() if count > 1]


def _of_run(run: Any, waits: list[Any], state: Any) -> list[str]:
    """(d) A run that is neither running nor finished has exactly one open group of waits; Prefect shows it as it is."""
    broken = []
    opened = {wait.group_key for wait in waits if wait.state == WaitState.OPEN}
    if run.state == RunState.PARKED and len(opened) != 1:
        broken.append(f"run {run.id} is parked at {sorted(opened)}, not at one group of waits")
    if RunState(run.state) in ENDED and opened:
        broken.append(f"run {run.id} has ended with {sorted(opened)} open")
    expected = SHOWN_AS.get(RunState(run.state))
    if expected is None:
        broken.append(f"run {run.id} has not come to rest: it is {run.state}, held by {run.holder}")
    elif state is None and run.state == RunState.CANCELLED and run.error == DELETED:
        pass
    elif state is None or state.type is not expected:
        broken.append(f"run {run.id} is {run.state} in the ledger and {state} in Prefect")
    if run.holder is not None and holder.is_dead(run.holder):
        broken.append(f"run {run.id} is held by {run.holder}, which is dead")
    return broken


def _of_waits(run: Any, waits: list[Any], decisions: list[Any]) -> list[str]:
    """Every settled wait has exactly one winning decision; the others have none."""
    won = Counter(decision.wait_id for decision in decisions if decision.verdict == Verdict.WON)
    return [
        f"wait {wait.key} of run {run.id} is {wait.state} and was won {won[wait.id]} times"
        for wait in waits
        if won[wait.id] != (wait.state == WaitState.SETTLED)
    ]


async def _of_journal(ledger: Ledger, run: Any) -> list[str]:
    """No two steps stand at one place, and a completed run has nothing left open."""
    journal = await ledger.checkpoints.journal(run.id)
    places = Counter(entry.position for entry in journal if entry.position is not None)
    broken = [f"run {run.id} has {count} checkpoints at place {place}" for place, count in places.items() if count > 1]
    if run.state == RunState.COMPLETED:
        broken += [f"run {run.id} has completed and {entry.key} is {entry.state}"
                   for entry in journal if entry.state != CheckpointState.RECORDED]  # fmt: skip
    return broken
