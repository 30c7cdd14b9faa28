"""Several people at the terminal: their decisions are counted, and one stands in for another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from io import StringIO
from pathlib import Path
from typing import Literal

import pytest
from rich.console import Console

from standby import Approval, Policy
from standby.ledger import Ledger
from standby.links import read, secret_of
from standby.up.board import Board
from tasks.models import PaymentDecision
from tests.ledger import acts
from tests.system.terminal.bench import standby

RUN = "0b4b3a8e-5a0c-4b42-9a86-0d6ff4a3a777"
ASKED = Approval("Pay 9000 EUR?", policy=Policy(quorum=2, approvers=("ada", "bob"), not_by=("eve",)))


@pytest.fixture
async def ledger(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ledger]:
    monkeypatch.setenv("STANDBY_LEDGER_URL", sqlite_url)
    opened = await Ledger.connect(sqlite_url)
    yield opened
    await opened.close()


async def test_the_second_of_two_decides_and_who_may_not_is_told_why(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    [wait] = (await acts.parked(ledger, [ASKED.row("approval")], run=RUN)).waits
    monkeypatch.setenv("LOGNAME", "ada")
    said = await standby("approve", wait.id)
    assert (said.code, said.out) == (
        0, "Counted, as ada. 1 more has to approve: 2 people have to approve, of ada, bob, not eve.\n",
    )  # fmt: skip
    said = await standby("approve", wait.id)
    assert (said.code, said.err) == (
        1, "Not counted, the wait is as it was: ada has decided already, and counts once.\n",
    )  # fmt: skip
    monkeypatch.setenv("LOGNAME", "zoe")
    assert "zoe is not among ada, bob" in (await standby("approve", wait.id)).err
    assert (await standby("delegations", "add", "bob", "zoe", "--days", "3")).code == 0
    assert (await standby("approve", wait.id)).out.startswith("Approved: Pay 9000 EUR?")
    shown = (await standby("show", RUN, "--json")).json["decisions"]
    counted = [(one["actor"], one["in_place_of"], one["verdict"]) for one in shown]
    assert counted == [
        ("ada", None, "counted"), ("ada", None, "refused"), ("zoe", None, "refused"), ("zoe", "bob", "won"),
    ]  # fmt: skip


async def test_each_approval_of_several_counts_and_the_last_one_decides(ledger: Ledger) -> None:
    [wait] = (await acts.parked(ledger, [Approval("Pay?", policy=Policy(quorum=2)).row("approval")], run=RUN)).waits
    said = [(await standby("approve", wait.id, "--as", name, "--json")).json for name in ("ada", "bob")]
    assert [(one["counted"], one["decided"]) for one in said] == [(True, False), (True, True)]


async def test_two_people_answer_from_one_terminal_each_under_a_name(ledger: Ledger) -> None:
    """Before the first, after it, and after both: who decides, and who has, is shown; a decision has the name given."""
    question = Approval("Pay 9000 EUR?", policy=Policy(quorum=2))
    [wait] = (await acts.parked(ledger, [question.row("approval")], run=RUN)).waits
    shown = " ".join((await standby("ps")).out.split())
    assert "Pay 9000 EUR? (2 people have to approve)" in shown
    assert f"standby approve {wait.id[:8]} --as NAME once for each person, with their name" in shown
    assert (await standby("approve", wait.id, "--as", " ")).code == 1
    assert (await standby("approve", wait.id, "--as", "ada", "--json")).json["counted"] is True
    assert "(2 people have to approve; so far: ada)" in " ".join((await standby("ps")).out.split())
    [listed] = (await standby("ps", "--json")).json
    assert (listed["wait"]["decided_by"], listed["wait"]["so_far"]) == ("2 people have to approve", ["ada"])
    assert "so far: ada" in (await standby("show", RUN)).out
    assert (await standby("approve", wait.id, "--as", "bob", "--json")).json["accepted"] is True
    decisions = (await standby("show", RUN, "--json")).json["decisions"]
    assert [(one["actor"], one["verdict"], one["door"]) for one in decisions] == [
        ("ada", "counted", "terminal"), ("bob", "won", "terminal"),
    ]  # fmt: skip
    for late, who in (("ada", "ada (you) and bob"), ("bob", "ada and bob (you)"), ("zoe", "ada and bob")):
        said = (await standby("approve", wait.id, "--as", late)).out
        assert said.startswith(f"Too late: {who} have decided it together, with {{")


@pytest.mark.parametrize(
    ("policy", "answer", "decided"),
    [
        (Policy(), "approve", [("standby up --answer", "won")]),
        (Policy(quorum=2), "approve", [("standby up --answer 1", "counted"), ("standby up --answer 2", "won")]),
        (Policy(quorum=2), "reject", [("standby up --answer 1", "won")]),
        (
            Policy(quorum=2, approvers=("ada", "eve", "bob"), not_by=("eve",)),
            "approve",
            [("ada", "counted"), ("bob", "won")],
        ),
    ],
)
async def test_the_board_that_answers_by_itself_is_as_many_people_as_it_takes(
    ledger: Ledger, policy: Policy, answer: str, decided: list[tuple[str, str]]
) -> None:
    await acts.parked(ledger, [Approval("Pay?", policy=policy).row("approval")], run=RUN)
    board = Board(ledger, "", "", Console(file=StringIO()))
    await board.show(OneLook(), auto_answer=answer)
    assert [(one.actor, one.verdict) for one in await ledger.waits.decisions_of(RUN)] == decided


async def test_the_board_takes_no_for_an_answer(ledger: Ledger) -> None:
    """A person has approved something else: each of its people is told so once, and not twice a second."""
    question = Approval("Pay?", form=PaymentDecision, policy=Policy(quorum=2))
    [wait] = (await acts.parked(ledger, [question.row("approval")], run=RUN)).waits
    assert (await standby("approve", wait.id, "--as", "ada", "--set", "amount=1", "--json")).json["counted"]
    said = StringIO()
    board = Board(ledger, "", "", Console(file=said, width=200))
    for _ in range(3):
        await board.show(OneLook(), auto_answer="approve")
    assert said.getvalue().count('ada has approved with amount="1": approve the same, or reject') == 2
    assert len(await ledger.waits.decisions_of(RUN)) == 3


class OneLook(asyncio.Event):
    """Stops a board as soon as it has looked once, and would wait."""

    async def wait(self) -> Literal[True]:
        self.set()
        return True


@pytest.mark.usefixtures("ledger")
async def test_delegations_are_listed_and_ended() -> None:
    assert (await standby("delegations")).out == "Nobody decides in the place of another.\n"
    assert (await standby("delegations", "add", "bob", "bob")).code == 1
    assert (await standby("delegations", "add", "bob", "zoe")).out == "zoe decides in the place of bob.\n"
    [listed] = (await standby("delegations", "--json")).json
    assert listed == {"from": "bob", "to": "zoe", "until": None, "in_force": True}
    assert (await standby("delegations", "end", "bob")).out == "bob decides alone again.\n"
    again = await standby("delegations", "end", "bob")
    assert (again.code, again.sentence.startswith("bob has delegated to nobody.")) == (1, True)


@pytest.mark.parametrize("command", [["links", RUN, "--for", "ada"], ["gateway"], ["keeper"]], ids=lambda said: said[0])
async def test_a_gateways_address_that_is_none_is_refused_where_it_is_read(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    """By what serves at its start."""
    await acts.parked(ledger, [ASKED.row("approval")], run=RUN)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("STANDBY_GATEWAY_URL", "agents.example")
    said = await standby(*command)
    assert (said.code, "STANDBY_GATEWAY_URL is 'agents.example'" in said.err) == (1, True), said


async def test_a_link_is_for_somebody_who_may_decide_and_says_how_long_it_is_good(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STANDBY_HOME", str(tmp_path))
    [wait] = (await acts.parked(ledger, [ASKED.row("approval")], run=RUN)).waits
    assert "Set STANDBY_GATEWAY_URL" in (await standby("links", wait.id, "--for", "ada")).err
    (tmp_path / "up.json").write_text('{"gateway_url": "http://127.0.0.1:4280"}')
    said = await standby("links", wait.id, "--for", "ada")
    address, sentence, _ = said.out.split("\n")
    assert address.startswith("http://127.0.0.1:4280/answer/")
    assert sentence.startswith("Whoever has it answers as ada, once, until 20")
    monkeypatch.setenv("STANDBY_GATEWAY_URL", "https://agents.example/")
    made = (await standby("links", RUN, "--for", "ada", "--json")).json
    assert (made["person"], made["wait_id"]) == ("ada", wait.id)
    link = read(made["link"].removeprefix("https://agents.example/answer/"), await secret_of(ledger))
    assert link is not None
    assert (link.person, link.opening) == ("ada", 1)
    for person, why in (
        ("eve", "eve may not decide this"),
        ("zoe", "zoe is not among ada, bob"),
        (" ", "--for has 0 characters"),
    ):
        said = await standby("links", wait.id, "--for", person)
        assert (said.code, why in said.err) == (1, True), said
