"""Agents whose conditions are polled by a function of another module, as they stand in one file."""

from __future__ import annotations

from typing import Any

from standby import Condition, agent, wait_for
from tests.host.agents import sources


def said(topic: str, order: str) -> Condition[Any]:
    return Condition(topic, key=order, poll=sources.look, args={"order": order})


@agent
async def first_asker(order: str) -> int:
    return int(await wait_for(said("first", order)))


@agent
async def second_asker(order: str) -> int:
    return int(await wait_for(said("second", order)))
