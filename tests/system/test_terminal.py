"""The terminal's commands against a ledger alone: what they print, what they refuse, who is told what."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.client.schemas.objects import State
from prefect.states import Cancelled
from pydantic import BaseModel
from sqlalchemy import delete, update
from typer.testing import CliRunner

from standby.agents.forms import More
from standby.cli import app
from standby.ledger import Ledger
from standby.ledger.opening import WaitRow
from standby.ledger.tables import Run, Wait, table_of
from standby.states import Hold, Need, RunState
from standby.terminal import no_answer
from standby.waits import Approval, Condition, Signal, Timer, quoted
from standby.wakeups import Listener
from tasks import find_settlement
from tasks.models import PaymentDecision, Settlement
from tests.ledger import acts
from tests.support.forks import Fork, Forks
from tests.support.ports import reserved_port
from tests.system.project import Result

RUN = "0b4b3a8e-5a0c-4b42-9a86-0d6ff4a3a001"
OTHER = "0b4b3a8e-5a0c-4b42-9a86-0d6ff4a3a002"
THIRD = "0b4b3a8e-5a0c-4b42-9a86-0d6ff4a3a003"

PAY = Approval(
    "Pay 340.20 EUR to Kantine Morgenrot?",
    form=PaymentDecision,
    show="| due |\n|---|\n| 340.20 EUR |",
    party="accounts payable",
    within=timedelta(days=3),
    otherwise=PaymentDecision(approved=False, comment="nobody answered"),
)
LATER = "goes on when its Prefect server is up again, which cannot be reached now."
SETTLED = Signal("payment.settled", key="pay_1", of=Settlement, party="bank")
REPORT = json.dumps(
    {
        "payment_id": "pay_1",
        "status": "settled",
        "amount": "3.00",
        "currency": "EUR",
        "settled_at": "2026-03-01T12:00:00Z",
    }
)


@pytest.fixture
async def ledger(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ledger]:
    """The ledger that the terminal finds; no Prefect server is known."""
    monkeypatch.setenv("STANDBY_HOME", str(tmp_path))
    opened = await Ledger.connect(sqlite_url)
    yield opened
    await opened.close()


async def standby(*arguments: str) -> Result:
    """A command, as `standby ARGUMENTS` in a shell."""
    done = await asyncio.to_thread(CliRunner(env={"COLUMNS": "200"}).invoke, app, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Result(done.exit_code, done.stdout, done.stderr)


async def parked(ledger: Ledger, *waits: Any, run: str = RUN, **how: Any) -> list[Any]:
    """A run parked at these waits; their rows."""
    rows: list[WaitRow] = [wait.row(f"w{n}" if n else wait.name) for n, wait in enumerate(waits)]
    return (await acts.parked(ledger, rows, run=run, **how)).waits


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


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (["approve"], {"approved": True, "amount": None, "account": None, "comment": ""}),
        (["approve", "--comment", "fine"], {"approved": True, "amount": None, "account": None, "comment": "fine"}),
        (
            ["approve", "--set", "amount=300.15", "--set", "account=6000", "--set", "comment=a=b"],
            {"approved": True, "amount": "300.15", "account": "6000", "comment": "a=b"},
        ),
        (["reject"], {"approved": False, "amount": None, "account": None, "comment": ""}),
    ],
)
async def test_an_answer_is_stored_as_the_form_reads_it(
    ledger: Ledger, command: list[str], answer: dict[str, Any]
) -> None:
    [wait] = await parked(ledger, PAY)
    said = await standby(*command, wait.id[:8], "--json")
    assert (said.code, said.json) == (
        0,
        {"accepted": True, "wait_id": wait.id, "run_id": RUN, "woken": False, "counted": True, "decided": True},
    )
    settled = await ledger.waits.get(wait.id)
    assert settled is not None
    stored = json.loads(settled.answer)
    assert stored == answer


async def test_any_form_is_answered_with_json(ledger: Ledger) -> None:
    class Route(BaseModel):
        stops: list[str]

    [wait] = await parked(ledger, Approval("Which way?", form=Route))
    said = await standby("answer", RUN, '{"stops": ["Kiel", "Oslo"]}', "--json")
    assert said.json["accepted"], said
    assert json.loads((await ledger.waits.get(wait.id)).answer) == {"stops": ["Kiel", "Oslo"]}


@pytest.mark.parametrize(
    ("command", "field", "reason"),
    [
        (["approve", "--set", "acount=6000"], "acount", "the form has no such field"),
        (["approve", "--set", "amount=much"], "amount", "Input should be a valid decimal"),
        (["approve", "--set", "amount=-1"], "amount", "Input should be greater than or equal to 0"),
        (["approve", "--set", "account=no such account"], "account", "String should match pattern"),
        (["answer", "{}"], "approved", "Field required"),
        (["answer", "[true]"], "answer", "Input should be an object"),
        (["answer", "{approved"], "answer", "it is not JSON"),
        (["answer", '{"approved": true, "amount": NaN}'], "answer", "NaN is not a JSON value"),
    ],
)
async def test_a_wrong_field_is_named_and_the_run_still_waits(
    ledger: Ledger, command: list[str], field: str, reason: str
) -> None:
    [wait] = await parked(ledger, PAY)
    arguments = [command[0], wait.id, *command[1:]]
    said = await standby(*arguments)
    assert said.code == 1
    assert f"The answer to wait {wait.id[:8]} was refused, the run is still waiting. {field}: " in said.sentence
    assert reason in said.sentence
    assert "the form has: approved, amount, account, comment" in said.sentence
    said = await standby(*arguments, "--json")
    assert (said.code, said.json["accepted"], said.json["wait_id"]) == (1, False, wait.id)
    [[named, why]] = said.json["problems"]
    assert (named, reason in why) == (field, True)
    assert (await ledger.waits.get(wait.id)).state == "open"
    assert await acts.state_of_run(ledger, RUN) == "parked"


async def test_a_field_without_a_value_is_a_mistake_in_the_command(ledger: Ledger) -> None:
    await parked(ledger, PAY)
    said = await standby("approve", RUN, "--set", "account")
    assert said.code == 2
    assert "--set takes name=value, not 'account'." in said.sentence


async def test_who_answers_second_is_told_who_won_and_with_what(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    [wait] = await parked(ledger, PAY)
    monkeypatch.setenv("LOGNAME", "ada")
    assert (await standby("approve", wait.id)).out == (f"Approved: {PAY.reason} Run name of {RUN} {LATER}\n")
    monkeypatch.setenv("LOGNAME", "bob")
    said = await standby("reject", wait.id)
    assert (said.code, said.out.startswith('Too late: ada was first, with {"approved":true,')) == (1, True), said
    said = await standby("reject", wait.id, "--json")
    assert (said.code, said.json["accepted"], said.json["winner"]["actor"]) == (1, False, "ada")
    assert said.json["winner"]["answer"]["approved"] is True
    assert [(each.actor, each.verdict) for each in await ledger.waits.decisions_of(RUN)] == [
        ("ada", "won"),
        ("bob", "lost"),
        ("bob", "lost"),
    ]


async def test_who_answers_twice_is_not_told_that_somebody_else_was_first(ledger: Ledger) -> None:
    [wait] = await parked(ledger, PAY)
    assert (await standby("approve", wait.id, "--as", "ada")).code == 0
    said = await standby("approve", wait.id, "--as", "ada")
    assert (said.code, said.out.startswith('Too late: you have answered it already, with {"approved":true')) == (
        1,
        True,
    )


async def test_a_prefect_server_that_is_away_is_named_with_what_to_do(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    said = await standby("ps")
    assert (said.code, said.out) == (1, "")
    assert said.err == (
        "The Prefect server at http://127.0.0.1:9/api, whose block names the ledger, cannot be asked: "
        "All connection attempts failed. Start it, correct PREFECT_API_URL, or set STANDBY_LEDGER_URL to the "
        "ledger's address.\n"
    )
    # Of the `standby up` that was here; what waits is still listed, without a page that is not there.
    monkeypatch.delenv("PREFECT_API_URL")
    await parked(ledger, PAY)
    (tmp_path / "up.json").write_text('{"api_url": "http://127.0.0.1:9/api"}')
    said = await standby("ps")
    assert (said.code, "To answer, type:" in said.out) == (0, True)
    assert "press Resume" not in said.out
    assert "flow-run/" not in said.out
    assert said.out.endswith("Prefect at http://127.0.0.1:9/api does not answer, so there are no pages to answer on.\n")
    assert no_answer(httpx.ConnectError("")) == (
        "The Prefect server at http://127.0.0.1:9/api cannot be asked: ConnectError. "
        "Start it with `standby up`, or set PREFECT_API_URL."
    )


async def test_who_answers_second_by_the_name_of_the_run_is_told_too_though_it_has_ended(ledger: Ledger) -> None:
    await parked(ledger, PAY)
    assert (await standby("approve", RUN, "--as", "ada")).code == 0
    assert await acts.claim(ledger, RUN)
    assert await ledger.runs.end(RUN, 2, RunState.COMPLETED, result="null")
    said = await standby("approve", f"name of {RUN}", "--as", "bob")
    assert said.code == 1
    assert said.out.startswith("Too late: ada was first, with {")
    assert said.out.endswith(f"The question was: {PAY.reason} Run name of {RUN} is completed.\n")


async def test_an_answer_is_taken_without_a_prefect_server_and_what_is_missing_is_said(
    ledger: Ledger, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a terminal of its own: a library's logging would show there, not under the test runner."""
    port, reserved = reserved_port()  # nobody listens there
    with reserved:
        monkeypatch.setenv("STANDBY_LEDGER_URL", sqlite_url)
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
        [wait] = await parked(ledger, PAY)
        command = [sys.executable, "-m", "standby", "approve", wait.id[:8]]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    said = f"Approved: {PAY.reason} Run name of {RUN} {LATER}"
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{said}\n", "")


async def test_what_goes_wrong_is_json_too_where_json_was_asked_for(ledger: Ledger) -> None:
    said = await standby("show", "nothing", "--json")
    assert (said.code, said.err) == (1, "")
    assert said.json == {
        "error": "There is no agent run nothing in the ledger. `standby ps --all` lists the ones it has."
    }


async def test_of_several_waits_one_must_be_named(ledger: Ledger) -> None:
    first, second = await parked(ledger, PAY, Approval("Tell the supplier?"), need=Need.ALL)
    said = await standby("approve", RUN)
    assert said.code == 1
    either = f"{first.id[:8]} ({PAY.reason} Run name of {RUN}), {second.id[:8]} (Tell the supplier? Run name of {RUN})"
    assert f"could be any of {either}. Give more of the wait's id." in said.sentence
    assert (await standby("approve", second.id[:8])).code == 0
    assert (await standby("approve", RUN, "--json")).json["wait_id"] == first.id  # the one that is left


async def test_of_several_runs_one_must_be_named(ledger: Ledger) -> None:
    await parked(ledger, PAY)
    await parked(ledger, PAY, run=OTHER)
    said = await standby("show", RUN[:8])
    assert f"it could be any of {RUN} (name of {RUN}), {OTHER} (name of {OTHER}); give the run's id." in said.sentence
    assert "could be any of" in (await standby("approve", RUN[:8])).sentence


async def test_the_beginning_of_an_id_may_be_a_wait_s_and_another_run_s(ledger: Ledger) -> None:
    """Then it is neither: what was looked at must be what is approved."""
    [wait] = await parked(ledger, PAY)
    other = f"{wait.id[:8]}-5a0c-4b42-9a86-0d6ff4a3a009"
    await parked(ledger, Approval("Tell the supplier?"), run=other)
    for command in ("approve", "show"):
        assert "could be any of" in (await standby(command, wait.id[:8])).sentence
    assert await acts.states_of(ledger, RUN) == {"approval": "open"}
    assert (await standby("approve", wait.id[:9], "--json")).json["wait_id"] == wait.id
    assert (await standby("approve", wait.id[:8], "--json")).json["run_id"] == other, "the one that is open"


async def test_approve_approves_and_reject_rejects(ledger: Ledger) -> None:
    await parked(ledger, PAY)
    said = await standby("approve", RUN, "--set", "approved=false")
    assert (said.code, "approved is what the command says" in said.sentence) == (2, True)
    assert await acts.states_of(ledger, RUN) == {"approval": "open"}
    assert (await standby("reject", RUN)).out.startswith(f"Rejected: {PAY.reason} Run name of {RUN} goes on")


async def test_who_answers_second_and_wrong_is_told_who_was_first_all_the_same(ledger: Ledger) -> None:
    [wait] = await parked(ledger, PAY)
    assert (await standby("answer", wait.id, '{"approved": true}', "--as", "ada")).out.startswith("Approved: ")
    said = await standby("approve", wait.id, "--set", "acount=6000")
    assert (said.code, said.out.startswith("Too late: ada was first")) == (1, True)


async def test_a_signal_that_is_no_json_is_not_taken(ledger: Ledger) -> None:
    said = await standby("signal", "payment.settled", "{status: lost}")
    assert (
        said.code,
        said.sentence.startswith("The signal payment.settled was not taken. payload: it is not JSON"),
    ) == (
        1,
        True,
    )


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["show", "nothing"], "There is no agent run nothing in the ledger. `standby ps --all` lists the ones it has."),
        (["approve", "nothing"], "There is no wait to answer at nothing: no wait or run begins with that."),
        (["reject", "%"], "it is no run's name, and the beginning of an id has 6 characters or more."),
        (["approve", ""], "There is no wait to answer at ''"),
        (["show", ""], "There is no agent run '' in the ledger."),
        (["approve", OTHER], f"run name of {OTHER} is parked and waits for nobody."),
    ],
)
async def test_an_unknown_target_is_said_and_nothing_is_answered(
    ledger: Ledger, command: list[str], sentence: str
) -> None:
    await parked(ledger, PAY)
    await parked(ledger, Timer(timedelta(days=1)), run=OTHER)
    said = await standby(*command)
    assert said.code == 1
    assert sentence in said.sentence
    in_json = await standby(*command, "--json")
    assert (in_json.code, sentence in in_json.json["error"]) == (1, True)
    assert await acts.states_of(ledger, RUN) == {"approval": "open"}


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["signal", "", "1"], "The topic has 0 characters. It takes 1 to 255."),
        (["signal", "t", "1", "--key", "k" * 12_000], "--key has 12000 characters. It takes 1 to 255."),
        (["signal", "t", "1", "--key", "\udcff"], "--key cannot be stored: it has half of a surrogate pair"),
        (["delegations", "add", "bob", "z" * 300], "TO has 300 characters"),
        (["delegations", "add", "", "zoe"], "FROM has 0 characters"),
        (["keys", "add", "", "--role", "sender"], "NAME has 0 characters"),
        (["approve", "anything", "--as", " "], "--as has 0 characters"),
    ],
)
async def test_a_name_that_no_door_takes_is_refused(ledger: Ledger, command: list[str], says: str) -> None:
    said = await standby(*command)
    assert said.code == 1
    assert says in said.sentence


async def test_who_asks_after_the_end_is_told_what_the_person_said(ledger: Ledger) -> None:
    """Not what a message said that came since."""
    await parked(ledger, PAY)
    await standby("approve", f"name of {RUN}", "--as", "ada")
    attempt = (await acts.claim(ledger, RUN)).attempt
    await acts.open_group(ledger, [SETTLED.row("settled")], run=RUN, attempt=attempt, key="settled")
    assert (await standby("signal", "payment.settled", REPORT, "--key", "pay_1")).code == 0
    assert await ledger.runs.end(RUN, attempt, RunState.COMPLETED, result='"paid"')
    said = await standby("approve", f"name of {RUN}")
    assert said.code == 1
    assert said.out.startswith("Too late: ada was first, with {")
    assert said.out.endswith(f"The question was: {PAY.reason} Run name of {RUN} is completed.\n")


async def test_a_beginning_of_an_id_that_is_soon_another_s_stands_for_nothing(ledger: Ledger) -> None:
    [wait] = await parked(ledger, PAY)
    for target in (wait.id[:5], RUN[:5]):
        assert "the beginning of an id has 6 characters or more" in (await standby("approve", target)).sentence
    assert (await standby("approve", wait.id[:6])).code == 0


async def test_nobody_answers_a_timer(ledger: Ledger) -> None:
    [timer] = await parked(ledger, Timer(timedelta(days=1)))
    assert "it waits for a time, which nobody answers" in (await standby("answer", timer.id, "null")).sentence


async def test_nobody_approves_a_message_and_what_stands_in_for_it_is_an_answer(ledger: Ledger) -> None:
    """Who reaches the terminal may say what the message would have said; never by a slip."""
    [wait] = await parked(ledger, Signal("parcel.sent", key="o 7"))
    for word in ("approve", "reject"):
        said = await standby(word, wait.id)
        assert (said.code, "waits for a signal, which nobody approves" in said.sentence) == (1, True)
        assert "signal parcel.sent --key 'o 7' 'JSON'" in said.sentence
    wrong = await standby("answer", wait.id, "{")
    assert "it is not JSON" in wrong.sentence
    assert "the form has" not in wrong.sentence
    assert (await ledger.waits.get(wait.id)).state == "open"
    assert (await standby("answer", wait.id, '{"by": "post"}')).code == 0


async def test_a_signal_is_delivered_once_and_then_a_duplicate_or_late(ledger: Ledger) -> None:
    [wait] = await parked(ledger, SETTLED)
    send = ["signal", "payment.settled", REPORT, "--source", "bank", "--json"]
    said = await standby(*send, "--key", "pay_1", "--id", "d-1")
    first = said.json
    assert (said.code, first["disposition"], first["wait_id"], first["run_id"]) == (0, "delivered", wait.id, RUN)
    said = await standby(*send, "--key", "pay_1", "--id", "d-1")
    assert (said.code, said.json["disposition"], said.json["signal_id"]) == (0, "duplicate", first["signal_id"])
    assert (said.json["first"], said.json["run_id"]) == ("delivered", RUN)
    said = await standby(*send[:-1], "--key", "pay_1", "--id", "d-1")
    assert said.out == f"This delivery was taken before, and was delivered to run {RUN}; nothing changed.\n"
    assert await ledger.runs.end(RUN, 1, RunState.COMPLETED, result="null")
    said = await standby(*send, "--key", "pay_1", "--id", "d-2")
    assert (said.code, said.json["disposition"], said.json["wait_id"]) == (1, "late", None)
    assert [signal.source for signal in await ledger.signals.all()] == ["bank", "bank"]


async def test_a_corrected_signal_under_the_same_delivery_id_is_told_to_come_under_a_new_one(ledger: Ledger) -> None:
    await parked(ledger, SETTLED)
    for payload, why in (('{"status": "lost"}', "Refused, the run"), (REPORT, "This delivery was refused before")):
        again = await standby("signal", "payment.settled", payload, "--key", "pay_1", "--id", "d-1")
        assert (again.code, why in again.out, "payment_id: Field required" in again.out) == (1, True, True), again
    assert "Send it under a new --id." in again.out


async def test_a_signal_that_does_not_fit_is_refused_and_can_be_listed_and_sent_again(ledger: Ledger) -> None:
    [wait] = await parked(ledger, SETTLED)
    said = await standby("signal", "payment.settled", '{"status": "lost"}', "--key", "pay_1")
    assert said.code == 1
    assert "Refused, the run is still waiting." in said.out
    assert "status: Input should be 'settled'" in said.out
    assert await acts.states_of(ledger, RUN) == {"payment.settled": "open"}
    [dead] = (await standby("signals", "--dead", "--json")).json
    assert (dead["topic"], dead["disposition"], dead["wait_id"]) == ("payment.settled", "rejected", wait.id)
    again = await standby("signals", "redrive", dead["id"][:8])
    assert (again.code, "Refused again." in again.out) == (1, True)
    assert "rejected" in (await standby("signals")).out
    assert "0 signals begin with 'zz'" in (await standby("signals", "redrive", "zz")).sentence


async def test_keys_are_made_listed_and_revoked(ledger: Ledger) -> None:
    made = (await standby("keys", "add", "ada", "--role", "approver", "--party", "finance", "--json")).json
    [listed] = (await standby("keys", "list", "--json")).json
    assert (listed["id"], listed["name"], listed["parties"], listed["state"]) == (
        made["id"],
        "ada",
        ["finance"],
        "good",
    )
    assert made["key"] not in (await standby("keys", "list")).out
    assert (await standby("keys", "revoke", made["id"][:8])).out == "The key of ada is revoked.\n"
    assert [key["state"] for key in (await standby("keys", "list", "--json")).json] == ["revoked"]
    assert "No key's id begins with 'zz'" in (await standby("keys", "revoke", "zz")).sentence


async def test_what_was_not_done_has_exit_code_1(ledger: Ledger) -> None:
    key = (await standby("keys", "add", "ada", "--role", "approver", "--party", "finance", "--json")).json
    assert [(await standby("keys", "revoke", key["id"])).code for _ in range(2)] == [0, 1]
    for role in ("sender", "viewer", "admin"):
        said = await standby("keys", "add", "bob", "--role", role, "--party", "finance")
        assert (said.code, "--party goes with --role approver" in said.sentence) == (1, True)
    assert len(await ledger.keys.all()) == 1
    await standby("delegations", "add", "ada", "bob")
    assert [(await standby("delegations", "end", "ada")).code for _ in range(2)] == [0, 1]
    assert "nobody has delegated to nobody" in (await standby("delegations", "end", "nobody")).sentence


async def test_each_sentence_of_an_answer_ends(ledger: Ledger) -> None:
    [wait] = await parked(ledger, Signal("parcel.sent", key="p1"))
    assert (await standby("answer", wait.id, "1")).out.startswith("Answered: parcel.sent for p1. Run ")
    assert "The question was: parcel.sent for p1. Run " in (await standby("answer", wait.id, "2")).out


@pytest.mark.usefixtures("ledger")
async def test_a_gateway_says_that_its_port_is_taken_before_it_says_that_it_is_up() -> None:
    port, taken = reserved_port()
    with taken:
        taken.listen()
        said = await standby("gateway", "--port", str(port))
    remedy = "Stop what listens there, or choose another: --port (STANDBY_GATEWAY_PORT)."
    assert (said.code, said.out, said.err) == (1, "", f"Port {port} is taken by another program. {remedy}\n")


async def test_a_signal_that_comes_early_is_kept_and_used(ledger: Ledger) -> None:
    said = await standby("signal", "payment.settled", '{"status": "settled"}', "--key", "pay_1")
    assert (said.code, said.out) == (0, "No run waits for it yet, under the key pay_1: it is kept for seven days.\n")
    attempt = (await acts.claim(ledger, RUN)).attempt
    group = await acts.open_group(ledger, [SETTLED.row("payment.settled")], run=RUN, attempt=attempt)
    assert group.ready
    assert json.loads(group.waits[0].answer) == {"status": "settled"}
    # Without an id of its own, each call is a delivery of its own.
    assert (await standby("signal", "other", "1", "--json")).json["disposition"] == "buffered"
    assert (await standby("signal", "other", "1", "--json")).json["disposition"] == "buffered"


async def test_a_signal_may_start_the_run_it_is_for(ledger: Ledger) -> None:
    """Where no Prefect server is known it is taken all the same, and started when there is one."""
    send = ["signal", "order.placed", "{}", "--start", "seller/live", "--payload-as", "order"]
    assert "key: a signal that may start a run needs one" in (await standby(*send)).sentence
    assert (await standby(*send, "--key", "7")).out == "A run will be started with it.\n"
    assert (await standby("signal", "x", "--start", "seller")).sentence == "--start is flow/deployment, not 'seller'."
    assert (await standby("signal", "x", "--payload-as", "order")).sentence == "--payload-as goes with --start."
    [start] = await ledger.starts.all()
    assert (start.deployment, start.parameters) == ("seller/live", '{"order": {}}')


async def test_a_signal_that_is_not_json_is_refused(ledger: Ledger) -> None:
    said = await standby("signal", "payment.settled", "{status")
    assert said.code == 1
    assert "payload: it is not JSON" in said.sentence
    assert await ledger.signals.all() == []


async def test_a_run_that_waits_in_its_process_hears_of_its_answer(ledger: Ledger) -> None:
    async with Listener.open() as listener:
        attempt = (await acts.claim(ledger, RUN)).attempt
        await acts.open_group(ledger, [PAY.row("approval")], run=RUN, attempt=attempt)
        await ledger.runs.park(RUN, attempt, "approval", Hold.PAUSE, listener.address)
        assert (await standby("approve", RUN, "--json")).json["woken"] is True
        async with asyncio.timeout(10):
            await listener.wait(20)


async def test_an_answer_is_taken_while_prefect_is_away(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("STANDBY_LEDGER_URL", str(ledger.database.url.set(drivername="sqlite")))
    await parked(ledger, PAY)
    said = await standby("approve", RUN, "--json")
    assert (said.code, said.json["accepted"], said.json["woken"]) == (0, True, False)


async def test_the_doctor_finds_what_must_not_be_and_says_what_to_do(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = await standby("doctor", "--json")
    assert (said.code, said.json) == (0, [])
    assert (await standby("doctor")).out == "All is well.\n"
    [wait] = await parked(ledger, PAY)
    assert (await standby("doctor")).code == 0
    await ledger.database.write(delete(table_of(Wait)).where(table_of(Wait).c.id == wait.id))
    said = await standby("doctor", "--json")
    assert said.code == 1
    [finding] = said.json
    assert (finding["run_id"], finding["problem"]) == (RUN, "is parked with 0 open waits [], not one")
    assert (await standby("doctor")).out == f"Run {RUN} {finding['problem']}. {finding['remedy']}\n"

    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("STANDBY_LEDGER_URL", str(ledger.database.url.set(drivername="sqlite")))
    away = await standby("doctor")
    assert away.code == 1
    assert "Prefect at http://127.0.0.1:9/api/ cannot be reached" in away.out


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


async def test_a_key_is_revoked_by_its_id_and_a_name_is_told_which_ids_it_has(ledger: Ledger) -> None:
    made = [
        (await standby("keys", "add", name, "--role", "viewer", "--json")).json["id"] for name in ("bob", "bob", "ada")
    ]
    said = await standby("keys", "revoke", "bob")
    assert said.code == 1
    assert said.sentence == (
        "No key's id begins with 'bob', and keys are revoked by their ids. "
        f"Those of bob: {', '.join(sorted(key[:8] for key in made[:2]))}."
    )
    assert (await standby("keys", "revoke", "nobody")).sentence == (
        "No key's id begins with 'nobody', and keys are revoked by their ids. `standby keys list` shows them."
    )
    assert (await standby("keys", "revoke", made[0][:8])).out == "The key of bob is revoked.\n"
    assert "2 keys" not in (await standby("keys", "revoke", "bob")).sentence
    assert made[0][:8] not in (await standby("keys", "revoke", "bob")).sentence, "it is revoked already"


@pytest.mark.parametrize("command", ["ps", "show", "approve", "signal", "doctor"])
async def test_a_ledger_that_cannot_be_used_is_said_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("STANDBY_HOME", str(tmp_path / "home"))
    (tmp_path / "home").write_text("a file where a folder should be")
    arguments = {"show": ["x"], "approve": ["x"], "signal": ["x"]}.get(command, [])
    assert str(tmp_path / "home") in (await standby(command, *arguments)).sentence
    monkeypatch.setenv("STANDBY_LEDGER_URL", "mysql://ada:secret@host/ledger")
    said = await standby(command, *arguments)
    assert "'mysql' is neither sqlite nor postgresql" in said.sentence
    assert "secret" not in said.sentence


NASTY = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eyap\r\x08[red]bold[/red]"
"""Sets the window's title, clears the screen, turns the text around, and is markup to the library that prints it."""

FORBIDDEN = ["\x1b]", "\x07", "\x1b[2J", "\x9b", "\u202e", "\x08"]


@pytest.mark.parametrize(
    "command",
    [
        ["ps", "--all"],
        ["ps", "--json"],
        ["show", RUN],
        ["show", RUN, "--json"],
        ["show", OTHER],
        ["show", THIRD],
        ["approve", RUN],
        ["approve", NASTY],
        ["doctor"],
    ],
)
async def test_what_came_from_elsewhere_is_not_obeyed_by_the_terminal(
    ledger: Ledger, forks: Forks, command: list[str]
) -> None:
    class Odd(BaseModel):
        nasty: str = NASTY

    approval = Approval(f"Pay {NASTY}?", show=f"Evidence {NASTY}", party=NASTY)
    signal = Signal(f"topic {NASTY}", key=NASTY)
    form = Approval("Fields", form=Odd, show={NASTY: NASTY})
    await parked(ledger, approval, signal, form, need=Need.ALL)
    await ledger.database.write(update(table_of(Run)).where(table_of(Run).c.id == RUN).values(name=NASTY))
    await acts.claim(ledger, OTHER)
    await ledger.runs.end(OTHER, 1, RunState.FAILED, error=NASTY)
    await acts.claim(ledger, THIRD)
    await ledger.runs.end(THIRD, 1, RunState.COMPLETED, result=json.dumps({NASTY: NASTY}))
    said = await asyncio.to_thread(on_a_terminal, forks, command)
    assert "owned" in said or (command == ["doctor"] and "All is well." in said)
    assert [mark for mark in FORBIDDEN if mark in said] == [], repr(said)


def on_a_terminal(forks: Forks, command: list[str]) -> str:
    """What a real process writes to a terminal."""
    ours, its = pty.openpty()
    process, written = Fork(), b""
    forks.start(process, ["standby", *command], env=os.environ, cwd=Path.cwd(), log=Path(os.ttyname(its)))
    # Read while it writes, for a terminal holds little; and what is left when it has ended.
    ended = False
    while not ended:
        ended = not process.running
        while select.select([ours], [], [], 0 if ended else 0.05)[0]:
            written += os.read(ours, 65536)
    os.close(its)
    os.close(ours)
    return written.decode()


WORDS = " ".join(f"w{number}" for number in range(120))
LONG = "".join(f"w{number}" for number in range(120))
ROW = "|".join(f"w{number}" for number in range(120))


@pytest.mark.parametrize(
    "shown",
    [
        quoted(WORDS),
        quoted(LONG),
        f"> {WORDS}",
        f"> {LONG}",
        f"- {WORDS}\n- {LONG}",
        f"| a | b |\n|---|---|\n| {LONG} | {WORDS} |",
        f"|{ROW}|\n{'|---' * 120}|\n|{ROW}|",
        f"# {LONG}",
        f"<div>{WORDS}</div>",
        f"[where](https://example.org/{LONG})",
        f"![what](https://example.org/{LONG})",
    ],
    ids=["block", "unbroken", "quote", "unbroken quote", "list", "table", "many columns", "title", "html", "link",
         "image"],
)  # fmt: skip
async def test_nothing_that_a_person_is_to_see_is_cut_off(ledger: Ledger, forks: Forks, shown: str) -> None:
    """In a terminal, and in a pipe."""
    await parked(ledger, Approval("Go on?", show=shown))
    for said in (await asyncio.to_thread(on_a_terminal, forks, ["show", RUN]), (await standby("show", RUN)).out):
        whole = re.sub(r"\x1b\[[0-9;]*m|\s|▌", "", said)
        assert [word for word in WORDS.split() if word not in whole] == []


async def test_a_long_key_of_a_checkpoint_is_shown_whole(ledger: Ledger, forks: Forks) -> None:
    await acts.parked(ledger, [Approval("Go on?").row(LONG[:250])], run=RUN)
    said = await asyncio.to_thread(on_a_terminal, forks, ["show", RUN])
    assert LONG[:250] in re.sub(r"\s", "", said.partition("Go on?")[0].replace("wait", "").replace("intended", ""))
