"""How much more of a budget people grant: what would not be enough is refused, with the least that is."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import update

from standby import clock
from standby.agents import AtStop, Budget, Spent
from standby.agents.budgets import exhausted
from standby.agents.families import short_of
from standby.agents.forms import More, least_more, more_budget, schema_of_more
from standby.errors import AnswerRefused
from standby.ledger.opening import WaitRow
from standby.ledger.tables import Wait, table_of
from standby.states import WaitKind
from standby.waits import Least, checked_answer, least_of
from tests.agents.conftest import allow, call
from tests.agents.test_stops import Looker
from tests.fundamentals.conftest import Desk
from tests.support.waiting import wait_until


@pytest.mark.parametrize(
    ("budget", "lines", "why", "helps", "then"),
    [
        (Budget(steps=3), [[call("look")] * 4, "done"], "1 of 3 steps are spent, and 4 more are asked for", 2, [1]),
        (Budget(tool_calls=1), [[call("look")] * 4, "done"], "0 of 1 tool calls are spent, and 4 more are", 3, []),
        (Budget(tokens=4), [call("look"), "done"], "10 of 4 tokens are spent", 7, []),
    ],
    ids=["steps", "tool calls", "tokens"],
)
async def test_a_grant_that_would_not_be_enough_is_refused_with_the_least_that_is(
    desk: Desk, budget: Budget, lines: list[Any], why: str, helps: int, then: list[int]
) -> None:
    """Rather than that the same question comes back; and so is a part of what there are only whole ones of.

    ``then``: what is asked for after that, in the same attempt and turn.
    """
    looker = Looker(allow("look", budget=budget, at_stop=AtStop.ASK), *lines)
    run = await desk.start(looker.flow)
    [wait] = await run.open_waits()
    assert why in wait.evidence
    assert f"What helps: {helps} or more." in wait.evidence
    amount = json.loads(wait.answer_schema)["properties"]["amount"]
    assert (amount["type"], amount["description"]) == ("integer", f"What helps: {helps} or more.")
    with pytest.raises(AnswerRefused, match=rf"amount: {helps - 1} would not be enough, for {why}.*: say {helps} or"):
        await run.answer({"approved": True, "amount": helps - 1})
    with pytest.raises(AnswerRefused, match=rf"amount: there is no {helps}.5 of them, only whole ones: say {helps} or"):
        await run.answer({"approved": True, "amount": helps + 0.5})
    for enough in (helps, *then):
        await run.answer({"approved": True, "amount": enough})
    assert await run.result() is None
    assert [wait.state for wait in await run.waits()] == ["settled"] * (1 + len(then)), "and that was enough"


async def test_a_grant_through_prefect_that_would_not_be_enough_is_asked_anew_with_the_reason(desk: Desk) -> None:
    looker = Looker(allow("look", budget=Budget(tool_calls=1), at_stop=AtStop.ASK), [call("look")] * 4, "done")
    run = await desk.start(looker.flow)
    [_wait] = await run.open_waits()
    await run.paused()
    await desk.client.resume_flow_run(UUID(run.id), run_input={"approved": True, "amount": 2})

    async def refused() -> str | None:
        return (await run.open_waits())[0].refused  # type: ignore[no-any-return]

    assert await wait_until(refused) == (
        "amount: 2 would not be enough, for 0 of 1 tool calls are spent, and 4 more are asked for: say 3 or more"
    )
    await run.answer({"approved": True, "amount": 3})
    assert await run.result() is None
    assert looker.looked == 4


async def test_a_question_for_more_from_before_takes_what_it_took(desk: Desk) -> None:
    """Then it was asked for more once more. The doors go by what stands in the row."""
    looker = Looker(allow("look", budget=Budget(tool_calls=1), at_stop=AtStop.ASK), [call("look")] * 4, "done")
    run = await desk.start(looker.flow)
    [wait] = await run.open_waits()
    assert run.attempt is not None
    run.attempt.cancel()
    with pytest.raises(BaseException):  # noqa: B017 - however Prefect ends a cancelled attempt
        await run.attempt
    waits = table_of(Wait)
    before = {"answer_schema": json.dumps(More.model_json_schema())}
    await desk.ledger.database.write(update(waits).where(waits.c.id == wait.id).values(**before))
    [wait] = await run.waits()
    await run.answer_to(wait, {"approved": True, "amount": 1})
    run.begin()
    [again] = await run.open_waits()
    assert (again.id == wait.id, again.refused) == (False, None)
    assert "What helps: 2 or more." in again.evidence
    await run.answer({"approved": True, "amount": 2})
    assert await run.result() is None
    assert looker.looked == 4


def answered(schema: dict[str, Any], amount: float, form: str | None = "standby.agents.forms:More") -> str:
    """An approval as the doors check it, by what stands in the wait's row."""
    row = WaitRow("more", WaitKind.APPROVAL, "More?", answer_type=form, answer_schema=json.dumps(schema))
    return checked_answer(row, json.dumps({"approved": True, "amount": amount}))


@pytest.mark.parametrize(
    ("budget", "spent", "more", "too_little", "said"),
    [
        (Budget(steps=4), Spent(requests=3, tool_calls=2), {"tool_calls": 2}, 2, "3 or more"),
        (Budget(tool_calls=4), Spent(tool_calls=5), {"tool_calls": 1}, 1, "2 or more"),
        (Budget(tokens=120_000), Spent(tokens=1_830_000), {"requests": 1}, 1_710_000, "1710001 or more"),
        (Budget(money=Decimal("0.10")), Spent(money=Decimal("0.1312")), {"requests": 1}, 0.0312, "0.04 or more"),
        (Budget(running=timedelta(seconds=5)), Spent(running=timedelta(seconds=65.5)), {}, 60.5, "61 or more"),
    ],
)
def test_the_least_that_is_said_is_enough(
    budget: Budget, spent: Spent, more: dict[str, int], too_little: float, said: str
) -> None:
    short = short_of(budget, spent, **more)
    assert short is not None
    schema = schema_of_more(least := least_more(short))
    assert least.said == said
    with pytest.raises(AnswerRefused, match=rf"for .* are (spent|over).*: say {said}"):
        answered(schema, too_little)
    least_amount = float(said.partition(" ")[0])
    for amount, room in ((too_little, False), (least_amount, True)):
        granted = more_budget(short.what, More(approved=True, amount=amount))
        raised = budget if granted is None else budget.raised(granted)
        assert (exhausted(raised, spent, **more) is None) == room
    assert json.loads(answered(schema, least_amount)) == {"approved": True, "amount": least_amount, "comment": ""}


def test_time_that_passes_while_nobody_answers_is_covered_too(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    monkeypatch.setattr(clock, "utcnow", lambda: now)
    short = short_of(Budget(wall=timedelta(seconds=10)), Spent(wall=timedelta(seconds=12)))
    assert short is not None
    schema = schema_of_more(least_more(short))
    assert schema["properties"]["amount"]["description"] == (
        "What helps: 3 or more, and one more for each second until it goes on."
    )
    assert answered(schema, 3)
    now += timedelta(hours=1)
    with pytest.raises(AnswerRefused, match=r": 3 would not be enough, for 12\.0 s of 10\.0 s are over: say 3603 or"):
        answered(schema, 3)
    assert answered(schema, 3603)
    now -= timedelta(hours=9)  # the clock was set back
    assert answered(schema, 3)


def test_doors_that_do_not_know_the_form_refuse_too_little_as_well() -> None:
    schema = schema_of_more(Least(above=1, why="it is", whole=True))
    for form in ("standby.agents.forms:More", "of.another:Version", None):
        with pytest.raises(AnswerRefused, match="amount: 1 would not be enough, for it is: say 2 or more"):
            answered(schema, 1, form)
        assert json.loads(answered(schema, 2, form))["amount"] == 2


@pytest.mark.parametrize("field", [{}, {"needed_to_approve": True}, {"needed_to_approve": {"amount": 3}}, True])
def test_forms_that_say_nothing_of_it_take_any_number(field: Any) -> None:
    """Those of before, and those of others, whatever they write into their schemas."""
    assert least_of(field) is None
    schema = {"type": "object", "properties": {"approved": {"type": "boolean"}, "amount": field}}
    assert json.loads(answered(schema, 0.5, None))["amount"] == 0.5
