"""`/waits`: who is asked sees what it is about, and answers; the answer is checked at the door."""

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from standby import Approval, Escalation, Policy, doors
from standby.callers import Caller
from standby.connect import Place
from standby.gateway.answering import AnswerOut, answered
from standby.gateway.refusals import Refused
from standby.ledger.events import topic_of
from standby.ledger.opening import WaitRow
from standby.ledger.tables import Wait, table_of
from standby.states import Door, Role, WaitKind, WaitState
from standby.waits import Decision
from tests.gateway.conftest import Gate
from tests.ledger.acts import approval, claim, parked, signal

FORM = {"answer_type": "standby.waits:Decision", "answer_schema": json.dumps(Decision.model_json_schema())}


async def test_an_answer_settles_the_wait_and_the_audit_says_who(gate: Gate) -> None:
    [wait] = (await parked(gate.ledger, [approval(**FORM)])).waits
    ada = await gate.as_(Role.APPROVER, "ada")
    [listed] = (await gate.client.get("/waits", headers=ada)).json()
    assert (listed["id"], listed["reason"]) == (wait.id, "reason of approval")
    shown = (await gate.client.get(f"/waits/{wait.id}", headers=ada)).json()
    assert shown["form"]["required"] == ["approved"]
    sent = await gate.client.post(f"/waits/{wait.id}/answer", json={"approved": True}, headers=ada)
    assert (sent.status_code, sent.json()["run_id"]) == (200, "run")
    [decision] = await gate.ledger.waits.decisions_of("run")
    assert (decision.actor, decision.door, decision.verdict) == ("ada", "gateway", "won")


async def test_waits_come_in_pages_that_say_there_is_more(door: Gate) -> None:
    for number in range(3):
        await parked(door.ledger, [signal(correlation=f"{number}")], run=f"run {number}")
    [question] = (await parked(door.ledger, [approval(party="law & order")], run="asks")).waits
    viewer, seen, address = await door.as_(Role.VIEWER), [], "/waits?limit=2&kind=approval&kind=signal"
    while True:
        page = await door.client.get(address, headers=viewer)
        seen.append([wait["run_id"] for wait in page.json()])
        if (more := page.links.get("next")) is None:
            break
        address = f"/waits{more['url']}"
    assert seen == [["asks", "run 0"], ["run 1", "run 2"]]
    mine = await door.client.get("/waits", params={"party": "law & order"}, headers=viewer)
    assert [wait["id"] for wait in mine.json()] == [question.id]
    for wrong, field in (("kind=question", "query.kind.0"), ("after=none", "query.after"), ("limit=0", "query.limit")):
        refused = await door.client.get(f"/waits?{wrong}", headers=viewer)
        assert (refused.status_code, refused.json()["problems"][0]["field"]) == (422, field)


async def test_an_answer_that_does_not_fit_leaves_the_run_waiting(gate: Gate) -> None:
    [wait] = (await parked(gate.ledger, [approval(**FORM)])).waits
    ada = await gate.as_(Role.APPROVER)
    for answer, field in (({}, "approved"), ({"approved": "perhaps"}, "approved"), ({"approve": 1}, "approve")):
        sent = await gate.client.post(f"/waits/{wait.id}/answer", json=answer, headers=ada)
        assert (sent.status_code, [one["field"] for one in sent.json()["problems"]]) == (422, [field])
    assert (await gate.ledger.waits.get(wait.id)).state == WaitState.OPEN


async def test_of_two_answers_at_once_one_wins_and_the_other_is_told_who(gate: Gate) -> None:
    """Row 27."""
    [wait] = (await parked(gate.ledger, [approval(**FORM)])).waits
    people = {name: await gate.as_(Role.APPROVER, name) for name in ("ada", "bob")}
    sent = await asyncio.gather(
        *(
            gate.client.post(f"/waits/{wait.id}/answer", json={"approved": True, "comment": name}, headers=headers)
            for name, headers in people.items()
        )
    )
    assert sorted(answer.status_code for answer in sent) == [200, 409]
    [lost] = [answer.json() for answer in sent if answer.status_code == 409]
    first = json.loads((await gate.ledger.waits.get(wait.id)).answer)["comment"]
    assert (lost["winner"]["actor"], lost["winner"]["answer"]["comment"]) == (first, first)
    assert lost["error"] == f"{first} was first."


@pytest.mark.parametrize("policy", [None, Policy(quorum=2)], ids=["one", "quorum"])
async def test_the_same_answer_again_is_told_the_same_and_another_one_is_not(gate: Gate, policy: Policy | None) -> None:
    """Row 30: the response was lost, and the sender tries again."""
    rule = None if policy is None else policy.model_dump_json()
    [wait] = (await parked(gate.ledger, [approval(**FORM, policy=rule)])).waits
    path, ada = f"/waits/{wait.id}/answer", await gate.as_(Role.APPROVER, "ada")
    told = [await gate.client.post(path, json={"approved": True}, headers=ada) for _ in range(2)]
    assert {sent.status_code for sent in told} == {200}
    assert told[0].json() == told[1].json()
    assert told[0].json()["decided"] is (policy is None)
    assert len(await gate.ledger.waits.decisions_of("run")) == 1, "nobody was first, and nothing was refused"
    changed = await gate.client.post(path, json={"approved": False}, headers=ada)
    assert changed.status_code == (409 if policy is None else 403)
    bob = await gate.client.post(path, json={"approved": True}, headers=await gate.as_(Role.APPROVER, "bob"))
    assert bob.status_code == (409 if policy is None else 200)
    counted = [one.actor for one in await gate.ledger.waits.decisions_of("run") if one.verdict in ("won", "counted")]
    assert counted == (["ada"] if policy is None else ["ada", "bob"])


async def test_what_is_not_there_or_not_asked_of_people_cannot_be_answered(gate: Gate) -> None:
    [wait] = (await parked(gate.ledger, [signal()])).waits
    ada = await gate.as_(Role.APPROVER)
    assert (await gate.client.post("/waits/none/answer", json=1, headers=ada)).status_code == 404
    assert (await gate.client.get("/waits/none", headers=ada)).status_code == 404
    sent = await gate.client.post(f"/waits/{wait.id}/answer", json=1, headers=ada)
    assert (sent.status_code, sent.json()["error"]) == (
        409,
        f"Wait {wait.id} waits for a signal, which nobody answers. Send it with a sender's key: POST /signals/paid "
        'with the payload and "key": "7".',
    )
    others = [
        (WaitRow(key="e", kind=WaitKind.EVENT, reason="e", topic=topic_of("low"), correlation="order.7"),
         "an event of Prefect, which nobody answers. Send it with a sender's key: POST /signals/event%3Alow with"),
        (WaitRow(key="t", kind=WaitKind.TIMER, reason="t"), "a time, which nobody answers."),
        (WaitRow(key="a", kind=WaitKind.AGENT, reason="a"), "an agent, which nobody answers."),
    ]  # fmt: skip
    for row, says in others:
        [wait] = (await parked(gate.ledger, [row], run=row.key)).waits
        sent = await gate.client.post(f"/waits/{wait.id}/answer", json=1, headers=ada)
        assert (sent.status_code, sent.json()["error"].partition("waits for ")[2][: len(says)]) == (409, says)


async def test_null_is_an_answer_where_the_form_takes_it(door: Gate) -> None:
    form: Any = int | None
    [wait] = (await parked(door.ledger, [Approval("Which?", form=form).row("which")])).waits
    headers = await door.as_(Role.APPROVER) | {"Content-Type": "application/json"}
    empty = await door.client.post(f"/waits/{wait.id}/answer", content=b"", headers=headers)
    assert (empty.status_code, empty.json()["problems"]) == (422, [{"field": "body", "reason": "it is empty"}])
    sent = await door.client.post(f"/waits/{wait.id}/answer", content=b"null", headers=headers)
    assert (sent.status_code, (await door.ledger.waits.get(wait.id)).answer) == (200, "null")


async def test_the_documentation_says_what_it_needs_and_what_else_there_is(door: Gate) -> None:
    page = await door.client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "<p>This page is made by Swagger UI, which the browser loads from cdn.jsdelivr.net. Without" in page.text
    assert 'href="openapi.json"' in page.text
    assert "url: 'openapi.json'" in page.text, "also under another path, behind a proxy"
    described = (await door.client.get("/openapi.json")).json()["info"]["description"]
    for path in ("/a2a", "/mcp", "/.well-known/agent-card.json"):
        assert path in described


async def test_health_needs_no_key(door: Gate) -> None:
    assert (await door.client.get("/health")).json() == {"status": "ok"}


async def test_who_sends_an_answer_again_is_told_that_the_run_knows(
    house: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[str] = []

    async def wake(run_id: str, *_: object) -> bool:
        woken.append(run_id)
        return True

    monkeypatch.setattr(doors, "wake_run", wake)
    [wait] = (await parked(house.ledger, [approval(**FORM)])).waits
    path, ada = f"/waits/{wait.id}/answer", await house.as_(Role.APPROVER, "ada")
    told = [(await house.client.post(path, json={"approved": True}, headers=ada)).json() for _ in range(2)]
    await claim(house.ledger)
    told.append((await house.client.post(path, json={"approved": True}, headers=ada)).json())
    assert [one["woken"] for one in told] == [True] * 3
    assert woken == ["run"] * 2, "once it has been taken up it needs no waking"


async def test_an_answer_that_is_sent_again_is_none_to_a_question_that_was_asked_anew(gate: Gate) -> None:
    """Its reply was lost, and what was approved has changed since: who sends it again has not seen that."""
    asked = approval(**FORM, evidence="100 to Nord", fresh="v1")
    [wait] = (await parked(gate.ledger, [asked])).waits
    ada = await gate.as_(Role.APPROVER, "ada")
    path = f"/waits/{wait.id}/answer"
    assert (await gate.client.post(path, json={"approved": True}, headers=ada)).status_code == 200
    taken = await claim(gate.ledger)
    anew = replace(asked, evidence="9000 to Ost", fresh="v2")
    assert await gate.ledger.waits.refuse("run", taken.attempt, wait.id, "It has changed.", anew=anew)
    again = await gate.client.post(path, json={"approved": True}, headers=ada)
    assert (again.status_code, again.json()["error"]) == (
        409,
        "You gave this answer before the question was asked anew. Look at it again, and answer its opening 2.",
    )
    for opening, status, why in (
        (1, 409, "the question was asked anew since"),
        (3, 409, "the question has not been asked so often"),
        (2, 200, ""),
    ):
        assert (await gate.ledger.waits.get(wait.id)).state == WaitState.OPEN
        answered = await gate.client.post(path, params={"opening": opening}, json={"approved": True}, headers=ada)
        assert answered.status_code == status, answered.text
        assert why in answered.json().get("error", "")
        assert status == 200 or answered.json()["error"].endswith("answer its opening 2.")


async def test_an_answer_does_not_count_for_a_question_that_is_asked_anew_while_it_is_looked_at(gate: Gate) -> None:
    """Also where nobody says which opening they answer: it is the one that was open when the wait was looked up."""
    ada = Caller("ada", Role.APPROVER, None, "key")
    place = Place(gate.ledger.database.url.render_as_string(), None)

    async def send(wait: Any) -> AnswerOut:
        return await answered(gate.ledger, place, ada, wait, '{"approved": true}', door=Door.GATEWAY)

    [wait] = (await parked(gate.ledger, [approval(**FORM)])).waits
    assert (await send(wait)).decided
    looked_at = await gate.ledger.waits.get(wait.id)
    assert await gate.ledger.waits.refuse("run", (await claim(gate.ledger)).attempt, wait.id, "It has changed.")
    with pytest.raises(Refused, match=r"asked anew since.* answer its opening 2\.$") as refused:
        await send(looked_at)
    assert refused.value.status == 409
    assert (await gate.ledger.waits.get(wait.id)).state == WaitState.OPEN


async def test_who_is_named_for_a_question_answers_it_also_after_an_escalation(gate: Gate) -> None:
    """Whichever party is asked then, and also who stands in for them; the party alone lets nobody else decide."""
    policy = Policy(approvers=("ada", "bob", "eve"), not_by=("eve",), quorum=2,
                    escalate=(Escalation(after=timedelta(hours=1), to="head"),))  # fmt: skip
    [wait] = (await parked(gate.ledger, [approval(**FORM, party="finance", policy=policy.model_dump_json())])).waits
    await gate.ledger.database.write(update(table_of(Wait)).values(party="head"))
    await gate.ledger.delegations.give("bob", "zoe", None)
    said = {}
    for name, party in (("carl", "finance"), ("hans", "head"), ("eve", "finance"), ("ada", "finance"), ("zoe", "it")):
        headers = await gate.as_(Role.APPROVER, name, [party])
        sent = await gate.client.post(f"/waits/{wait.id}/answer", json={"approved": True}, headers=headers)
        said[name] = (sent.status_code, sent.json().get("error", sent.json().get("decided")))
    assert said == {
        "carl": (403, "carl does not answer for head, who is asked here."),
        "hans": (403, "Not counted, the wait is as it was: hans is not among ada, bob, eve."),
        "eve": (403, "Not counted, the wait is as it was: eve may not decide this."),
        "ada": (200, False),
        "zoe": (200, True),
    }
