"""Asks again and again, under one name; each answer is a number that is added up."""

from standby import Approval, agent, idempotency_key, step, wait_for
from tests.faults.agents.forms import Addend
from tests.support import outside


@step(visible=False)
async def add(total: int, number: int) -> int:
    outside.act("add", idempotency_key(), number=number)
    return total + number


async def _ask(rounds: int) -> int:
    total = 0
    for asked in range(1, rounds + 1):
        answer = await wait_for(Approval(f"Number {asked}?", form=Addend))
        total = await add(total, answer.number)
    return total


@agent
async def rounds_cold(rounds: int) -> int:
    return await _ask(rounds)


@agent(hold="pause")
async def rounds_held(rounds: int) -> int:
    return await _ask(rounds)
