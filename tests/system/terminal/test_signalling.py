"""`standby signal`, `standby keys` and the doctor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import delete

from standby.ledger import Ledger
from standby.ledger.tables import Wait, table_of
from standby.states import RunState
from tests.ledger import acts
from tests.support.ports import reserved_port
from tests.system.terminal.bench import OTHER, PAY, REPORT, RUN, SETTLED, parked, standby


async def test_a_signal_that_is_no_json_is_not_taken(ledger: Ledger) -> None:
    said = await standby("signal", "payment.settled", "{status: lost}")
    assert (
        said.code,
        said.sentence.startswith("The signal payment.settled was not taken. payload: it is not JSON"),
    ) == (
        1,
        True,
    )


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


async def test_the_doctor_finds_what_must_not_be_and_says_what_to_do(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = await standby("doctor", "--json")
    assert (said.code, said.json) == (0, [])
    assert (await standby("doctor")).out == "All is well.\n"
    assert (await standby("doctor", "--all")).out == "All is well.\n"
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


@pytest.mark.parametrize("named", [f"name of {RUN}", RUN, "0b4b3a8e", "the wait"])
async def test_a_stop_finds_its_run_as_the_other_commands_do(ledger: Ledger, named: str) -> None:
    """By its name, its id or the beginning of it, or that of its wait; the agent looks for the whole id."""
    [wait] = await parked(ledger, PAY)
    said = await standby("signal", "agent.stop", '"enough"', "--key", wait.id[:8] if named == "the wait" else named)
    assert (said.code, said.out) == (
        0,
        f"The agent stops before its next model request; until then this is kept, under the key {RUN}.\n",
    )
    assert [(one.topic, one.correlation) for one in await ledger.signals.all()] == [("agent.stop", RUN)]
    assert await ledger.signals.is_kept("agent.stop", RUN)


async def test_a_stop_that_would_reach_no_agent_is_refused_with_the_reason(ledger: Ledger) -> None:
    for run in (RUN, OTHER):
        await acts.claim(ledger, run)
    assert await ledger.runs.end(OTHER, 1, RunState.COMPLETED, result="null")
    why = {
        "nonsense": "There is no agent run nonsense in the ledger. `standby ps --all` lists the ones it has.",
        RUN[:8]: f"There is no one agent run {RUN[:8]}: it could be any of {RUN} (name of {RUN}), {OTHER} (name of "
        f"{OTHER}); give the run's id. `standby ps --all` lists all runs.",
        OTHER: f"Run name of {OTHER} has ended: it is completed, and nothing is left to stop. `standby ps` lists the "
        "runs that have not.",
    }
    for key, sentence in why.items():
        said = await standby("signal", "agent.stop", '"enough"', "--key", key)
        assert (said.code, said.sentence) == (1, sentence)
    said = await standby("signal", "agent.stop", '"enough"', "--json")
    assert (said.code, said.json) == (
        1,
        {"error": "A stop needs the run that it stops: --key with its id (the beginning will do) or its name. "
         "`standby ps` lists them."},
    )  # fmt: skip
    assert await ledger.signals.all() == []


async def test_a_stop_that_was_sent_before_is_known_to_have_been_when_its_run_is_over(ledger: Ledger) -> None:
    await acts.claim(ledger, RUN)
    arguments = ("signal", "agent.stop", '"enough"', "--key", RUN, "--id", "1")
    assert (await standby(*arguments)).code == 0
    assert await ledger.runs.end(RUN, 1, RunState.COMPLETED, result="null")
    said = await standby(*arguments)
    assert said.code == 0
    assert said.out.startswith("This delivery was taken before")
    assert "has ended" in (await standby(*arguments[:-1], "2")).sentence


async def test_a_stop_waits_for_a_run_that_has_yet_to_begin(ledger: Ledger) -> None:
    """Prefect has made it, and the ledger does not know it yet: by its whole id only."""
    assert (await standby("signal", "agent.stop", '"enough"', "--key", RUN)).code == 0
    assert await ledger.signals.is_kept("agent.stop", RUN)
