"""Approval links: one person, one opening of one wait, once; whoever looks changes nothing."""

from __future__ import annotations

import asyncio
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from html import unescape
from typing import Any, Literal

import httpx
import pytest
from pydantic import BaseModel, Field

from standby import Approval, Policy, doors
from standby.errors import NotAllowed, UnknownWait
from standby.ledger import Ledger
from standby.links import LONGEST, address_of, link_for
from standby.states import Door, RunState, Verdict, WaitState
from tests.gateway.conftest import Gate
from tests.ledger.acts import answer, claim, open_group, parked, signal, state_of_run, take_over
from tests.ledger.conftest import Watch
from tests.ledger.conftest import watch as watch  # the fixture

HOUR = timedelta(hours=1)
SCRIPT = "<script>alert('x')</script>"


class Payment(BaseModel):
    approved: bool = Field(title="Pay")
    amount: Decimal = Field(default=Decimal("12.50"), gt=0, title="Amount", description="In EUR.")
    account: Literal["4930", "6300"]
    urgent: bool = True
    days: int | None = None
    lines: list[int] = []
    comment: str = ""


GOOD = {"approved": "true", "amount": "12.50", "account": '"4930"', "urgent": "false", "days": "", "lines": "[1]",
        "comment": "fine"}  # fmt: skip


async def asked(ledger: Ledger, wait: Approval[Any] | None = None, run: str = "run") -> Any:
    """A parked run's approval, as it stands in the ledger."""
    wait = wait or Approval("Pay?", party="finance")
    return (await parked(ledger, [wait.row("approval")], run=run)).waits[0]


async def link(gate: Gate, wait: Any, person: str = "ada") -> str:
    """A link's path."""
    return await address_of(gate.ledger, await link_for(gate.ledger, wait, person), "")


async def audit(ledger: Ledger, run: str = "run") -> list[tuple[str, str | None, str]]:
    return [(one.door, one.actor, one.verdict) for one in await ledger.waits.decisions_of(run)]


def said(page: httpx.Response) -> str:
    """The text of a page as a person reads it."""
    body = re.sub(r"(?s)<style>.*</style>", "", page.text)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


async def test_who_holds_the_link_answers_once_and_the_audit_says_who(gate: Gate) -> None:
    wait = await asked(gate.ledger, Approval("Pay?", form=Payment, party="finance"))
    path = await link(gate, wait)
    assert (await gate.client.get(path)).status_code == 200
    sent = await gate.client.post(path, data=GOOD)
    assert (sent.status_code, "Your answer counts" in said(sent)) == (200, True)
    assert "The agent goes on with it; should it not accept it, the question is asked anew." in said(sent)
    settled = await gate.ledger.waits.get(wait.id)
    assert Payment.model_validate_json(settled.answer) == Payment(
        approved=True, amount=Decimal("12.50"), account="4930", urgent=False, lines=[1], comment="fine"
    )
    assert await state_of_run(gate.ledger) == RunState.READY
    assert await audit(gate.ledger) == [("link", "ada", Verdict.WON)]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT"])
async def test_whoever_follows_the_link_approves_nothing(door: Gate, method: str) -> None:
    """A mail scanner, a preview, a browser that fetches ahead."""
    wait = await asked(door.ledger)
    path = await link(door, wait)
    for _ in range(2):
        assert (await door.client.request(method, path)).status_code == (405 if method in ("OPTIONS", "PUT") else 200)
    assert (await door.client.get(f"{path}?approved=true")).status_code == 200
    assert (await door.ledger.waits.get(wait.id)).state == WaitState.OPEN
    assert await audit(door.ledger) == []


async def test_a_used_link_says_so_and_a_replay_is_refused(door: Gate) -> None:
    """Row 57."""
    path = await link(door, await asked(door.ledger))
    assert (await door.client.post(path, data={"approved": "true"})).status_code == 200
    for replay in (await door.client.get(path), await door.client.post(path, data={"approved": "false"})):
        assert replay.status_code == 410
        assert "This link has been used The answer of ada was taken on 20" in said(replay)
        assert said(replay).endswith(": approved. Standby")
    assert await audit(door.ledger) == [("link", "ada", Verdict.WON), ("link", "ada", Verdict.LOST)]


@pytest.mark.parametrize("policy", [None, Policy(quorum=2, approvers=("ada", "bob"))], ids=["one", "quorum"])
async def test_two_clicks_at_once_count_once(gate: Gate, policy: Policy | None) -> None:
    path = await link(gate, await asked(gate.ledger, Approval("Pay?", party="finance", policy=policy)))
    sent = await asyncio.gather(*(gate.client.post(path, data={"approved": "true"}) for _ in range(5)))
    assert Counter(one.status_code for one in sent) == {200: 1, 410: 4}
    kept = Counter(verdict for _, _, verdict in await audit(gate.ledger))
    assert kept == ({Verdict.WON: 1, Verdict.LOST: 4} if policy is None else {Verdict.COUNTED: 1, Verdict.REFUSED: 4})


async def test_two_people_decide_by_their_links(gate: Gate) -> None:
    policy = Policy(quorum=2, approvers=("ada", "bob", "eve"), not_by=("eve",))
    wait = await asked(gate.ledger, Approval("Pay?", policy=policy))
    first, second = await link(gate, wait, "ada"), await link(gate, wait, "bob")
    page = await gate.client.post(first, data={"approved": "true"})
    assert "The agent waits on: 2 people have to approve, of ada, bob, eve, not eve." in said(page)
    assert (await gate.client.get(first)).status_code == 410
    assert (await gate.client.post(second, data={"approved": "true"})).status_code == 200
    assert await audit(gate.ledger) == [("link", "ada", Verdict.COUNTED), ("link", "bob", Verdict.WON)]


async def test_who_has_decided_gets_no_link_and_one_from_before_says_so(gate: Gate) -> None:
    """Whatever the door was."""
    [wait] = (await parked(gate.ledger, [Approval("Pay?", policy=Policy(quorum=2)).row("approval")])).waits
    before = await link(gate, wait, "ada")
    made = await doors.answer(gate.ledger, wait, '{"approved": true}', door=Door.TERMINAL, actor="ada", api_url=None)
    assert made.counted
    page = await gate.client.get(before)
    assert (page.status_code, "You have answered already The answer of ada was taken on" in said(page)) == (410, True)
    with pytest.raises(NotAllowed, match="ada has decided already"):
        await link(gate, wait, "ada")
    other = said(await gate.client.get(await link(gate, wait, "bob")))
    assert "Who decides 2 people have to approve; so far: ada" in other


async def test_who_may_not_decide_gets_no_link_and_one_from_before_is_refused(door: Gate) -> None:
    """Row 58: self-approval."""
    wait = await asked(door.ledger, Approval("Pay?", policy=Policy(approvers=("ada",), not_by=("eve",))))
    for person in ("eve", "zoe"):
        with pytest.raises(NotAllowed):
            await link_for(door.ledger, wait, person)
    forged = await link_for(door.ledger, wait, "ada")
    path = await address_of(door.ledger, forged._replace(person="eve"), "")
    sent = await door.client.post(path, data={"approved": "true"})
    assert (sent.status_code, ": eve may not decide this." in said(sent)) == (403, True)
    [decision] = await door.ledger.waits.decisions_of("run")
    assert (decision.verdict, decision.actor, decision.note) == (Verdict.REFUSED, "eve", "eve may not decide this")


async def test_who_stands_in_gets_a_link_while_it_lasts(door: Gate) -> None:
    wait = await asked(door.ledger, Approval("Pay?", policy=Policy(approvers=("ada",))))
    await door.ledger.delegations.give("ada", "zoe", None)
    mine, theirs = await link(door, wait, "ada"), await link(door, wait, "zoe")
    assert (await door.client.post(theirs, data={"approved": "true"})).status_code == 200
    page = await door.client.get(mine)
    assert "The answer of ada was taken by zoe, in the place of ada, on" in said(page)


async def test_what_somebody_else_decided_says_who_was_first(door: Gate) -> None:
    wait = await asked(door.ledger)
    path = await link(door, wait)
    await answer(door.ledger, wait.id, '{"approved":false}', actor="bob")
    for late in (await door.client.get(path), await door.client.post(path, data={"approved": "true"})):
        assert late.status_code == 409
        assert "This is decided bob was first, on" in said(late)
        assert ": rejected." in said(late)
    assert await audit(door.ledger) == [("terminal", "bob", Verdict.WON), ("link", "ada", Verdict.LOST)]


async def test_a_link_is_for_one_opening_of_its_wait(gate: Gate) -> None:
    """Row 57: the run refused the answer and asks anew; what was approved before is not approved now."""
    wait = await asked(gate.ledger)
    unused, used = await link(gate, wait, "bob"), await link(gate, wait, "ada")
    assert (await gate.client.post(used, data={"approved": "true"})).status_code == 200
    attempt = (await claim(gate.ledger)).attempt or await take_over(gate.ledger)
    assert await gate.ledger.waits.refuse("run", attempt, wait.id, "too little")
    again = await gate.ledger.waits.get(wait.id)
    why = {unused: "The question was asked anew since this link was made: the last answer was refused: too little.",
           used: "The answer of ada, approved, was not accepted: too little. The question was asked anew."}  # fmt: skip
    for old in (unused, used):
        for late in (await gate.client.get(old), await gate.client.post(old, data={"approved": "true"})):
            assert (late.status_code, "about an earlier question" in said(late)) == (410, True)
            assert f"{why[old]} It is answered by a newer link: look for a newer message, or ask for one" in said(late)
    assert (await gate.ledger.waits.get(wait.id)).state == WaitState.OPEN
    assert [verdict for _, _, verdict in await audit(gate.ledger)] == [Verdict.REFUSED] * 3
    page = await gate.client.get(await link(gate, again))
    assert "The last answer was refused: too little" in said(page)
    await answer(gate.ledger, wait.id, '{"approved":false}', actor="eve")
    assert "not accepted: too little. The question was asked anew. eve was first" in said(await gate.client.get(used))


async def test_a_link_ends_with_the_deadline_and_after_seven_days(door: Gate, watch: Watch) -> None:
    """Row 58: and whoever tries it later is in the audit."""
    short = await asked(door.ledger, Approval("Pay?", by=watch.now + HOUR), run="short")
    long = await asked(door.ledger, Approval("Pay?", by=watch.now + 2 * LONGEST), run="long")
    for wait, good in ((short, HOUR), (long, LONGEST)):
        path = await link(door, wait)
        watch.forward(good - timedelta(seconds=1))
        assert (await door.client.get(path)).status_code == 200
        watch.forward(timedelta(seconds=1))
        for late in (await door.client.get(path), await door.client.post(path, data={"approved": "true"})):
            assert (late.status_code, "This link has expired" in said(late)) == (410, True)
        assert await audit(door.ledger, wait.run_id) == [("link", "ada", Verdict.REFUSED)]
    with pytest.raises(UnknownWait, match="past its deadline"):
        await link_for(door.ledger, short, "ada")


async def test_who_may_not_decide_gets_no_link_and_it_is_said_why(door: Gate) -> None:
    wait = await asked(door.ledger, Approval("Pay?", policy=Policy(approvers=("ada",))))
    says = rf"There is no link to wait {wait.id[:8]} for mallory: mallory is not among ada\. `standby show`"
    with pytest.raises(NotAllowed, match=says):
        await link_for(door.ledger, wait, "mallory")


async def test_there_are_links_to_open_approvals_only(door: Gate) -> None:
    [wait] = (await parked(door.ledger, [signal()])).waits
    with pytest.raises(UnknownWait, match="a link is for an open approval"):
        await link_for(door.ledger, wait, "ada")
    done = await asked(door.ledger, run="done")
    await answer(door.ledger, done.id)
    with pytest.raises(UnknownWait, match="is settled"):
        await link_for(door.ledger, await door.ledger.waits.get(done.id), "ada")


def _forgeries(token: str, other: str) -> Iterator[str]:
    text, _, signature = token.partition(".")
    says = json.loads(urlsafe_b64decode(text + "=="))
    for place, value in ((0, "another"), (1, 2), (2, "eve"), (3, says[3] + 1)):
        changed = [value if index == place else part for index, part in enumerate(says)]
        yield (
            urlsafe_b64encode(json.dumps(changed, separators=(",", ":")).encode()).rstrip(b"=").decode()
            + "."
            + signature
        )
    yield text + "." + other.partition(".")[2]
    yield from (text, f"{text}.", f".{signature}", f"{token}=", f"{token}.", f"-{token}", token[:-1], token.swapcase())
    yield from ("x", "%00", "%ff", "%ed%a0%80", "a.b.c", "ä.ä", "%F0%9F%98%80", "x" * 5000)


async def test_a_token_that_was_not_signed_here_opens_nothing(door: Gate) -> None:
    """Row 57: for another wait, run or person, cut, or made up."""
    wait, other = await asked(door.ledger), await asked(door.ledger, run="other")
    token = (await link(door, wait)).removeprefix("/answer/")
    for forged in _forgeries(token, (await link(door, other)).removeprefix("/answer/")):
        for page in (
            await door.client.get(f"/answer/{forged}"),
            await door.client.post(f"/answer/{forged}", data=GOOD),
        ):
            assert (page.status_code, "This link is not valid" in said(page)) == (404, True), forged
    assert await audit(door.ledger) == await audit(door.ledger, "other") == []


async def test_the_secret_is_made_once_for_all_processes_of_a_ledger(gate: Gate, ledger_url: str) -> None:
    others = [await Ledger.connect(ledger_url) for _ in range(3)]
    made = await asyncio.gather(*(one.secrets.get("links") for one in [gate.ledger, *others] for _ in range(3)))
    assert len(set(made)) == 1
    assert len(made[0]) == 32
    assert await gate.ledger.secrets.get("another") != made[0]
    for one in others:
        await one.close()


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ({"amount": "-1"}, "Amount In EUR. Input should be greater than 0"),
        ({"amount": "much"}, "Amount In EUR. Input should be a valid decimal"),
        ({"account": ""}, "Account 4930 6300 Field required"),
        ({"account": "9999"}, "Account 4930 6300 Input should be '4930' or '6300'"),
        ({"urgent": "perhaps"}, "Input should be a valid boolean"),
        ({"days": "1.5"}, "Days optional Input should be a valid integer"),
        ({"lines": '["x"]'}, "0: Input should be a valid integer"),
        ({"lines": "[1e400]"}, "it is not JSON: Out of range float"),
        ({"lines": "[" * 3000}, "it is not JSON"),
        ({"lines": "[" * 101 + "]" * 101}, "it is not JSON: it is nested more than 100 deep"),
        ({"approved": "yes please"}, "Approve Reject Input should be a valid boolean"),
        ({"another": "1"}, "another: the form has no such field"),
    ],
)
async def test_what_does_not_fit_is_said_beside_its_field_and_what_was_typed_is_kept(
    door: Gate, typed: dict[str, str], says: str
) -> None:
    """Row 31: the run waits on, and the next try counts."""
    wait = await asked(door.ledger, Approval("Pay?", form=Payment))
    path = await link(door, wait)
    page = await door.client.post(path, data=GOOD | typed | {"comment": f"so be it {SCRIPT}"})
    assert (page.status_code, says in re.sub(r"\[+ ", "", said(page))) == (422, True), said(page)
    assert "so be it &lt;script&gt;" in page.text
    assert SCRIPT not in page.text
    assert (await door.ledger.waits.get(wait.id)).state == WaitState.OPEN
    assert (await door.client.post(path, data=GOOD)).status_code == 200


@pytest.mark.parametrize(
    ("body", "sent_as", "status"),
    [
        (b"", "application/x-www-form-urlencoded", 422),
        (b"approved=%ff", "application/x-www-form-urlencoded", 400),
        (b"\xff", "application/x-www-form-urlencoded", 400),
        (b"&".join(b"a=%d" % n for n in range(2000)), "application/x-www-form-urlencoded", 400),
        (b"approved=%ed%a0%80", "application/x-www-form-urlencoded", 400),
        (b"approved=true&comment=%00", "application/x-www-form-urlencoded; charset=utf-8", 200),
        (b'{"approved": true}', "application/json", 415),
        (b"--x", "multipart/form-data; boundary=x", 415),
    ],
)
async def test_no_body_breaks_the_page(door: Gate, body: bytes, sent_as: str, status: int) -> None:
    path = await link(door, await asked(door.ledger))
    page = await door.client.post(path, content=body, headers={"Content-Type": sent_as})
    assert (page.status_code, page.headers["content-type"]) == (status, "text/html; charset=utf-8"), page.text


async def test_whatever_comes_from_outside_is_shown_as_text(door: Gate) -> None:
    """Row 62, and 32: reason, evidence, party, agent, person, the form's words and values, and what is refused."""

    class Form(BaseModel):
        approved: bool
        note: str = Field(default=f'"{SCRIPT}{{{{1234*4321}}}}', title=SCRIPT, description=SCRIPT)
        kind: Literal["<script>1"] = "<script>1"

    show = f"{SCRIPT}\n\n[x](javascript:alert(1)) ![p](http://evil.example/p.png) <img src=x onerror=alert(1)>\n\n" + (
        "| a | b |\n|--:|---|\n| <b>1</b> | http://ok.example |\n"
    )
    policy = Policy(approvers=(SCRIPT,))
    wait = Approval(f"Pay {SCRIPT}{{{{1234*4321}}}}?", form=Form, show=show, party=SCRIPT, policy=policy, within=HOUR,
                    otherwise=Form(approved=False))  # fmt: skip
    attempt = (await door.ledger.runs.claim("r", flow=SCRIPT, name=SCRIPT, deployment_id=None, holder="m/1/1.00",
                                            lease=HOUR)).attempt  # fmt: skip
    row = (await open_group(door.ledger, [wait.row("approval")], run="r", attempt=attempt)).waits[0]
    path = await link(door, row, SCRIPT)
    page = await door.client.get(path)
    wrong = await door.client.post(path, data={"approved": "true", "note": f'"{SCRIPT}', f"a{SCRIPT}": SCRIPT})
    done = await door.client.post(path, data={"approved": "true"})
    assert [page.status_code, wrong.status_code, done.status_code] == [200, 422, 200]
    for response in (page, wrong, done, await door.client.get(path)):
        shown = response.text.partition("</style>")[2]
        assert "&lt;script&gt;" in shown
        for bad in ("<script", "<img", "onerror=alert(1)>", 'href="javascript:', "<b>1", "5332114", "style="):
            assert bad not in shown, bad
    assert '<th class="right">' in page.text


async def test_a_page_loads_nothing_runs_nothing_and_tells_nobody_its_address(door: Gate) -> None:
    """Row 61."""
    path = await link(door, await asked(door.ledger))
    for page in (await door.client.get(path), await door.client.get("/answer/x")):
        headers = page.headers
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert headers["x-frame-options"] == "DENY"
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy.pop("style-src").startswith("'sha256-")
        assert policy == {"default-src": "'none'", "form-action": "'self'", "frame-ancestors": "'none'",
                          "base-uri": "'none'"}  # fmt: skip
        assert not re.search(r"(?i)<script|src=|@import|url\(|href=|style=", page.text)
        assert path.removeprefix("/answer/") not in page.text
    secret = (await door.ledger.secrets.get("links")).hex()
    assert secret not in page.text


async def test_a_ledger_that_is_away_is_a_page_too(door: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    from standby.errors import LedgerUnavailable

    path = await link(door, await asked(door.ledger))

    async def away(*_: object, **__: object) -> None:
        raise LedgerUnavailable("there", "gone")

    monkeypatch.setattr(door.ledger.waits, "settle", away)
    page = await door.client.post(path, data={"approved": "true"})
    assert (page.status_code, page.headers["retry-after"], "there" in page.text) == (503, "2", False)


async def test_an_answer_that_is_no_form_is_given_as_json(door: Gate) -> None:
    wait = await asked(door.ledger, Approval("Which?", form=list[int]))
    path = await link(door, wait)
    assert (await door.client.post(path, data={"answer": "[1,"})).status_code == 422
    assert (await door.client.post(path, data={"answer": "[1, 2]"})).status_code == 200
    assert (await door.ledger.waits.get(wait.id)).answer == "[1,2]"
