"""Agents that end as agents should not."""

from __future__ import annotations

import asyncio
import sys
import time

from prefect.client.schemas.objects import FlowRun

from standby import agent, idempotency_key, step
from tests.support import outside


class OfItsOwn(BaseException):
    pass


@step
def leaves_in_a_thread() -> None:
    sys.exit(4)


@step
async def leaves() -> None:
    sys.exit(4)


async def leaves_beside() -> None:
    sys.exit(5)


def hook(*_: object) -> None:
    sys.exit(6)


@agent(on_failure=[hook], on_cancellation=[hook])
async def leaver(how: str) -> None:
    match how:
        case "agent":
            sys.exit(3)
        case "interrupt":
            raise KeyboardInterrupt
        case "its own":
            raise OfItsOwn("it leaves")
        case "thread":
            await leaves_in_a_thread()
        case "step":
            await leaves()
        case "gathered":
            await asyncio.gather(leaves_beside(), asyncio.sleep(60))
        case "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(leaves_beside())


@step
async def act(what: str) -> None:
    outside.act(what, idempotency_key())


async def acts_on() -> None:
    number = 0
    while True:
        number += 1
        await act.with_options(key=f"beside-{number}")("beside")
        await asyncio.sleep(0.02)


@agent
async def leaves_running(how: str) -> None:
    """Ends while a task that it has begun acts."""
    task = asyncio.create_task(acts_on())
    while not outside.deeds("beside"):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    if how == "fails":
        raise ValueError("it fails")
    if how == "returns":
        return
    await task


async def was_paid() -> bool | None:
    return True if outside.deeds("paid", idempotency_key()) else None


@step(effect="once", probe=was_paid)
def pay() -> bool:
    """Takes its time in a thread."""
    outside.act("asked to pay", idempotency_key())
    while not outside.is_open("bank"):
        time.sleep(0.02)
    outside.act("paid", idempotency_key())
    return True


@step
async def look_up() -> None:
    while not outside.deeds("asked to pay"):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    if not outside.deeds("looked up"):
        outside.act("looked up", idempotency_key())
        raise ValueError("the shop does not answer")


@agent
async def gatherer() -> None:
    await asyncio.gather(look_up.with_options(key="look")(), pay.with_options(key="pay")())


@agent
async def payer() -> None:
    await pay()


@step
async def stand() -> None:
    outside.act("stands", idempotency_key())
    await asyncio.Event().wait()


@agent
async def stander() -> None:
    await stand()


@agent
async def swallower() -> None:
    """Does not end when it is cancelled."""
    await act("came")
    while not outside.is_open("go"):
        try:
            await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            outside.act("cancelled", "it")
    await act("acted on")


@step
def hang() -> None:
    outside.act("hangs", idempotency_key())
    time.sleep(300)


@agent
async def hanger() -> None:
    await hang()


async def ends_oddly(_flow: object, flow_run: FlowRun, _state: object) -> None:
    raise {"cancelled": asyncio.CancelledError, "its own": OfItsOwn}[flow_run.parameters["how"]]


@agent(on_cancellation=[ends_oddly])
async def oddly_hooked(how: str) -> None:
    await act("came")
    await asyncio.Event().wait()


async def stand_at_gate(_flow: object, flow_run: FlowRun, _state: object) -> None:
    outside.act("gate", str(flow_run.id))
    while not outside.is_open("hook"):  # noqa: ASYNC110
        await asyncio.sleep(0.02)


@agent(on_cancellation=[stand_at_gate])
async def slowly_hooked() -> None:
    await act("came")
    await asyncio.Event().wait()
