"""Works behind a gate that the test opens, so that it can do things to the process in the middle of a step."""

import asyncio

from standby import Approval, agent, idempotency_key, step, wait_for
from tests.faults.agents.forms import Verdict
from tests.support import outside


@step
def work(gated: str) -> str:
    outside.act("work", idempotency_key())
    outside.stand_at_gate(gated, idempotency_key())
    return "worked"


async def find_sent(gated: str) -> str | None:
    return "sent" if outside.deeds("send", idempotency_key()) else None


@step(effect="once", probe=find_sent)
def send(gated: str) -> str:
    outside.act("send", idempotency_key(), once=True)
    outside.stand_at_gate(gated, idempotency_key())
    return "sent"


@step
async def ponder(gated: str) -> str:
    outside.act("gate", idempotency_key())
    while not outside.is_open(gated):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return "pondered"


@step
async def refuse() -> str:
    outside.act("refuse", idempotency_key())
    raise ValueError("no")


@step
async def report(done: str) -> str:
    outside.act("report", idempotency_key(), once=True)
    return f"{done}, reported"


@agent
async def pondering(gated: str) -> str:
    return await report(await ponder(gated))


@agent
async def failing(gated: str) -> str:
    await ponder(gated)
    return await refuse()


@agent
async def working(gated: str) -> str:
    return await report(await work(gated))


@agent
async def sending(gated: str) -> str:
    return await report(await send(gated))


@agent
async def sending_and_asking(gated: str) -> str:
    done = await send(gated)
    verdict = await wait_for(Approval("Report it?", form=Verdict))
    return await report(done) if verdict.approved else done
