"""However an agent ends, the host and all others in it go on, and nothing of it acts on."""

from __future__ import annotations

import asyncio
import logging
import signal
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelling, Scheduled

from standby import confirming, settings
from standby.holder import is_dead
from standby.host import host
from standby.states import RunState
from tests.host.conftest import Inn, Run
from tests.host.test_life import Elsewhere
from tests.support import outside
from tests.support.waiting import WITHIN, wait_until

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:unclosed (<socket\.|transport <_SelectorSocketTransport):ResourceWarning"),
    pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True),
]


async def start(inn: Inn, function: str, **parameters: object) -> Run:
    deployment = await inn.deploy(function, entrypoint=f"endings.py:{function}")
    flow_run = await inn.client.create_flow_run_from_deployment(deployment, parameters=parameters)
    return Run(inn, str(flow_run.id))


async def test_what_would_end_a_process_ends_one_run(inn: Inn) -> None:
    """It fails, and is not taken up again; so does one whose file does so when it is loaded. All others go on."""
    other = await inn.start("visitor")
    await other.is_warm()
    raised = {
        "agent": "SystemExit(3)", "interrupt": "KeyboardInterrupt()", "its own": "OfItsOwn('it leaves')",
        "thread": "SystemExit(4)", "step": "SystemExit(4)", "gathered": "SystemExit(5)", "group": "sub-exception",
    }  # fmt: skip
    runs = [await start(inn, "leaver", how=how) for how in raised]

    async def fails(run: Run, error: str) -> None:
        row = await run.is_in(RunState.FAILED)
        assert error in row.error
        state = await run.is_shown(StateType.FAILED)
        assert error in (state.message or "")

    await asyncio.gather(*map(fails, runs, raised.values()))
    unfit = await inn.deploy("never", entrypoint="leaves_when_loaded.py:never")
    flow_run = await inn.client.create_flow_run_from_deployment(unfit)
    state = await Run(inn, str(flow_run.id)).is_shown(StateType.FAILED)
    assert "leaves_when_loaded.py:never raises SystemExit(7) when it is loaded" in (state.message or "")
    await other.signal("round-0", 5)
    assert await other.result() == 5


@pytest.mark.parametrize("how", ["returns", "fails", "is cancelled"])
async def test_what_an_agent_leaves_running_ends_before_the_run_has(inn: Inn, how: str) -> None:
    """Tasks that it has begun are cancelled when its function is done, as at the end of a process."""
    run = await start(inn, "leaves_running", how=how)
    if how == "is cancelled":
        await wait_until(lambda: run.deeds("beside"), shows=run.shown)
        await inn.client.set_flow_run_state(UUID(run.id), Cancelling())
    await run.is_in(RunState.COMPLETED, RunState.FAILED, RunState.CANCELLED)
    await wait_until(lambda: run.id not in inn.host.guests)
    assert not [task for task in asyncio.all_tasks() if "acts_on" in repr(task)]


async def test_a_run_ends_when_a_step_in_a_thread_is_done(
    inn: Inn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Failed before that, and retried, it would pay beside itself: the probe finds nothing yet."""
    monkeypatch.setattr(settings, "STOPPED_WITHIN", timedelta(seconds=0.1))
    run = await start(inn, "gatherer")
    await wait_until(lambda: "ends when a step in a thread is done" in caplog.text)
    assert (await run.row()).state == RunState.RUNNING
    outside.gate(outside._place(), "bank").touch()
    assert "the shop does not answer" in (await run.is_in(RunState.FAILED)).error
    await run.is_shown(StateType.FAILED)
    await inn.client.set_flow_run_state(UUID(run.id), Scheduled(name="AwaitingRetry"), force=True)
    await run.is_in(RunState.COMPLETED)
    assert (run.deeds("asked to pay"), run.deeds("paid")) == (1, 1)


@pytest.mark.parametrize("limit", [1], indirect=True)
async def test_an_agent_that_does_not_end_when_it_is_cancelled_is_forsaken(
    inn: Inn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Prefect shows it as cancelled, others have its slot, no step of it acts, and the host ends without it."""
    monkeypatch.setattr(settings, "STOPPED_WITHIN", timedelta(seconds=0.2))
    monkeypatch.setenv("STANDBY_HOST_GRACE", "0.1")
    runs = []
    for _ in range(2):
        run = await start(inn, "swallower")
        await wait_until(lambda run=run: run.deeds("came"), shows=run.shown)
        runs.append((run, run.guest.task))
        await inn.client.set_flow_run_state(UUID(run.id), Cancelling())
        await run.is_shown_as("Cancelled")
    assert "goes on though it was cancelled" in caplog.text
    left = await start(inn, "swallower")
    await wait_until(lambda: left.deeds("came"), shows=left.shown)
    runs.append((left, left.guest.task))
    await inn.closes()
    assert (await left.row()).state == RunState.RUNNING, "it goes on when this process is dead"
    outside.gate(outside._place(), "go").touch()
    await asyncio.gather(*(task for _, task in runs if task is not None), return_exceptions=True)
    assert [run.deeds("acted on") for run, _ in runs] == [0, 0, 0]


@pytest.mark.parametrize("limit", [1], indirect=True)
async def test_an_agent_whose_run_is_anothers_and_that_does_not_end_keeps_no_slot(
    inn: Inn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The host forsakes it as it does one that was cancelled, and says which it is."""
    monkeypatch.setattr(settings, "STOPPED_WITHIN", timedelta(seconds=0.2))
    monkeypatch.setattr(settings, "RENEW_EVERY", timedelta(seconds=0.2))
    run = await start(inn, "swallower")
    await wait_until(lambda: run.deeds("came"), shows=run.shown)
    task, row = run.guest.task, await run.row()
    assert task is not None
    claim = await inn.ledger.runs.claim(
        run.id, flow=row.flow, name=row.name, deployment_id=row.deployment_id, holder="elsewhere/1/1",
        lease=timedelta(hours=1), presumed_dead=row.holder,
    )  # fmt: skip
    assert claim.attempt == 2
    other = await inn.start("visitor")
    await wait_until(lambda: other.deeds("came"), shows=other.shown)
    assert run.id not in inn.host.guests
    assert f"({run.id}) goes on though it was cancelled, for it is another's by now" in caplog.text
    assert (await run.row()).holder == "elsewhere/1/1"
    outside.gate(outside._place(), "go").touch()
    await asyncio.gather(task, return_exceptions=True)
    assert run.deeds("acted on") == 0


async def test_an_agent_whose_run_was_ended_in_the_ledger_and_that_does_not_end_is_not_called_anothers(
    inn: Inn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a keeper does with what was cancelled in Prefect."""
    monkeypatch.setattr(settings, "STOPPED_WITHIN", timedelta(seconds=0.2))
    monkeypatch.setattr(settings, "RENEW_EVERY", timedelta(seconds=0.2))
    run = await start(inn, "swallower")
    await wait_until(lambda: run.deeds("came"), shows=run.shown)
    task = run.guest.task
    assert task is not None
    await inn.ledger.runs.end_from_outside(run.id, RunState.CANCELLED, "Cancelled in Prefect", attempt=1)
    await wait_until(lambda: run.id not in inn.host.guests)
    outside.gate(outside._place(), "go").touch()
    await asyncio.gather(task, return_exceptions=True)
    assert f"({run.id}) goes on though it was cancelled, for the run is cancelled by now" in caplog.text
    assert "another's by now" not in caplog.text


async def test_a_run_whose_thread_is_done_just_before_its_host_ends_is_given_back(
    inn: Inn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host has given up waiting for it, and closes: it need not be taken over as what a dead one had."""
    monkeypatch.setenv("STANDBY_HOST_GRACE", "0.1")
    monkeypatch.setattr(host, "FINAL_SECONDS", 0.1)
    run = await start(inn, "payer")
    await wait_until(lambda: run.deeds("asked to pay"), shows=run.shown)
    leave = inn.host.leave

    async def leaves(grace: float) -> None:
        await leave(grace)
        monkeypatch.setattr(host, "FINAL_SECONDS", WITHIN)
        outside.gate(outside._place(), "bank").touch()

    monkeypatch.setattr(inn.host, "leave", leaves)
    await inn.closes()
    row = await run.row()
    assert (row.state, row.holder) == (RunState.READY, None)


@pytest.mark.parametrize("how", ["its host stops", "is cancelled", "is another's"])
async def test_a_step_that_is_cut_off_in_order_is_no_crash_in_the_log(
    inn: Inn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    caplog.set_level(logging.INFO, "prefect")
    monkeypatch.setenv("STANDBY_HOST_GRACE", "0.1")
    monkeypatch.setattr(settings, "RENEW_EVERY", timedelta(seconds=0.2))
    run = await start(inn, "stander")
    await wait_until(lambda: run.deeds("stands"), shows=run.shown)
    if how == "its host stops":
        await inn.closes()
    elif how == "is cancelled":
        await inn.client.set_flow_run_state(UUID(run.id), Cancelling())
    else:
        row = await run.row()
        await inn.ledger.runs.claim(
            run.id, flow=row.flow, name=row.name, deployment_id=row.deployment_id, holder="elsewhere/1/1",
            lease=timedelta(hours=1), presumed_dead=row.holder,
        )  # fmt: skip
    await wait_until(lambda: run.id not in inn.host.guests)
    said = [(one.levelname, one.getMessage()) for one in caplog.records if one.name == "prefect.task_runs"]
    assert {level for level, _ in said} == {"INFO"}, said
    assert [message for _, message in said if message.startswith("Cut off, for ")], said


async def test_the_process_of_a_host_ends_whatever_acts_in_it(
    inn: Inn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that hangs in a thread and an agent that catches its cancellation do not keep it."""
    monkeypatch.setenv("STANDBY_HOST_GRACE", "0.1")
    await inn.closes()
    elsewhere = Elsewhere(inn, tmp_path)
    try:
        hanging, swallowing = await start(inn, "hanger"), await start(inn, "swallower")
        await wait_until(lambda: hanging.deeds("hangs") and swallowing.deeds("came"), shows=lambda: elsewhere.log)
        elsewhere.does(signal.SIGTERM)
        await wait_until(lambda: elsewhere.process.poll() is not None, within=30, shows=lambda: elsewhere.log)
    finally:
        elsewhere.close()
    assert elsewhere.process.returncode == 0, elsewhere.log
    assert f"({swallowing.id}) goes on though it was cancelled" in elsewhere.log
    for run in (hanging, swallowing):
        row = await run.row()
        assert row.state == RunState.RUNNING
        assert is_dead(row.holder), "it is taken over as what a dead host had"


async def is_cancelled_at_work(inn: Inn, function: str, **parameters: object) -> Run:
    run = await start(inn, function, **parameters)
    await wait_until(lambda: run.deeds("came"), shows=run.shown)
    await run.is_shown(StateType.RUNNING)
    await inn.client.set_flow_run_state(UUID(run.id), Cancelling())
    return run


@pytest.mark.parametrize("how", ["cancelled", "its own"])
async def test_whatever_a_hook_raises_the_run_is_shown_as_cancelled(inn: Inn, how: str) -> None:
    run = await is_cancelled_at_work(inn, "oddly_hooked", how=how)
    await run.is_shown_as("Cancelled")


async def test_a_host_that_is_told_to_end_waits_for_a_hook(inn: Inn) -> None:
    run = await is_cancelled_at_work(inn, "slowly_hooked")
    await wait_until(lambda: run.deeds("gate"), shows=run.shown)
    ending = inn.host
    closing = asyncio.create_task(inn.closes())
    await wait_until(lambda: not ending.open)
    outside.gate(outside._place(), "hook").touch()
    await closing
    assert (await run.prefect()).name == "Cancelled"


async def test_a_run_whose_host_ended_before_it_was_shown_as_cancelled_is_so_by_the_keeper(
    inn: Inn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "FINAL_SECONDS", 0.1)
    run = await is_cancelled_at_work(inn, "slowly_hooked")
    await wait_until(lambda: run.deeds("gate"), shows=run.shown)
    await inn.closes()
    row = await run.row()
    assert (row.state, (await run.prefect()).name) == (RunState.CANCELLED, "Cancelling")
    monkeypatch.setattr(confirming, "CONFIRM_AFTER", timedelta(0))
    monkeypatch.setattr(confirming, "CANCELLED_WITHIN", timedelta(0))
    await inn.opens()
    await run.is_shown_as("Cancelled")
