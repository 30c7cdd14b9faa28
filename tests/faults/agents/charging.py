"""Charges a card by a step that acts once and has no probe: after a crash in it only a person can tell."""

from standby import agent, idempotency_key, step
from tests.support import outside


@step(effect="once")
async def charge(amount: int) -> int:
    outside.act("charge", idempotency_key(), once=True)
    return amount


@agent
async def charging(amount: int) -> int:
    return await charge(amount)
