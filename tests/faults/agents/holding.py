"""Waits with its process kept, in Prefect's own pause."""

from standby import Approval, agent, idempotency_key, step, wait_for
from tests.faults.agents.forms import Verdict
from tests.support import outside


@step
async def act_on(verdict: Verdict) -> str:
    outside.act("act_on", idempotency_key(), once=True)
    return f"{verdict.approved} {verdict.comment}"


@agent(hold="pause")
async def holding() -> str:
    return await act_on(await wait_for(Approval("Act?", form=Verdict)))
