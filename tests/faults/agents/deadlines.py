"""Waits without a deadline, with one and a default answer, with one and a branch; and a wait for a time only."""

from datetime import timedelta

from standby import Approval, Timer, WaitTimedOut, agent, idempotency_key, step, wait_for
from tests.faults.agents.forms import Verdict
from tests.support import outside


@step
async def act_on(what: str) -> str:
    outside.act("act_on", idempotency_key(), once=True)
    return what


@agent
async def asking() -> str:
    verdict = await wait_for(Approval("Yes?", form=Verdict))
    return await act_on(verdict.comment)


@agent
async def asking_for_now(seconds: float) -> str:
    verdict = await wait_for(Approval("Yes?", form=Verdict, max_age=timedelta(seconds=seconds)))
    return await act_on(verdict.comment)


@agent
async def tidying() -> str:
    """Reserved before the question, and released when all is over; each wait in its own ``try``."""
    await act_on.with_options(key="reserve")("reserve")
    try:
        verdict = await wait_for(Approval("Buy?", form=Verdict))
        return await act_on.with_options(key="buy")(f"buy {verdict.approved}")
    finally:
        await act_on.with_options(key="release")("release")
        await wait_for(Approval("Is it closed?", form=Verdict), name="closed")


@agent
async def defaulting(seconds: float) -> str:
    verdict = await wait_for(
        Approval("Yes?", form=Verdict, within=timedelta(seconds=seconds),
                 otherwise=Verdict(approved=False, comment="nobody answered"))
    )  # fmt: skip
    return await act_on(verdict.comment)


@agent
async def branching(seconds: float) -> str:
    try:
        verdict = await wait_for(Approval("Yes?", form=Verdict, within=timedelta(seconds=seconds)))
    except WaitTimedOut:
        return await act_on("timed out")
    return await act_on(verdict.comment)


@agent
async def sleeping(seconds: float) -> str:
    await wait_for(Timer(timedelta(seconds=seconds)))
    return await act_on("slept")
