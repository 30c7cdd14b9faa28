"""`standby ps` and `show`: who waits for what, and what is seen of a run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect.client.schemas.objects import State
from prefect.states import Cancelled
from pydantic import BaseModel
from sqlalchemy import update

from standby.agents.forms import More
from standby.ledger import Ledger
from standby.ledger.tables import Wait, table_of
from standby.states import RunState
from standby.waits import Approval, Condition
from tasks import find_settlement
from tests.ledger import acts
from tests.system.terminal.bench import PAY, RUN, parked, standby


async def test_ps_lists_who_waits_for_what_and_since_when(ledger: Ledger) -> None:
    [wait] = await parked(ledger, PAY)
    [listed] = (await standby("ps", "--json")).json
    now = datetime.now(UTC)
    assert (listed["run_id"], listed["flow"], listed["name"]) == (RUN, "an-agent", f"name of {RUN}")
    assert (listed["state"], listed["step"], listed["error"], listed["ui"]) == ("parked", "approval", None, None)
    shown = listed["wait"]
    assert listed["waits"] == [shown]
    assert (shown["id"], shown["kind"], shown["reason"]) == (wait.id, "approval", PAY.reason)
    assert (shown["party"], shown["state"]) == ("accounts payable", "open")
    opened, deadline = datetime.fromisoformat(shown["opened_at"]), datetime.fromisoformat(shown["deadline"])
    assert now - timedelta(minutes=1) < opened <= now
    assert abs(deadline - opened - timedelta(days=3)) < timedelta(seconds=1)
    assert 0 <= shown["age_seconds"] < 60
    assert shown["default"]["approved"] is False

    said = await standby("ps")
    assert PAY.reason in " ".join(said.out.split())
    assert f"approve {wait.id[:8]}" in said.out


class Booked(BaseModel):
    approved: bool
    account: str
    amount: float
    comment: str = ""


@pytest.mark.parametrize(("form", "sets"), [(More, "--set amount=N"), (Booked, "--set account=VALUE --set amount=N")])
async def test_the_command_that_ps_prints_says_what_else_has_to_be_said(
    ledger: Ledger, form: type[BaseModel], sets: str
) -> None:
    """With a number and a word filled in it approves."""
    [wait] = await parked(ledger, Approval("Grant more?", form=form))
    said = (await standby("ps")).out
    assert f"approve {wait.id[:8]} {sets}\n" in said
    assert (await standby("approve", wait.id[:8])).code == 1, "and without it it does not"
    typed = sets.replace("=N", "=5").replace("=VALUE", "=4930").split()
    assert (await standby("approve", wait.id[:8], *typed)).code == 0


async def test_words_between_colons_are_no_pictures(ledger: Ledger) -> None:
    await acts.claim(ledger, RUN)
    assert await ledger.runs.end(RUN, 1, RunState.FAILED, error="a.xml: cbc:ID: is missing")
    for said in (await standby("ps", "--all"), await standby("show", RUN), await standby("approve", ":ID:")):
        assert ":ID:" in said.out + said.err


async def test_ps_lists_runs_that_ended_only_when_asked(ledger: Ledger) -> None:
    assert (await standby("ps")).out == "No agent is running or waiting here.\n"
    await acts.claim(ledger, RUN)
    assert await ledger.runs.end(RUN, 1, RunState.FAILED, error="ValueError: no")
    assert (await standby("ps", "--json")).json == []
    [listed] = (await standby("ps", "--all", "--json")).json
    assert (listed["state"], listed["error"], listed["wait"]) == ("failed", "ValueError: no", None)


@pytest.mark.parametrize("followed_first", [False, True])
async def test_who_cancelled_a_run_is_kept_and_shown(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, followed_first: bool
) -> None:
    """Also where the host, which follows Prefect, has told the ledger first: Prefect does not know who it was."""
    await parked(ledger, PAY)
    state = Cancelled()

    async def in_prefect(_client: Any, run_id: str, _message: str) -> State[Any]:
        if followed_first:
            await ledger.runs.end_from_outside(run_id, RunState.CANCELLED, "Cancelled in Prefect", after=str(state.id))
        return state

    monkeypatch.setattr("standby.parking.cancel", in_prefect)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    monkeypatch.setenv("STANDBY_LEDGER_URL", str(ledger.database.url))
    monkeypatch.setenv("LOGNAME", "ada")
    assert (await standby("cancel", RUN)).out == f"Run name of {RUN} is cancelled by ada.\n"
    shown = (await standby("show", RUN, "--json")).json
    assert (shown["state"], shown["cancelled_by"], shown["cancelled_door"]) == ("cancelled", "ada", "terminal")
    for said in (await standby("show", RUN), await standby("ps", "--all")):
        assert "cancelled by ada through terminal" in said.out


async def test_show_tells_a_run_whole_by_its_id_its_name_or_its_wait(ledger: Ledger) -> None:
    [wait] = await parked(ledger, PAY)
    for target in (RUN, RUN[:8], f"name of {RUN}", wait.id):
        shown = (await standby("show", target, "--json")).json
        assert shown["run_id"] == RUN
    assert (shown["run_id"], shown["state"], shown["attempt"], shown["result"]) == (RUN, "parked", 1, None)
    assert shown["checkpoints"] == [{"key": "approval", "kind": "wait", "state": "intended"}]
    assert [each["id"] for each in shown["waits"]] == [wait.id]
    assert shown["decisions"] == []

    await standby("reject", wait.id[:8], "--comment", "too dear")
    shown = (await standby("show", wait.id[:8], "--json")).json
    [decision] = shown["decisions"]
    assert (decision["wait"], decision["verdict"], decision["door"]) == (wait.id, "won", "terminal")
    assert decision["answer"]["comment"] == "too dear"
    assert (shown["state"], shown["wait"]) == ("ready", None)
    said = (await standby("show", RUN)).out
    assert "340.20 EUR" in said
    assert "too dear" in said


async def test_a_poll_that_failed_and_an_answer_that_was_refused_are_seen_beside_what_is_waited_for(
    ledger: Ledger,
) -> None:
    paid = Condition("paid", key="7", poll=find_settlement.find_settlement, args={"payment_id": "7"})
    [wait] = await parked(ledger, paid)
    assert "poll failed" not in (await standby("ps")).out
    await ledger.polls.not_yet(wait, "ConnectionError: the bank\nis shut")
    assert "paid for 7; the last poll failed: ConnectionError: the bank is shut" in (await standby("ps")).out
    assert "paid for 7; the last poll failed: ConnectionError: the bank is shut" in (await standby("show", RUN)).out
    refused = update(table_of(Wait)).where(table_of(Wait).c.id == wait.id).values(refused="too late", poll_note=None)
    await ledger.database.write(refused)
    assert "paid for 7; the last answer was refused: too late" in (await standby("ps")).out


async def test_why_an_answer_was_refused_is_seen_when_the_wait_is_over_too(ledger: Ledger) -> None:
    [wait] = await parked(ledger, PAY)
    await standby("approve", RUN, "--as", "ada")
    attempt = (await acts.claim(ledger, RUN)).attempt or await acts.take_over(ledger, RUN)
    assert await ledger.waits.refuse(RUN, attempt, wait.id, "at most 300")
    await acts.answer(ledger, wait.id, '{"approved":false}', actor="bob")
    [first, second] = [line for line in (await standby("show", RUN)).out.splitlines() if "(terminal)" in line]
    assert ("refused" in first, first.endswith(": at most 300")) == (True, True)
    assert second.endswith('{"approved": false}')
