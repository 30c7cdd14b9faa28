"""The invoice agent on a real server and worker: real documents, bad ones, and a bank that has its moods."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from prefect.states import Scheduled
from sqlalchemy import update

from standby import clock
from standby.ledger.tables import Wait, table_of
from standby.states import Door, Verdict
from tests.invoices.documents import CONTRADICTORY, NO_ORDER, OVER_LIMIT, PEPPOL_NAMES, SAMPLES, edited
from tests.support.waiting import wait_until
from tests.system.invoices import write_invoice
from tests.system.runs import Runs

pytestmark = pytest.mark.xdist_group("agents")  # one `standby up` for all of them

ASKED = {"Allowance-example.xml": "6000.00", "vat-category-E.xml": "1200.00"}
"""Above the limits, and what is approved of it: less than is due, and all of it."""

BY_TWO = {"Allowance-example.xml"}
"""Above 5,000 EUR: two people have to approve."""

UNASKED = {"base-example.xml": "1656.25", "sales-order-example.xml": "1656.25"}
CREDIT_NOTE = "base-creditnote-correction.xml"


async def test_the_official_peppol_documents_go_through(runs: Runs, peppol: Path, tmp_path: Path) -> None:
    """Approved where the policy does not cover them; a credit note is booked, and nothing is paid for it."""
    started = {}
    for name in PEPPOL_NAMES:
        # Three of them are one supplier's and have one number: in earnest, two of those would be duplicates.
        text = (peppol / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("<cbc:ID>Snippet1<", f"<cbc:ID>{name[:-4]}<", 1), encoding="utf-8")
        started[name] = await runs.start(path=tmp_path / name)
    for name, amount in ASKED.items():
        answer = runs.answer_twice if name in BY_TWO else runs.answer
        await answer(started[name], approved=True, amount=amount, account="6100")
    receipts = {name: await runs.receipt(run_id) for name, run_id in started.items()}
    paid = {name: receipt["amount"] for name, receipt in receipts.items() if receipt["outcome"] == "paid"}
    assert paid == ASKED | UNASKED
    assert {name for name, receipt in receipts.items() if receipt["account"] == "6100"} == ASKED.keys()
    for name, amount in paid.items():
        [payment] = await runs.payments(started[name])
        assert (payment["amount"], payment["status"]) == (amount, "settled")
    assert receipts[CREDIT_NOTE]["outcome"] == "credited"
    assert await runs.payments(started[CREDIT_NOTE]) == []


async def test_bad_files_fail_with_file_and_field_and_the_others_continue(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "cut.xml").write_bytes(edited(NO_ORDER)[:3000])
    (tmp_path / CONTRADICTORY).write_bytes((SAMPLES / CONTRADICTORY).read_bytes())
    started = {name: await runs.start(path=tmp_path / name) for name in ("cut.xml", CONTRADICTORY)}
    good = write_invoice(tmp_path, "GOOD-1")
    again = tmp_path / "the-same-again.xml"
    again.write_bytes(good.read_bytes())
    twins = {path.name: await runs.start(path=path) for path in (good, again)}

    assert (await runs.error(started["cut.xml"])).startswith("MalformedXml: cut.xml: document: it is not ")
    assert (await runs.error(started[CONTRADICTORY])).startswith(
        f"ArithmeticMismatch: {CONTRADICTORY}: cac:LegalMonetaryTotal/cbc:PayableAmount: it states 497.80"
    )

    # Of two runs for one document, one pays it and the other says which one that was.
    rows = {name: await runs.ends(run_id) for name, run_id in twins.items()}
    assert sorted(row.state for row in rows.values()) == ["completed", "failed"]
    [(name, late)] = [(name, row) for name, row in rows.items() if row.state == "failed"]
    [(first, other)] = [(name, row) for name, row in rows.items() if row.state == "completed"]
    assert late.error.startswith(f"DuplicateInvoice: {name}: cbc:ID: 'GOOD-1' of Kantine Morgenrot e.K. ")
    assert f"from {first} by run {other.id}" in late.error
    assert len(await runs.payments(other.id)) == 1
    assert await runs.payments(late.id) == []


async def test_a_bank_that_is_down_for_long_and_then_forgets_what_it_did_pays_once(runs: Runs, tmp_path: Path) -> None:
    await runs.bank.configure(down=True)
    run = await runs.start(path=write_invoice(tmp_path, "DOWN-1"))
    error = await runs.error(run)
    assert error.startswith(f"ProviderFailed: Payment provider at {runs.bank.url}/payments: it answered with status ")
    assert error.endswith("retry the run, which looks for it first.")

    await runs.bank.configure(down=False, forgetful=1)
    await runs.client.set_flow_run_state(UUID(run), Scheduled(name="AwaitingRetry"))  # Retry in the Prefect UI
    await wait_until(lambda: asked(runs, run, "POST", 500), 60, every=0.1, shows=lambda: runs.shown(run))
    assert (await runs.receipt(run))["outcome"] == "paid"
    # Was it ordered? No. Ordered, and forgotten. Was it ordered? Yes.
    assert (await runs.asked(run))[-3:] == [("GET", 200), ("POST", 500), ("GET", 200)]
    assert len(await runs.payments(run)) == 1


async def test_a_bank_that_answers_too_late_and_reports_too_early_pays_once(runs: Runs, tmp_path: Path) -> None:
    """The order is carried out and its answer held back; the report comes before the run waits for it, and is kept."""
    await runs.bank.configure(slow_seconds=3, settle_after=0)
    run = await runs.start(path=write_invoice(tmp_path, "SLOW-1"))
    await wait_until(lambda: runs.asked(run), 60, every=0.05, shows=lambda: runs.shown(run))
    await runs.bank.configure(slow_seconds=0)
    receipt = await runs.receipt(run)
    assert (receipt["outcome"], receipt["amount"]) == ("paid", "340.20")
    assert [method for method, _ in await runs.asked(run)].count("POST") == 1
    [payment] = await runs.payments(run)
    [report] = [each for each in await runs.bank.reports() if each["payment_id"] == payment["id"]]
    assert (report["state"], report["attempts"]) == ("delivered", 1)
    [decision] = await runs.ledger.waits.decisions_of(run)
    assert (decision.door, decision.actor) == (Door.SIGNAL, "webhook:bank")
    assert "kept since" in decision.note


async def test_a_bank_whose_report_stays_away_is_asked(runs: Runs, tmp_path: Path) -> None:
    await runs.bank.configure(report=False)
    run = await runs.start(path=write_invoice(tmp_path, "SILENT-1"))
    receipt = await runs.receipt(run)
    assert (receipt["outcome"], receipt["amount"]) == ("paid", "340.20")
    [settled] = [decision for decision in await runs.ledger.waits.decisions_of(run) if decision.door == Door.POLL]
    assert (settled.actor, settled.verdict) == ("tasks.find_settlement:find_settlement", Verdict.WON)


async def test_a_refused_answer_leaves_the_run_waiting_for_another_or_the_default(runs: Runs, tmp_path: Path) -> None:
    run = await runs.start(path=write_invoice(tmp_path, "GREEDY-1", OVER_LIMIT))
    wait = await runs.waits(run)
    await runs.answer_twice(run, approved=True, amount="9000.00")  # of the right type: only the run knows better

    async def asked_again() -> bool:
        row = await runs.ledger.waits.get(wait.id)
        return row is not None and row.refused is not None

    await wait_until(asked_again, 60, every=0.1, shows=lambda: runs.shown(run))
    again = await runs.waits(run)
    assert again.id == wait.id
    assert again.refused == "amount: 9000.00 is more than the 7380.00 EUR that is due"
    shown = await runs.project.standby("show", run)
    assert f"The last answer was refused: {again.refused}" in shown.out

    waits = table_of(Wait)
    three_days_pass = update(waits).where(waits.c.id == wait.id).values(deadline=clock.utcnow())
    assert await runs.ledger.database.write(three_days_pass) == 1
    receipt = await runs.receipt(run)
    assert (receipt["outcome"], receipt["comment"]) == ("declined", "nobody answered in three days")
    decisions = await runs.ledger.waits.decisions_of(run)
    assert [(decision.verdict, decision.door) for decision in decisions] == [
        ("counted", "terminal"),
        ("refused", "terminal"),
        ("won", "deadline"),
    ]
    assert await runs.payments(run) == []


async def asked(runs: Runs, run_id: str, method: str, answer: int) -> bool:
    return (method, answer) in await runs.asked(run_id)
