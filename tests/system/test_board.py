"""What the live table of `standby up` shows in the terminals that people have, and what it writes into a pipe."""

from __future__ import annotations

import asyncio
import re
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from standby import Approval, Policy, Signal
from standby.ledger import Ledger
from standby.states import RunState
from standby.up.board import Board
from tests.ledger import acts
from tests.system.terminal.bench import standby
from tests.system.terminal.conftest import ledger
from tests.system.test_deciding import OneLook

__all__ = ["ledger"]

API = "http://127.0.0.1:4310/api"
RUN_IDS = [f"50b699f5-105f-491b-b4a5-3d2adc0b123{number}" for number in range(1, 7)]
IN_POLICY, OVER_LIMIT, PRICE, NO_ORDER, CREDIT, CONTRADICTORY = RUN_IDS
NAMES = dict(
    zip(
        RUN_IDS,
        ["01-in-policy.xml", "02-over-limit.xml", "03-price-differs.xml", "04-no-order.xml", "05-credit-note.xml",
         "06-contradictory.xml"],
        strict=True,
    )
)  # fmt: skip
ERROR = (
    "ArithmeticMismatch: 06-contradictory.xml: cac:LegalMonetaryTotal/cbc:PayableAmount: it states 497.80, but 487.90 "
    "follows from the other amounts (BR-CO-16). Ask the supplier for a corrected document."
)
QUESTIONS = {
    OVER_LIMIT: Approval("Pay 7380.00 EUR to Diepblauw Serverbouw B.V. (NL900000663B01)?", policy=Policy(quorum=2)),
    PRICE: Approval("Pay 913.92 EUR to Stuhlwerk Brandt GmbH (DE900000738)?"),
    NO_ORDER: Approval("Pay 340.20 EUR to Kantine Morgenrot e.K. (DE900000812)?"),
}


async def parked(ledger: Ledger, run: str, name: str, wait: Any) -> Any:
    await named(ledger, run, name)
    group = await acts.open_group(ledger, [wait.row(wait.name)], run=run)
    await ledger.runs.park(run, 1, group.waits[0].group_key, acts.Hold.SUSPEND)
    return group.waits[0]


async def named(ledger: Ledger, run: str, name: str) -> None:
    await ledger.runs.claim(
        run, flow="invoice-agent", name=name, deployment_id="deployment", holder=acts.ME, lease=acts.LEASE
    )


async def the_samples(ledger: Ledger) -> dict[str, Any]:
    """The six invoices of the demo, when three of them ask; the questions by run."""
    await named(ledger, CONTRADICTORY, NAMES[CONTRADICTORY])
    await ledger.runs.end(CONTRADICTORY, 1, RunState.FAILED, error=ERROR)
    await named(ledger, CREDIT, NAMES[CREDIT])
    await ledger.runs.end(CREDIT, 1, RunState.COMPLETED, result='{"summary": "Credited 55.93 EUR"}')
    paid = Signal("payment.settled", key="pay_fe05606d44db43829e6bc80aad502d67")
    await parked(ledger, IN_POLICY, NAMES[IN_POLICY], paid)
    return {run: await parked(ledger, run, NAMES[run], wait) for run, wait in QUESTIONS.items()}


async def looked_at(ledger: Ledger, width: int, height: int, run_ids: list[str] | None = RUN_IDS) -> list[str]:
    """The lines of the live table in a terminal of this size."""
    file = StringIO()
    console = Console(
        file=file, width=width, height=height, force_terminal=True, color_system=None, highlight=False, soft_wrap=True
    )
    await Board(ledger, "", API, console).show(OneLook(), run_ids=run_ids)
    shown = re.sub(r"\x1b\]8;[^\x1b]*\x1b\\", "", file.getvalue())
    screen, _, _ = shown.partition("\r\x1b[2K\x1b[1A")
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen).strip("\n").split("\n")]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (70, 24), (60, 20), (120, 40), (200, 15)])
async def test_how_to_answer_each_question_is_in_sight(ledger: Ledger, width: int, height: int) -> None:
    waits = await the_samples(ledger)
    lines = await looked_at(ledger, width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    whole = "".join("".join(lines).split())  # what is wrapped
    for run, wait in waits.items():
        assert f"approve{wait.id[:8]}" in whole, lines
        assert (f"http://127.0.0.1:4310/runs/flow-run/{run}" in whole) is (run != OVER_LIMIT), lines
    assert "..." not in whole


async def test_a_terminal_as_most_are_shows_all_of_the_demo_and_the_questions_first(ledger: Ledger) -> None:
    await the_samples(ledger)
    lines = await looked_at(ledger, 80, 24)
    shown = [name for line in lines for name in NAMES.values() if line.startswith(f"{name} ")]
    assert set(shown[:3]) == {NAMES[run] for run in QUESTIONS}
    assert shown[3:] == [NAMES[IN_POLICY], NAMES[CONTRADICTORY], NAMES[CREDIT]]
    for wait in QUESTIONS.values():
        assert any(wait.reason in line for line in lines), lines
    [error, cut] = lines[lines.index(next(line for line in lines if line.startswith(NAMES[CONTRADICTORY]))) + 1 :][:2]
    assert (error.strip().startswith("ArithmeticMismatch: "), cut.endswith("…")) == (True, True)


async def test_where_the_height_does_not_do_the_runs_that_have_ended_are_a_number(ledger: Ledger) -> None:
    await the_samples(ledger)
    lines = await looked_at(ledger, 80, 20)
    assert "1 completed, 1 failed." in lines
    assert NAMES[CREDIT] not in "".join(lines)


async def test_more_questions_than_a_screen_holds_are_told_of(ledger: Ledger) -> None:
    waits = [await parked(ledger, f"run-{n:02}", f"{n:02}.xml", Approval(f"Pay {n}?")) for n in range(20)]
    lines = await looked_at(ledger, 80, 24, None)
    assert len(lines) <= 24
    in_sight = [wait for wait in waits if f"approve {wait.id[:8]}" in "".join(lines)]
    assert f"{20 - len(in_sight)} more ask something: `standby ps` shows how to answer." in lines
    assert len(in_sight) >= 9


async def test_into_a_pipe_each_receipt_is_a_line(ledger: Ledger) -> None:
    await the_samples(ledger)
    file = StringIO()
    await Board(ledger, "", API, Console(file=file, soft_wrap=True)).print_receipts([CONTRADICTORY, CREDIT])
    _, head, failed, completed = file.getvalue().splitlines()
    assert head.split() == ["run", "ended", "result"]
    assert failed.split(maxsplit=2) == [NAMES[CONTRADICTORY], "failed", ERROR]
    assert completed.split(maxsplit=2)[2].strip() == "Credited 55.93 EUR"


async def test_into_a_pipe_each_run_that_ps_lists_is_a_line(ledger: Ledger) -> None:
    await named(ledger, CONTRADICTORY, NAMES[CONTRADICTORY])
    await ledger.runs.end(CONTRADICTORY, 1, RunState.FAILED, error=f"{ERROR}\n{ERROR} {ERROR}")
    _, line = (await standby("ps", "--all")).out.splitlines()
    assert line.rstrip().endswith(f"{ERROR} {ERROR} {ERROR}")


async def test_what_ps_lists_in_a_narrow_terminal_is_read_below_its_run(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await the_samples(ledger)
    file = StringIO()
    narrow = Console(file=file, width=60, force_terminal=True, color_system=None, soft_wrap=True, highlight=False)
    monkeypatch.setattr("standby.cli.out", narrow)
    await asyncio.to_thread(lambda: asyncio.run(_ps()))
    lines = file.getvalue().splitlines()
    assert f"  {QUESTIONS[NO_ORDER].reason}" in lines
    assert max(map(len, lines)) <= 80


async def _ps() -> None:
    await standby("ps", "--all")
