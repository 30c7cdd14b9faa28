"""Works whose process loses the ledger, or its run, at a certain point; first attempts have a gate of their own."""

import asyncio

from standby import Approval, agent, idempotency_key, step, wait_for
from standby.runs import current_run
from tests.faults.agents.forms import Verdict
from tests.support import outside


@step
async def ponder(gated: str) -> str:
    run = current_run.get()
    assert run is not None
    outside.act("gate", idempotency_key())
    while not outside.is_open(f"{gated}.first" if run.attempt == 1 else gated):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return "pondered"


@step
async def report(done: str) -> str:
    outside.act("report", idempotency_key(), once=True)
    return f"reported {done}"


@step
async def refuse() -> str:
    outside.act("refuse", idempotency_key())
    raise ValueError("declined")


@agent
async def ask_after(gated: str) -> str:
    done = await ponder(gated)
    verdict = await wait_for(Approval("Report it?", form=Verdict))
    return await report(f"{done} {verdict.approved}")


@agent(hold="pause")
async def ask_after_in_its_process(gated: str) -> str:
    done = await ponder(gated)
    verdict = await wait_for(Approval("Report it?", form=Verdict))
    return await report(f"{done} {verdict.approved}")


@agent
async def finishing(gated: str) -> str:
    said = await report("work")
    outside.act("gate", "at its end")
    while not outside.is_open(gated):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return said


@agent
async def careful(gated: str) -> str:
    """Whatever goes wrong with the asking, it goes on without."""

    def stand_at_gate(_: Verdict) -> None:
        outside.stand_at_gate(gated, "reading the answer")

    try:
        verdict = await wait_for(Approval("Pay?", form=Verdict, check=stand_at_gate))
        said = f"approved {verdict.approved}"
    except Exception as error:
        said = f"not approved: {type(error).__name__}"
    return await report(said)


@agent
async def declining() -> str:
    return await refuse()
