"""An outside system answers through the Prefect API, at the address that the agent gave it."""

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from pydantic import BaseModel, field_validator

from standby import Approval, Decision, Signal, agent, resume_url, step, wait_for
from standby.connect import Place
from standby.view import run_view
from tests.fundamentals.conftest import Desk
from tests.support.waiting import wait_until


class Parcel(BaseModel):
    weight: float


async def test_who_was_given_the_address_answers_what_the_run_waits_for(desk: Desk):
    """Refused with 2xx until the run waits: the sender looks at `status`, and tries again. What does not fit, too."""
    given: list[str] = []

    @step
    async def order_pickup(answer_to: str) -> None:
        given.append(answer_to)

    @agent
    async def sender() -> Parcel:
        await order_pickup(resume_url())
        await wait_for(Approval("Is it packed?"))
        return await wait_for(Signal("picked up", of=Parcel, within=timedelta(days=1)))

    run = await desk.start(sender)
    [approval] = await run.open_waits()
    async with httpx.AsyncClient(trust_env=False, timeout=60) as carrier:

        async def post(**parcel: object) -> str:
            answer = await carrier.post(given[0], json={"run_input": parcel})
            assert answer.status_code in (200, 201), answer.text
            return str(answer.json().get("status"))

        assert await post(weight=2.5) != "ACCEPT"  # a person is asked yet
        await run.answer_to(approval, {"approved": True})

        async def taken() -> bool:
            assert await post(weight="heavy") != "ACCEPT"
            return await post(weight=2.5) == "ACCEPT"

        await wait_until(taken, 30)
    assert await run.result() == Parcel(weight=2.5)
    decisions = await desk.ledger.waits.decisions_of(run.id)
    assert [(each.door, each.verdict) for each in decisions] == [("terminal", "won"), ("prefect", "won")]


class Picky(Decision):
    @field_validator("comment")
    @classmethod
    def _fails(cls, comment: str) -> str:
        if comment == "odd":
            raise RuntimeError("nobody thought of this")
        return comment


DEEP = "[" * 2500 + "]" * 2500


@pytest.mark.parametrize(
    "value",
    ["not JSON", DEEP, f'{{"answer": {DEEP}}}', '{"approved": true, "comment": "odd"}'],
    ids=["no JSON", "deep", "deep within", "odd"],
)
@pytest.mark.parametrize("wait", [Approval("Buy?", form=Picky), Signal("bought")], ids=["approval", "signal"])
async def test_nothing_that_lies_in_prefect_as_an_answer_fails_the_run(desk: Desk, wait: Any, value: str):
    """Prefect's API lets anybody put any text where the form's answers are."""

    @agent
    async def buyer() -> Any:
        return await wait_for(wait)

    run = await desk.start(buyer)
    [asked] = await run.open_waits()
    await run.paused()
    await desk.client.create_flow_run_input(UUID(run.id), f"paused-{asked.id}-{asked.opening}-x-response", value)
    fits: Any = {"approved": False} if asked.kind == "approval" else {"answer": 1}
    await desk.client.resume_flow_run(UUID(run.id), run_input=fits)
    assert await run.result() in (1, {"approved": False, "comment": ""})
    decisions = await desk.ledger.waits.decisions_of(run.id)
    assert sorted((each.door, each.verdict) for each in decisions) == [("prefect", "refused"), ("prefect", "won")]
    shown = await run_view(desk.ledger, Place("", None), await desk.ledger.runs.get(run.id))
    assert json.dumps(shown, indent=2)
