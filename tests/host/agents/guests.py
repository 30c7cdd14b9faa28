"""Agents for the host's tests. What they do is written down outside (``tests.support.outside``)."""

import asyncio
import time
from typing import Any

from prefect import flow

from standby import AgentFinished, Signal, agent, idempotency_key, step, wait_for
from tests.support import outside


@step
async def visit(what: str) -> str:
    outside.act(what, idempotency_key())
    return what


@step(visible=False)
async def quick(number: int) -> int:
    return number + 1


@agent
async def visitor(rounds: int = 1, steps: int = 0) -> int:
    """Waits ``rounds`` times for a number, and does something visible after each."""
    total = 0
    for _ in range(steps):
        total = await quick(total)
    await visit("came")
    for number in range(rounds):
        total += await wait_for(Signal(f"round-{number}", key=_me(), of=int))
        await visit(f"round {number}")
    return total


@agent(hold="pause")
async def pauser() -> int:
    """Waits in Prefect's own pause."""
    await visit("came")
    number = await wait_for(Signal("round-0", key=_me(), of=int))
    await visit("went on")
    return number


@agent(hold="suspend")
async def cold() -> int:
    """Leaves nothing in memory while it waits."""
    return await wait_for(Signal("round-0", key=_me(), of=int))


@agent
async def parent(deployment: str) -> int:
    """Waits for a visitor that waits for nothing."""
    return await wait_for(AgentFinished(deployment, {"rounds": 0}, of=int))


@agent
async def worker(steps: int = 1000) -> int:
    """Works on without end, step by step, and each takes a moment."""
    for number in range(steps):
        await quick(number)
        await asyncio.sleep(0.01)
    return steps


@agent
async def stumbler() -> int:
    """Fails after its wait, the first time."""
    number = await wait_for(Signal("round-0", key=_me(), of=int))
    if not outside.deeds("stumbled", _me()):
        outside.act("stumbled", _me())
        raise ValueError("it stumbled")
    return number


async def stand_at_gate(_flow: Any, flow_run: Any, _state: Any) -> None:
    outside.act("gate", str(flow_run.id))
    while not outside.is_open("hook"):  # noqa: ASYNC110
        await asyncio.sleep(0.02)


@agent
async def gated() -> int:
    """Works until it is let go on, then waits."""
    await visit("came")
    while not outside.is_open("go"):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return await wait_for(Signal("round-0", key=_me(), of=int))


@agent(on_failure=[stand_at_gate])
async def hooked() -> int:
    """Fails after its wait, the first time, and its hook takes its time."""
    number = await wait_for(Signal("round-0", key=_me(), of=int))
    if not outside.deeds("stumbled", _me()):
        outside.act("stumbled", _me())
        raise ValueError("it stumbled")
    return number


async def note_hook(_flow: Any, flow_run: Any, state: Any) -> None:
    outside.act("hook", str(flow_run.id), state=state.name)


@agent(on_failure=[note_hook], on_cancellation=[note_hook])
async def noted() -> int:
    """Waits, then works until it is let end."""
    number = await wait_for(Signal("round-0", key=_me(), of=int))
    await visit("went on")
    while not outside.is_open("go"):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return number


@agent
async def hog(seconds: float) -> None:
    await quick(0)
    time.sleep(seconds)  # noqa: ASYNC251


@flow
async def plain() -> None:
    """No agent."""


def _me() -> str:
    from prefect.runtime import flow_run

    return str(flow_run.id)
