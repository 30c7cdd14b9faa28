"""Steps whose values are large, odd, or cannot be stored."""

from hashlib import sha256
from typing import Any

from standby import Approval, agent, idempotency_key, step, wait_for
from tests.faults.agents.forms import ODD, Odd, Verdict
from tests.support import outside


@step
async def whatever(kind: str) -> Any:
    outside.act("whatever", idempotency_key())
    return {"an object": object(), "not a number": float("nan"), "half a character": "\ud800"}[kind]


@step
async def large(size: int) -> str:
    outside.act("large", idempotency_key())
    return "".join(sha256(bytes(str(block), "ascii")).hexdigest() for block in range(size // 64))


@step
async def odd() -> Odd:
    outside.act("odd", idempotency_key())
    return ODD


@agent
async def unstorable(kind: str) -> str:
    await whatever(kind)
    outside.act("gone on", kind)
    return "never"


@agent
async def storing(size: int) -> tuple[str, Odd]:
    stored, kept = await large(size), await odd()
    await wait_for(Approval("Read it back?", form=Verdict))
    return sha256(stored.encode()).hexdigest(), kept
