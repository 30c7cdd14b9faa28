"""Agents that end as agents should not."""

from __future__ import annotations

import asyncio
import sys

from standby import agent, step


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
