"""A run parks when what is under way beside its wait has come to an outcome, and not before."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelling, Scheduled

from standby import doors
from standby.host.guest import Phase
from standby.states import CheckpointKind, CheckpointState, Door, RunState
from tests.host.conftest import Inn, Run
from tests.support import outside
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:unclosed (<socket\.|transport <_SelectorSocketTransport):ResourceWarning"),
    pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True),
]


async def asking(inn: Inn, function: str, *gates: str, **parameters: Any) -> Run:
    """A run that has opened its wait while tools or steps stand at these gates."""
    deployment = await inn.deploy(function, entrypoint=f"thinkers.py:{function}")
    flow_run = await inn.client.create_flow_run_from_deployment(deployment, parameters=parameters)
    run = Run(inn, str(flow_run.id))

    async def asks() -> bool:
        return all(map(run.deeds, gates)) and bool(await inn.ledger.waits.open_ones([run.id]))

    await wait_until(asks, shows=run.shown)
    return run


async def answer(inn: Inn, run: Run, said: dict[str, Any]) -> None:
    [wait] = await inn.ledger.waits.open_ones([run.id])
    answered = await doors.answer(inn.ledger, wait, json.dumps(said), door=Door.TERMINAL, actor="ada", api_url=inn.url)
    assert answered.won


def open_gate(tmp_path: Path, name: str) -> None:
    outside.gate(tmp_path / "outside", name).touch()


SAID = {"thinker": ({"answer": "blue"}, "done"), "pondering": ({"approved": True}, "seen")}


@pytest.mark.parametrize("function", ["thinker", "pondering"])
async def test_it_parks_when_what_is_under_way_is_done_which_is_not_done_again(
    inn: Inn, tmp_path: Path, function: str
) -> None:
    run = await asking(inn, function, "look")
    assert (await run.row()).state == RunState.RUNNING
    open_gate(tmp_path, "look")
    await run.is_warm()
    inn.host.warmth.make_room(1)
    await wait_until(lambda: run.id not in inn.host.guests)
    said, result = SAID[function]
    await answer(inn, run, said)
    assert await run.result() == result
    assert run.deeds("look") == 1


@pytest.mark.parametrize("function", ["thinker", "pondering"])
async def test_an_answer_that_comes_meanwhile_means_no_park(inn: Inn, tmp_path: Path, function: str) -> None:
    """What is under way need not be done for the run to go on with the answer."""
    run = await asking(inn, function, "look")
    said, result = SAID[function]
    await answer(inn, run, said)

    async def taken() -> bool:
        journal = await inn.ledger.checkpoints.journal(run.id)
        return [entry.state for entry in journal if entry.kind == CheckpointKind.WAIT] == [CheckpointState.RECORDED]

    await wait_until(taken, shows=run.shown)
    open_gate(tmp_path, "look")
    assert await run.result() == result
    row = await run.row()
    assert (row.attempt, row.parked_at, run.deeds("look")) == (1, None, 1)


async def test_a_call_that_comes_when_the_run_is_parked_waits_for_that_and_is_judged_as_of_then(
    inn: Inn, tmp_path: Path
) -> None:
    run = await asking(inn, "late")
    await run.is_warm()
    open_gate(tmp_path, "hook")
    await wait_until(lambda: run.deeds("let through"), shows=run.shown)
    open_gate(tmp_path, "denied")
    open_gate(tmp_path, "look")
    assert (await run.row()).state == RunState.PARKED
    await answer(inn, run, {"answer": "blue"})
    assert await run.result() == "done"
    assert run.deeds("look") == 0


async def test_a_step_that_was_held_back_begins_when_it_is_known_that_its_call_may_go_on(
    inn: Inn, tmp_path: Path
) -> None:
    run = await asking(inn, "branching")
    await run.is_warm()
    open_gate(tmp_path, "hook")
    await wait_until(lambda: run.deeds("let through"), shows=run.shown)
    open_gate(tmp_path, "denied")
    open_gate(tmp_path, "look")
    await answer(inn, run, {"approved": True})
    await wait_until(lambda: run.deeds("looking"), shows=run.shown)
    assert run.guest.run is not None
    assert run.guest.run.acting.held_back
    open_gate(tmp_path, "scope")
    assert await run.result() == "done"
    assert run.deeds("look") == 0


@pytest.mark.parametrize("grouped", [False, True])
async def test_a_host_that_ends_lets_a_step_beside_the_code_come_to_its_end(
    inn: Inn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grouped: bool
) -> None:
    monkeypatch.setenv("STANDBY_HOST_GRACE", "60")
    deployment = await inn.deploy("busy", entrypoint="thinkers.py:busy")
    made = await inn.client.create_flow_run_from_deployment(deployment, parameters={"grouped": grouped})
    run = Run(inn, str(made.id))
    await wait_until(lambda: run.deeds("look"), shows=run.shown)
    guest = run.guest
    closing = asyncio.create_task(inn.closes())
    await wait_until(lambda: guest.leaving)
    open_gate(tmp_path, "next")
    await wait_until(lambda: run.deeds("next"), shows=run.shown)
    open_gate(tmp_path, "look")
    async with asyncio.timeout(30):
        await closing
    assert run.deeds("note") == 0
    await inn.opens()
    assert await run.result() == "seen"
    assert (run.deeds("look"), run.deeds("note")) == (1, 1)


@pytest.mark.parametrize("catches", [True, False])
async def test_a_step_that_has_failed_beside_a_wait_is_not_tried_again_for_that(inn: Inn, catches: bool) -> None:
    run = await asking(inn, "careless", catches=catches)
    await run.is_warm()
    inn.host.warmth.make_room(1)
    await wait_until(lambda: run.id not in inn.host.guests)
    await answer(inn, run, {"approved": True})
    if catches:
        assert await run.result() == "seen"
    else:
        assert "it broke" in (await run.is_in(RunState.FAILED)).error
    assert run.deeds("fragile") == 1
    if not catches:  # a retry of the run tries it again
        await run.is_shown(StateType.FAILED)
        await inn.client.set_flow_run_state(UUID(run.id), Scheduled(name="AwaitingRetry"), force=True)
        await wait_until(lambda: run.deeds("fragile") == 2, shows=run.shown)


async def test_a_host_that_ends_lets_it_come_to_its_outcome_within_its_grace(
    inn: Inn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDBY_HOST_GRACE", "60")
    run = await asking(inn, "thinker", "look")
    guest = run.guest
    closing = asyncio.create_task(inn.closes())
    await wait_until(lambda: guest.leaving)
    open_gate(tmp_path, "look")
    async with asyncio.timeout(30):
        await closing
    row = await run.row()
    assert (row.state, row.holder) == (RunState.PARKED, None)
    await inn.opens()
    await answer(inn, run, {"answer": "blue"})
    assert await run.result() == "done"
    assert run.deeds("look") == 1


async def test_a_host_that_ends_cuts_it_off_after_its_grace(inn: Inn, tmp_path: Path) -> None:
    run = await asking(inn, "thinker", "look")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STANDBY_HOST_GRACE", "0.1")
        await inn.closes()
    assert (await run.row()).state == RunState.READY
    open_gate(tmp_path, "look")
    await inn.opens()
    await run.is_warm()
    await answer(inn, run, {"answer": "blue"})
    assert await run.result() == "done"
    assert run.deeds("look") == 2


async def test_a_cancel_cuts_it_off(inn: Inn) -> None:
    run = await asking(inn, "thinker", "look")
    await inn.client.set_flow_run_state(UUID(run.id), Cancelling())
    await run.is_in(RunState.CANCELLED)
    await wait_until(lambda: run.id not in inn.host.guests)
    assert not await inn.ledger.waits.open_ones([run.id])


async def test_an_error_beside_it_ends_the_run_and_does_not_park_it(inn: Inn, tmp_path: Path) -> None:
    run = await asking(inn, "thinker", "look", "fail", fails=True)
    guest = run.guest
    open_gate(tmp_path, "fail")
    open_gate(tmp_path, "look")
    row = await run.is_in(RunState.FAILED, RunState.PARKED)
    assert (row.state, row.parked_at) == (RunState.FAILED, None)
    assert "it failed" in row.error
    assert not await inn.ledger.waits.open_ones([run.id])
    await wait_until(lambda: guest.phase is Phase.OVER)
    assert "thinker/1.1.look" in [entry.key for entry in await inn.ledger.checkpoints.journal(run.id)]
