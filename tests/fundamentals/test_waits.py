"""Waits: what an agent stops for."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from prefect.states import Pending
from pydantic import BaseModel, Field

from standby import (
    AnswerRefused,
    Approval,
    Decision,
    Signal,
    Timer,
    UsageError,
    agent,
    step,
    wait_all,
    wait_any,
    wait_for,
)
from tests.fundamentals.conftest import Desk, Interrupted, Interruption
from tests.support.waiting import wait_until

WEEKS = timedelta(weeks=3)


class Purchase(BaseModel):
    approved: bool
    at_most: float = Field(default=100, gt=0)


async def test_an_approval_asks_a_person(desk: Desk):
    """Without a form of its own it is answered with a ``Decision``: approved or not, and a comment."""

    @agent
    async def buyer() -> str:
        decision = await wait_for(Approval("Buy tea?", party="purchasing"))
        assert isinstance(decision, Decision)
        return decision.comment if decision.approved else "no tea"

    run = await desk.start(buyer)
    [wait] = await run.open_waits()
    assert (wait.key, wait.kind, wait.reason, wait.party) == ("approval", "approval", "Buy tea?", "purchasing")
    await run.answer({"approved": True, "comment": "two pounds"})
    assert await run.result() == "two pounds"


async def test_an_approval_may_have_a_form(desk: Desk):
    """A Pydantic model: the answer is one, with its defaults."""

    @agent
    async def buyer() -> float:
        return (await wait_for(Approval("Buy tea?", form=Purchase))).at_most

    run = await desk.start(buyer)
    await run.answer({"approved": True})
    assert await run.result() == 100


async def test_an_answer_that_does_not_fit_is_refused(desk: Desk):
    """With the names of the fields; the run waits on."""

    @agent
    async def buyer() -> float:
        return (await wait_for(Approval("Buy tea?", form=Purchase))).at_most

    run = await desk.start(buyer)
    for wrong, field in [({"approved": True, "at_most": -1}, "at_most"), ({}, "approved"), ({"aproved": 1}, "aproved")]:
        with pytest.raises(AnswerRefused, match=f"still waiting. {field}: "):
            await run.answer(wrong)
    await run.answer({"approved": True, "at_most": 7})
    assert await run.result() == 7


async def test_the_agent_may_refuse_an_answer(desk: Desk):
    """``check`` sees an answer of the right type; when it raises, the wait is open again and says why."""

    def in_budget(answer: Purchase) -> None:
        if answer.at_most > 50:
            raise ValueError("50 is what we have")

    @agent
    async def buyer() -> float:
        return (await wait_for(Approval("Buy tea?", form=Purchase, check=in_budget))).at_most

    run = await desk.start(buyer)
    await run.answer({"approved": True, "at_most": 60})
    await run.answer({"approved": True, "at_most": 40})
    assert await run.result() == 40
    decisions = await desk.ledger.waits.decisions_of(run.id)
    assert [(decision.verdict, decision.note) for decision in decisions] == [
        ("refused", "50 is what we have"),
        ("won", None),
    ]


async def test_no_answer_fails_a_run(desk: Desk):
    """A check that fails in a way of its own refuses the answer, as one that says what is wrong."""

    def in_budget(answer: Purchase) -> None:
        assert {40: True}[int(answer.at_most)]

    @agent
    async def buyer() -> float:
        return (await wait_for(Approval("Buy tea?", form=Purchase, check=in_budget))).at_most

    run = await desk.start(buyer)
    await run.answer({"approved": True, "at_most": 60})
    await run.answer({"approved": True, "at_most": 40})
    assert await run.result() == 40
    refused, _ = await desk.ledger.waits.decisions_of(run.id)
    assert (refused.verdict, refused.note) == ("refused", "the agent's check failed: KeyError: 60")


async def test_evidence_is_what_the_decision_was_made_on(desk: Desk):
    """It is shown as Markdown, and every decision keeps its digest, beside who made it and through which door."""

    @agent
    async def buyer() -> bool:
        return (await wait_for(Approval("Buy tea?", show={"Item": "tea", "Price": 7}))).approved

    run = await desk.start(buyer)
    [wait] = await run.open_waits()
    assert wait.evidence.splitlines()[2:] == ["| Item | tea |", "| Price | 7 |"]
    await run.answer({"approved": True}, actor="ada")
    assert await run.result() is True
    [decision] = await desk.ledger.waits.decisions_of(run.id)
    assert (decision.actor, decision.door, decision.verdict) == ("ada", "terminal", "won")
    assert decision.evidence_digest


async def test_a_wait_has_one_answer(desk: Desk):
    """The first one counts, and who comes second is told who was first."""

    @agent
    async def buyer() -> bool:
        return (await wait_for(Approval("Buy tea?"))).approved

    run = await desk.start(buyer)
    [wait] = await run.open_waits()
    first = await run.answer_to(wait, {"approved": True}, actor="ada")
    second = await run.answer_to(wait, {"approved": False}, actor="bob")
    assert (first.won, second.won) == (True, False)
    assert second.winner is not None
    assert second.winner.actor == "ada"
    assert await run.result() is True


async def test_two_waits_of_one_name_have_two_keys_and_two_answers(desk: Desk):
    """As with steps, the second is ``name#2``."""

    @agent
    async def buyer() -> list[str]:
        return [(await wait_for(Approval(f"Buy {item}?"), name="buy")).comment for item in ("tea", "milk")]

    run = await desk.start(buyer)
    await run.answer({"approved": True, "comment": "green"}, key="buy")
    await run.answer({"approved": True, "comment": "fresh"}, key="buy#2")
    assert await run.result() == ["green", "fresh"]


async def test_an_answer_is_a_checkpoint(desk: Desk, interruption: Interruption):
    """A replay does not ask again."""

    @agent
    async def buyer() -> bool:
        decision = await wait_for(Approval("Buy tea?"))
        interruption()
        return decision.approved

    run = await desk.start(buyer)
    await run.answer({"approved": True})
    with pytest.raises(Exception, match="first attempt"):
        await run.result()
    assert await run.again() is True
    assert len(await run.waits()) == 1


async def test_a_question_is_asked_in_the_form_of_today(desk: Desk):
    """A run that waited across a deployment can be answered with what the new code asks for."""

    class Amount(Decision):
        amount: float

    @agent(name="buyer")
    async def before() -> float:
        return float((await wait_for(Approval("Buy tea?"))).approved)

    @agent(name="buyer")
    async def after() -> float:
        return (await wait_for(Approval("Buy tea?", form=Amount))).amount

    run = await desk.start(before)
    [asked] = await run.open_waits()
    assert run.attempt is not None
    run.attempt.cancel()
    await asyncio.gather(run.attempt, return_exceptions=True)
    await desk.client.set_flow_run_state(UUID(run.id), Pending(), force=True)
    run.begin(after)

    async def asked_anew() -> bool:
        row = await desk.ledger.waits.get(asked.id)
        return "amount" in row.answer_schema  # type: ignore[union-attr]

    await wait_until(asked_anew)
    with pytest.raises(AnswerRefused, match="amount"):
        await run.answer({"approved": True})
    assert (await run.answer({"approved": True, "amount": 3.5})).won
    assert await run.result() == 3.5


async def test_wait_any_takes_the_first_and_closes_the_others(desk: Desk):
    """Its key is made of the names; a loser can no longer be answered."""

    @agent
    async def seller() -> str:
        first = await wait_any(paid=Signal("paid", key="7"), waived=Approval("Waive it?"), late=Timer(WEEKS))
        return f"{first.name}: {first.answer}"

    run = await desk.start(seller)
    paid, waived, _late = await run.open_waits()
    assert paid.group_key == "paid|waived|late"
    await desk.signal("paid", 10, key="7")
    assert (await run.answer_to(waived, {"approved": True})).won is False
    assert await run.result() == "paid: 10"
    assert [wait.state for wait in await run.waits()] == ["settled", "closed", "closed"]


async def test_wait_all_takes_every_answer(desk: Desk):
    """In any order; it goes on with the last."""

    @agent
    async def seller() -> dict[str, str]:
        answers = await wait_all(legal=Approval("Legal?"), finance=Approval("Finance?"))
        return {name: answer.comment for name, answer in answers.items()}

    run = await desk.start(seller)
    assert len(await run.open_waits()) == 2
    await run.answer({"approved": True, "comment": "b"}, key="legal&finance/finance")
    [left] = await run.open_waits()
    assert left.key == "legal&finance/legal"
    await run.answer({"approved": True, "comment": "a"})
    assert await run.result() == {"legal": "a", "finance": "b"}


async def test_waiting_works_in_agents_only():
    with pytest.raises(UsageError, match="Waiting works in an agent"):
        await wait_for(Approval("Anybody?"))


async def test_an_approval_of_what_has_changed_since_is_asked_anew(desk: Desk) -> None:
    """`fresh=` says what it is about; the first answer was about something else."""
    etag = "v1"

    async def fresh() -> str:
        return etag

    @agent
    async def publisher() -> bool:
        return (await wait_for(Approval("Publish it?", fresh=fresh))).approved

    run = await desk.start(publisher)
    await run.open_waits()
    etag = "v2"
    await run.answer({"approved": True})

    async def asked_anew() -> list[Any]:
        return [wait for wait in await run.open_waits() if wait.opening == 2]

    [wait] = await wait_until(asked_anew)
    assert wait.refused == "What it was about has changed since it was asked, so it is asked anew."
    await run.answer({"approved": False})
    assert await run.result() is False
    decisions = await desk.ledger.waits.decisions_of(run.id)
    assert [(each.opening, each.verdict) for each in decisions] == [(1, "refused"), (2, "won")]


async def test_a_field_that_the_form_has_not_is_refused_through_prefect_too(desk: Desk) -> None:
    """Misspelt, it would be dropped in silence, and its default taken."""

    @agent
    async def buyer() -> float:
        return (await wait_for(Approval("Buy tea?", form=Purchase))).at_most

    run = await desk.start(buyer)
    [_wait] = await run.open_waits()
    await run.paused()
    await desk.client.resume_flow_run(UUID(run.id), run_input={"approved": True, "atmost": 50})

    async def refused() -> str | None:
        return (await run.open_waits())[0].refused

    assert await wait_until(refused) == "atmost: the form has no such field"
    await run.answer({"approved": True, "at_most": 50})
    assert await run.result() == 50


async def test_a_step_cannot_say_what_an_approval_is_about() -> None:
    """A replay would take what was recorded, and the agent's path would differ."""

    @step
    async def etag() -> str:
        return "v1"

    with pytest.raises(UsageError, match="has a step as fresh=, which a replay would not ask again"):
        Approval("Publish it?", fresh=etag)


@pytest.mark.parametrize("desk_url", ["sqlite_url", "postgres_url"], indirect=True)
async def test_many_waits_with_long_names_are_one_group(desk: Desk, interruption: Interruption) -> None:
    """Their names together are longer than a key may be."""

    @agent
    async def collector() -> int:
        names = [f"{number}-{'x' * 40}" for number in range(60)]
        first = await wait_any(**{name: Signal("paid", key=name) for name in names})
        interruption()
        return int(first.name.partition("-")[0])

    run = await desk.start(collector)
    [*waits] = await run.open_waits()
    assert len({wait.group_key for wait in waits}) == 1
    await desk.signal("paid", key=waits[41].correlation)
    with pytest.raises(Interrupted):
        await run.result()
    assert await run.again() == 41


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a?b", "must not be empty or have '#', '/' or '\\?' in it"),
        ("x" * 501, "is 501 long. 500 characters are the most"),
        ("a\0", "has a NUL character"),
        ("\ud83d", "half of a surrogate pair"),
    ],
)
async def test_a_name_that_no_key_can_have_is_refused_before_anything_is_done(desk: Desk, name: str, says: str) -> None:
    @agent
    async def by_member() -> None:
        await wait_any(**{name: Signal("paid"), "other": Signal("waived")})

    @agent
    async def by_name() -> None:
        await wait_for(Signal("paid"), name=name)

    for asking in (by_member, by_name):
        with pytest.raises(UsageError, match=says):
            await desk.run(asking)
    assert await desk.ledger.waits.open_ones() == []
    with pytest.raises(UsageError, match=says):
        step(visible=False)(now_or_never).with_options(key=name)


async def now_or_never() -> None:
    return None
