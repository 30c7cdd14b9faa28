"""Code that a bad deployment changes for a while, and an agent that is slow to start."""

from typing import Any

from standby import Approval, agent, idempotency_key, step, wait_for
from tests.faults.agents.forms import Verdict
from tests.support import outside


@step
async def prepare() -> str:
    return "prepared"


@step
async def something_else() -> str:
    return "else"


@step
async def act_on(what: str) -> str:
    outside.act("act_on", idempotency_key(), once=True)
    return what


@agent
async def changing() -> str:
    if outside.is_open("bad deployment"):
        await something_else()
    else:
        await prepare()
    verdict = await wait_for(Approval("Go?", form=Verdict))
    return await act_on(verdict.comment)


def stands_before_it_begins(_flow: Any, flow_run: Any, _state: Any) -> None:
    number = len(outside.deeds("gate")) + 1
    outside.stand_at_gate(f"start {number}", str(flow_run.id))


@agent(on_running=[stands_before_it_begins])
async def slow_to_start() -> str:
    verdict = await wait_for(Approval("Go?", form=Verdict))
    return await act_on(verdict.comment)
