"""How runs are held while they wait: what the ledger keeps of it, to learn from and to bill; and ``standby costs``."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from standby.cli import app
from standby.hold import Asked, Costs, linger
from standby.ledger import Ledger
from standby.outlook import Past
from standby.outlooks import Outlooks
from standby.states import Door, Hold, Need, Outcome, RunState, WaitKind
from standby.waits import Approval, Timer
from tests.ledger.acts import answer, approval, claim, deliver, open_group, parked, signal
from tests.ledger.conftest import Watch

MINUTE = timedelta(minutes=1)


async def waited(ledger: Ledger, watch: Watch, run: str, lasted: timedelta, wake: timedelta = timedelta(0)) -> None:
    """A run that parked on an approval, got its answer after so long, and took it in a little later."""
    [wait] = (await parked(ledger, [approval()], run=run)).waits
    watch.forward(lasted)
    await answer(ledger, wait.id)
    watch.forward(wake)
    attempt = (await claim(ledger, run)).attempt
    assert await ledger.waits.consume(run, attempt, "approval", '"yes"', "digest")


async def test_what_there_is_to_learn_from_is_how_long_the_latest_waits_took(ledger: Ledger, watch: Watch) -> None:
    """Newest first; those that are open or were closed count for as long as they lasted, and are not over."""
    await waited(ledger, watch, "first", 2 * MINUTE)
    await waited(ledger, watch, "second", 5 * MINUTE)
    await parked(ledger, [approval()], run="ended")
    watch.forward(MINUTE)
    await ledger.runs.end_from_outside("ended", RunState.CANCELLED)
    await parked(ledger, [approval()], run="open")
    await parked(ledger, [signal()], run="of another kind")
    watch.forward(3 * MINUTE)
    learnt = [Past(180, over=False), Past(60, over=False), Past(300), Past(120)]
    assert await ledger.holds.history("an-agent", WaitKind.APPROVAL) == learnt
    assert await ledger.holds.history("an-agent", WaitKind.APPROVAL, limit=2) == learnt[:2]
    assert await ledger.holds.history("another-agent", WaitKind.APPROVAL) == []


async def test_a_wait_keeps_how_its_run_was_to_be_held_and_was(ledger: Ledger) -> None:
    asked = Asked.of(timedelta(seconds=90))
    row = Approval("Pay?").row("approval", asked)
    [wait] = (await parked(ledger, [row])).waits
    assert (wait.agent, wait.hold, wait.held) == ("an-agent", asked.text, None)
    [wait] = await ledger.waits.of_run("run")
    assert (wait.held, wait.gib_seconds, wait.let_go_at) == (Hold.SUSPEND, 0.0, None)
    again = (await claim(ledger)).attempt
    [wait] = (await open_group(ledger, [Approval("Pay?").row("approval")], attempt=again)).waits
    assert wait.hold is None, "as the code says now"


async def test_the_first_of_a_group_carries_the_bill_and_all_know_that_it_was_let_go(
    ledger: Ledger, watch: Watch
) -> None:
    await parked(ledger, [approval("a"), approval("b")], need=Need.ALL, hold=Hold.PAUSE)
    await ledger.holds.bill("run", "a", 1.5)
    await ledger.holds.bill("run", "a", 0.25, let_go=True)
    waits = await ledger.waits.of_run("run")
    assert [(wait.held, wait.gib_seconds, wait.let_go_at) for wait in waits] == [
        (Hold.PAUSE, 1.75, watch.now), (Hold.PAUSE, 0.0, watch.now)
    ]  # fmt: skip


async def test_a_ledger_from_before_holds_knows_whose_its_waits_are(ledger_url: str) -> None:
    before = await Ledger.connect(ledger_url)
    await parked(before, [approval()])
    async with before.database.transaction() as connection:
        await connection.execute(text("DROP INDEX waits_by_agent"))
        for column in ("agent", "hold", "held", "let_go_at", "gib_seconds"):
            await connection.execute(text(f"ALTER TABLE waits DROP COLUMN {column}"))
        await connection.execute(text("DELETE FROM ledger_version WHERE version > 7"))
    await before.close()
    after = await Ledger.connect(ledger_url)
    try:
        [past] = await after.holds.history("an-agent", WaitKind.APPROVAL)
        assert not past.over
        [wait] = await after.waits.of_run("run")
        assert (wait.agent, wait.held, wait.gib_seconds) == ("an-agent", None, 0.0)
    finally:
        await after.close()


# What is expected of the group that a run is parked on.


async def expected(ledger: Ledger, run: str, break_even: float = 60.0) -> tuple[float, float]:
    """How long the run should linger, and how long its waits are expected to last from now."""
    outlook, lasted = await Outlooks(ledger, break_even).of("an-agent", await ledger.waits.of_run(run))
    return linger(outlook, Costs(1.0, break_even), waited=lasted), outlook.remaining(lasted)


async def test_what_is_expected_of_a_wait_is_learnt_from_the_others(ledger: Ledger, watch: Watch) -> None:
    await parked(ledger, [approval()], run="new")
    assert (await expected(ledger, "new"))[0] == pytest.approx(60), "little is known: for the break-even time"
    await ledger.runs.end_from_outside("new", RunState.CANCELLED)
    for number in range(20):
        await waited(ledger, watch, f"long {number}", 60 * MINUTE)
    await parked(ledger, [approval()], run="next")
    now, remaining = await expected(ledger, "next")
    assert now == 0
    assert 2400 < remaining < 7200


async def test_where_a_cold_wake_is_free_no_run_lingers(ledger: Ledger) -> None:
    await parked(ledger, [approval()])
    assert (await expected(ledger, "run", break_even=0.0))[0] == 0


async def test_a_deadline_and_a_time_are_known_and_the_first_of_several_wakes(ledger: Ledger, watch: Watch) -> None:
    soon = watch.now + timedelta(seconds=20)
    await parked(ledger, [Timer(soon).row("timer")], run="timer")
    assert 20 <= (await expected(ledger, "timer"))[0] <= 23
    far = Timer(watch.now + timedelta(days=2))
    await parked(ledger, [far.row("far")], run="far")
    assert (await expected(ledger, "far"))[0] == 0
    await parked(ledger, [far.row("a"), Timer(soon).row("b")], run="any", need=Need.ANY)
    assert 20 <= (await expected(ledger, "any"))[0] <= 23
    await parked(ledger, [far.row("a"), Timer(soon).row("b")], run="all", need=Need.ALL)
    assert (await expected(ledger, "all"))[0] == 0
    await parked(ledger, [approval(deadline=soon)], run="bounded")
    assert (await expected(ledger, "bounded"))[1] <= 23


# ``standby costs``.


@pytest.fixture
def costs(ledger_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The command's output; it finds the test's ledger."""
    monkeypatch.setenv("STANDBY_LEDGER_URL", ledger_url)
    monkeypatch.setenv("STANDBY_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    for name, price in {"GIB_HOUR": "3600", "CPU_SECOND": "0", "WAITING_SECOND": "1"}.items():
        monkeypatch.setenv(f"STANDBY_PRICE_{name}", price)

    async def run(*arguments: str) -> str:
        done = await asyncio.to_thread(CliRunner(env={"COLUMNS": "200"}).invoke, app, ["costs", *arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    return run


async def test_costs_of_nothing_are_nothing(ledger: Ledger, costs: Any) -> None:
    assert await costs() == "No agent has waited here in the last 30 days.\n"
    assert json.loads(await costs("--json")) == []


async def test_costs_are_told_by_agent_and_kind(ledger: Ledger, costs: Any, watch: Watch) -> None:
    for number, minutes in enumerate((1, 2, 3, 4, 10)):
        await waited(ledger, watch, f"run {number}", minutes * MINUTE, wake=timedelta(seconds=number))
    await parked(ledger, [approval()], run="open", hold=Hold.PAUSE)
    await ledger.holds.bill("open", "approval", 7.0)
    await parked(ledger, [signal(correlation="7")], run="signalled")
    watch.forward(MINUTE)
    await deliver(ledger, "delivery")
    [of_approvals, of_signals] = json.loads(await costs("--json"))
    would = of_approvals.pop("would_cost")
    assert of_approvals == {
        "agent": "an-agent", "kind": "approval", "waits": 6, "open": 1, "p50_seconds": 180, "p90_seconds": 600,
        "held": {"pause": 1, "suspend": 5}, "gib_hours": 7 / 3600, "wake_p50_seconds": 2, "wake_seconds": 10,
        "cost": 17,
    }  # fmt: skip
    # A cold wake took 2 s (their median), at 1 a second; a warm run holds 64 KiB, a paused process 72 MiB.
    warm, seconds = 64 / 2**20, 1200
    assert would["pause"] == pytest.approx(seconds * 72 / 1024)
    assert would["suspend"] == pytest.approx(5 * 2)
    assert would["warm 5 s"] == pytest.approx(5 * (5 * warm + 2))
    assert would["warm for ever"] == pytest.approx(seconds * warm)
    assert would["foreseen"] == pytest.approx(seconds * warm)
    assert would["foreseen"] <= would["learnt"] <= would["suspend"]
    assert (of_signals["kind"], of_signals["waits"], of_signals["wake_p50_seconds"]) == ("signal", 1, None)
    said = await costs()
    assert "6 (1 open)" in said
    assert "1 pause, 5 suspend" in said
    assert "Would have cost (compare these with each other, not with the cost above)" in said
    assert "a paused pool, a full host or a Prefect server that was away" in " ".join(said.split())
    assert "Warm is only what shares a host's process." in " ".join(said.split())
    watch.forward(timedelta(days=8))
    assert await costs("--days", "7") == "No agent has waited here in the last 7 days.\n"


async def test_of_several_waits_the_last_answer_woke_the_run(ledger: Ledger, costs: Any, watch: Watch) -> None:
    group = await parked(ledger, [approval("a"), approval("b")], need=Need.ALL)
    for wait in group.waits:
        watch.forward(10 * MINUTE)
        await answer(ledger, wait.id)
    watch.forward(timedelta(seconds=2))
    assert await ledger.waits.consume("run", (await claim(ledger)).attempt, "a", '"yes"', "digest")
    [found] = json.loads(await costs("--json"))
    assert (found["waits"], found["wake_p50_seconds"], found["wake_seconds"], found["cost"]) == (2, 2, 2, 2)


async def test_an_answer_that_was_given_a_while_ago_woke_its_run_though_it_closed_others_since(
    ledger: Ledger, costs: Any, watch: Watch
) -> None:
    """As one that Prefect has kept: those that it closes are closed when it is taken in."""
    group = await parked(ledger, [approval("a"), signal("b")], need=Need.ANY)
    watch.forward(MINUTE)
    given_at = watch.now
    watch.forward(timedelta(seconds=1))
    await ledger.waits.settle(
        group.waits[0].id, outcome=Outcome.ANSWERED, answer='"yes"', door=Door.PREFECT, given_at=given_at
    )
    watch.forward(timedelta(seconds=2))
    assert await ledger.waits.consume("run", (await claim(ledger)).attempt, "a", '"yes"', "digest")
    [of_approvals, of_signals] = json.loads(await costs("--json"))
    assert (of_approvals["wake_seconds"], of_approvals["cost"], of_signals["wake_seconds"]) == (3, 3, 0)
