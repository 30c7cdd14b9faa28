"""Agents that start others and wait for their end."""

from datetime import timedelta

from standby import (
    AgentFailed,
    AgentFinished,
    Approval,
    Decision,
    WaitTimedOut,
    agent,
    idempotency_key,
    step,
    wait_all,
    wait_any,
    wait_for,
)
from tests.support import outside


@step
async def work(number: int) -> int:
    outside.act("work", idempotency_key(), once=True)
    if number < 0:
        raise ValueError("a number below zero")
    return number * 2


@step
async def act_on(what: str) -> str:
    outside.act("act_on", idempotency_key(), once=True)
    return what


@agent
async def child(number: int, asks: bool = False) -> int:
    if asks:
        await wait_for(Approval("Double it?", form=Decision))
    return await work(number)


@agent
async def parent(number: int) -> str:
    try:
        doubled = await wait_for(AgentFinished("child/child", {"number": number}, of=int))
    except AgentFailed as failed:
        return await act_on(f"{failed.state}: {failed.error}")
    return await act_on(f"doubled to {doubled}")


@agent
async def asker(number: int) -> int:
    return await wait_for(AgentFinished("child/child", {"number": number, "asks": True}, of=int))


@agent
async def impatient(if_closed: str) -> str:
    first = await wait_any(
        child=AgentFinished("child/child", {"number": 1, "asks": True}, if_closed=if_closed),  # type: ignore[arg-type]
        stop=Approval("Stop?", form=Decision),
    )
    return await act_on(first.name)


@agent
async def lost() -> None:
    await wait_for(AgentFinished("child/nowhere"))


@step
async def mended(number: int) -> int:
    if not outside.is_open("mended"):
        raise ValueError("not mended yet")
    outside.act("mended", idempotency_key(), once=True)
    return number


@agent
async def fragile(number: int) -> int:
    """Does a part of its work, then fails until somebody mends what it needs."""
    return await mended(await work(number))


@agent
async def batch(numbers: list[int]) -> list[int]:
    """Catches nothing."""
    waits = {f"n{number}": AgentFinished("fragile/fragile", {"number": number}, of=int) for number in numbers}
    return list((await wait_all(**waits)).values())


@agent
async def late_answer() -> bool:
    """Does not catch that nobody has answered in time; who is asked again has longer."""
    soon = timedelta(minutes=10) if outside.is_open("longer") else timedelta(seconds=1)
    return (await wait_for(Approval("In time?", form=Decision, within=soon))).approved


@step
async def something_else() -> str:
    return "else"


@agent
async def ready_for_silence() -> str:
    """Catches that nobody has answered in time; a bad deployment keeps it from coming that far."""
    if outside.is_open("bad deployment"):
        await something_else()
    else:
        await act_on("before")
    try:
        await wait_for(Approval("In time?", form=Decision, within=timedelta(seconds=1)))
    except WaitTimedOut:
        return "nobody"
    return "answered"
