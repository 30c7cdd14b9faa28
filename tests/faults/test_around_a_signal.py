"""Rows 22 to 24 of the failure matrix: a process dies around an answer, or the answer is there too early."""

from __future__ import annotations

import json
from datetime import timedelta
from uuid import UUID

import pytest
from prefect.client.schemas.objects import StateType

from standby import missed, settings
from standby.states import Disposition, Door, Outcome, RunState, Verdict
from tests.support.stage import Run, Stage
from tests.support.waiting import together, wait_until

YES, NO = {"approved": True, "comment": "yes"}, {"approved": False, "comment": "no"}


async def test_an_answer_whose_wake_was_lost_wakes_its_run_all_the_same(stage: Stage) -> None:
    """Row 22; G3, G9: killed between the ledger's commit and the wake, the door told Prefect nothing."""
    run = await stage.start("deadlines.py:asking")
    await run.rests()
    wait = await run.open_wait()
    settled = await stage.ledger.waits.settle(
        wait.id, outcome=Outcome.ANSWERED, answer=json.dumps(YES), door=Door.TERMINAL, actor="ada"
    )
    assert settled is not None
    assert settled.wake
    assert await run.rests() is RunState.COMPLETED
    assert await run.result() == "yes"


@pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)
async def test_the_keeper_hears_of_a_lost_wake_and_leaves_a_live_door_its_head_start(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 22 on PostgreSQL; G9: told at once, not found after a grace. A door that lives wakes its run itself, once."""
    monkeypatch.setattr(settings, "WAKE_GRACE", timedelta(hours=1))
    monkeypatch.setattr(missed, "HEAD_START", 5.0)
    lost, woken = await stage.start("deadlines.py:asking"), await stage.start("deadlines.py:asking")
    await together(lost.rests(), woken.rests())
    wait = await lost.open_wait()
    async with stage.keeping():
        await stage.ledger.waits.settle(wait.id, outcome=Outcome.ANSWERED, answer=json.dumps(YES), door=Door.GATEWAY)
        assert (await woken.answer(YES)).woken

        async def scheduled() -> bool:
            return (await lost.prefect()).type is StateType.SCHEDULED

        await wait_until(scheduled, shows=lost.shown)
    states = await stage.client.read_flow_run_states(UUID(woken.id))
    assert [state.name for state in states].count("Resuming") == 1
    for run in (lost, woken):
        assert await run.rests() is RunState.COMPLETED


async def test_an_answer_is_the_same_on_every_replay(stage: Stage) -> None:
    """Row 23; G5: killed between the wake and the first new step, another answer comes; the first one stays."""

    async def killed_at(point: str) -> None:
        run = await stage.start("deadlines.py:asking")
        await run.rests()
        wait = await run.open_wait()
        assert (await run.answer(YES)).won
        await run.dies_at(point)
        late = await stage.ledger.waits.settle(
            wait.id, outcome=Outcome.ANSWERED, answer=json.dumps(NO), door=Door.TERMINAL, actor="grace"
        )
        assert late is not None
        assert not late.won
        assert late.winner is not None
        assert late.winner.actor == "ada", "who comes second is told who was first"
        assert await run.rests() is RunState.COMPLETED
        assert await run.result() == "yes"
        verdicts = [decision.verdict for decision in await stage.ledger.waits.decisions_of(run.id)]
        assert verdicts == [Verdict.WON, Verdict.LOST]

    await together(*map(killed_at, ["run.attached", "wait.opened", "wait.consumed", "step.before"]))


async def test_a_signal_before_its_wait_is_used_once(stage: Stage) -> None:
    """Row 24; G4: kept until a wait opens for it; then it is that wait's alone, also when the process dies there."""

    async def approved(number: str) -> Run:
        run = await stage.start("paying.py:paying", number=number)
        await run.rests()
        assert (await run.answer({"approved": True})).won
        return run

    async def comes_before(number: str, crash_at: str) -> None:
        early = await stage.signal("payment.settled", {"bank": "early"}, key=number)
        assert early.disposition is Disposition.BUFFERED
        first = await approved(number)
        await first.dies_at(crash_at)
        assert await first.rests() is RunState.COMPLETED, "it need not park for what is there"
        assert (await first.result())["settlement"] == {"bank": "early"}
        second = await approved(number)
        assert await second.rests() is RunState.PARKED, "the signal was the first run's"
        again = await stage.signal("payment.settled", {"bank": "second"}, key=number)
        assert again.disposition is Disposition.DELIVERED
        assert await second.rests() is RunState.COMPLETED
        assert (await second.result())["settlement"] == {"bank": "second"}

    # The approval's wait is met first on the way there.
    await together(comes_before("A", "wait.opening:2"), comes_before("B", "wait.opened:2"))


async def test_a_delivery_that_is_sent_again_changes_nothing(stage: Stage) -> None:
    """Rows 24, 30: the sender of an early signal tries again, before and after it was used."""
    run = await stage.start("paying.py:paying", number="A")
    await run.rests()
    outcomes = []
    for moment in ("early", "still early", "used"):
        delivery = await stage.signal("payment.settled", {"bank": "Nord"}, key="A", delivery_id="one")
        outcomes.append(delivery.disposition)
        if moment == "still early":
            await run.answer({"approved": True})
            assert await run.rests() is RunState.COMPLETED
    assert outcomes == [Disposition.BUFFERED, Disposition.DUPLICATE, Disposition.DUPLICATE]
    assert (await run.result())["settlement"] == {"bank": "Nord"}
    assert [signal.disposition for signal in await stage.ledger.signals.all()] == [Disposition.DELIVERED]
