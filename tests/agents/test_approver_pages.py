"""What an approver's page shows of calls: every one, and of each every argument."""

import re
from typing import Any

import pytest

from standby.agents.evidence import MOST_IN_ONE, SEEN, ToShow, evidence_about
from standby.gateway.pages import EVIDENCE_CHARS
from standby.waits.showing import visible
from tests.agents.conftest import call
from tests.agents.mailer import Mailer
from tests.fundamentals.conftest import Desk


@pytest.mark.parametrize("padding", ["x" * 120_000, "`" * 120_000, "\x01" * 60_000], ids=["long", "fences", "unseen"])
async def test_each_call_of_a_form_is_seen_however_long_an_earlier_one_is(desk: Desk, padding: str) -> None:
    """Also where a page cuts the evidence; and all of each is there for who reads on."""
    mailer = Mailer([call("send", to="ada", text=padding), call("send", to="mallory", text="secret")], "done")
    run = await desk.start(mailer.flow)
    [wait] = await run.open_waits()
    page = wait.evidence[:EVIDENCE_CHARS]
    assert '"to": "ada"' in page
    assert '"to": "mallory"' in page
    assert '"text": "secret"' in page
    assert "of which the rest is below" in page
    assert visible(padding) in wait.evidence
    await run.answer({"approved": False})
    assert await run.result() == "done"


def test_each_argument_of_a_call_is_seen_however_long_an_earlier_one_is() -> None:
    arguments = {"note": "x" * 200_000, "lines": ["y" * 500] * 5_000, "of": {"b": ["z"] * 5_000}, "to": "mallory"}
    evidence = evidence_about("", [ToShow("send", arguments, "why")])
    assert '"to": "mallory"' in evidence[:EVIDENCE_CHARS]
    assert evidence.index("Whole:") < SEEN
    assert "x" * 200_000 in evidence
    short = [ToShow("send", {"to": "ada"}, "why")]
    assert evidence_about("mail", short) == 'Goal: mail\n\n**1. send**\n\n```text\n{\n  "to": "ada"\n}\n```\n\nwhy'


_PADDING: dict[str, Any] = {
    "many": {f"k{i}": i for i in range(9_000)},
    "in each other": [[[[1] * 10] * 10] * 10] * 10,
    "a name": {"x" * 120_000: 1},
    "names that begin alike": {f"{'x' * 500}{i}": 1 for i in range(500)},
    "objects in each other": {
        f"k{i}": {f"k{i}": {f"k{i}": 1 for i in range(15)} for i in range(15)} for i in range(15)
    },
    "unseen": "\u202e" * 10_000,
}


@pytest.mark.parametrize("padding", _PADDING.values(), ids=_PADDING)
@pytest.mark.parametrize("calls", [2, MOST_IN_ONE])
def test_no_argument_pushes_another_one_off_the_page(padding: Any, calls: int) -> None:
    others = {f"other_{number}": "short" for number in range(12)}
    pays = [ToShow("pay", {"meta": padding, **others, "to": f"m{n}"}, "why") for n in range(calls)]
    page = evidence_about("", pays)[:EVIDENCE_CHARS]
    assert [number for number in range(calls) if f'"to": "m{number}"' not in page] == []
    assert page.count('"other_11": "short"') >= calls
    cut = re.search(r'\([\d,]+ (characters|in all)\)"', page.partition('"other_0"')[0])
    assert cut is not None

    inside = [ToShow("pay", {"order": {"meta": padding, "to": "mallory"}}, "why")]
    seen = '"to": "mallory"' in evidence_about("", inside)[:EVIDENCE_CHARS]
    assert seen


def test_so_many_arguments_that_a_page_would_not_show_them_are_counted() -> None:
    many = {f"{'x' * 100}{n}": "y" * 100 for n in range(5_000)}
    page = evidence_about("", [ToShow("pay", many, "why"), ToShow("pay", {"to": "ada"}, "why")])[:EVIDENCE_CHARS]
    assert (page.count('(5,000 in all)"'), page.count('"to": "ada"')) == (1, 1)
    assert page.count("(100 characters)") > 100


async def test_so_many_calls_that_a_page_would_not_show_them_are_asked_about_in_several_waits(desk: Desk) -> None:
    many = [call("send", to=f"person {number}", text="x" * 3000) for number in range(MOST_IN_ONE + 2)]
    mailer = Mailer(many, "done")
    run = await desk.start(mailer.flow)
    [wait] = await run.open_waits()
    page = wait.evidence[:EVIDENCE_CHARS]
    assert [number for number in range(MOST_IN_ONE + 2) if f'"to": "person {number}"' not in page] == [
        MOST_IN_ONE, MOST_IN_ONE + 1,
    ]  # fmt: skip
    await run.answer({"approved": False}, key="mailer/1.asks")
    await run.answer({"approved": True, "refuse_1": True}, key="mailer/1.asks.2")
    assert await run.result() == "done"
    assert [to for to, _ in mailer.sent] == [f"person {MOST_IN_ONE + 1}"]
