"""An outside system answers through the Prefect API, at the address that the agent gave it."""

from datetime import timedelta

import httpx
from pydantic import BaseModel

from standby import Approval, Signal, agent, resume_url, step, wait_for
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
            assert answer.status_code in (200, 201, 503), answer.text
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
