"""Answering in the terminal: what is taken, what is refused, who is told what."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from standby.ledger import Ledger
from standby.states import Hold, Need, RunState
from standby.terminal import no_answer
from standby.waits import Approval, Signal, Timer
from standby.wakeups import Listener
from tests.ledger import acts
from tests.support.ports import reserved_port
from tests.system.terminal.bench import LATER, OTHER, PAY, REPORT, RUN, SETTLED, parked, standby


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


async def test_a_run_that_waits_in_its_process_hears_of_its_answer(ledger: Ledger) -> None:
    async with Listener.open() as listener:
        attempt = (await acts.claim(ledger, RUN)).attempt
        await acts.open_group(ledger, [PAY.row("approval")], run=RUN, attempt=attempt)
        await ledger.runs.park(RUN, attempt, "approval", Hold.PAUSE, listener.address)
        assert (await standby("approve", RUN, "--json")).json["woken"] is True
        async with asyncio.timeout(10):
            await listener.wait(20)


async def test_of_a_warm_run_that_was_called_it_is_not_said_that_it_goes_on_whatever_is_in_the_way(
    ledger: Ledger,
) -> None:
    """Only its host knows whether its turn has come. Until then it is shown as waiting for that."""
    async with Listener.open() as listener:
        attempt = (await acts.claim(ledger, RUN)).attempt
        await acts.open_group(ledger, [PAY.row("approval")], run=RUN, attempt=attempt)
        await ledger.runs.park(RUN, attempt, "approval", Hold.WARM, f"{listener.address}#{RUN}")
        said = await standby("approve", RUN)
    assert said.out == (
        f"Approved: {PAY.reason} Run name of {RUN} goes on at once, unless its host's slots are taken or its work pool "
        "is paused or full.\n"
    )
    assert "ready approval its turn to go on" in " ".join((await standby("ps")).out.split())
    assert "ready, waits for its turn to go on" in (await standby("show", RUN)).out


async def test_an_answer_is_taken_while_prefect_is_away(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("STANDBY_LEDGER_URL", str(ledger.database.url.set(drivername="sqlite")))
    await parked(ledger, PAY)
    said = await standby("approve", RUN, "--json")
    assert (said.code, said.json["accepted"], said.json["woken"]) == (0, True, False)
