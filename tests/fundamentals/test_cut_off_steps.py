"""Steps that the agent cuts off: what it went on without stays undone."""

import asyncio
from typing import Any

import pytest

from standby import agent, step
from standby.ledger.checkpoints import Checkpoints
from tests.fundamentals.conftest import Desk, Interruption


@pytest.mark.parametrize("around", ["timeout", "wait_for"])
async def test_a_step_that_the_agent_cuts_off_is_part_of_the_path(desk: Desk, interruption: Interruption, around: str):
    """A replay does not try it, even if it would now be done in time."""
    tries = []

    @step
    async def fetch() -> str:
        tries.append(1)
        if len(tries) == 1:
            await asyncio.sleep(60)
        return "from the shop"

    @step
    async def stock() -> str:
        return "from stock"

    @agent
    async def shop() -> str:
        try:
            if around == "wait_for":
                found = await asyncio.wait_for(fetch(), 0.5)
            else:
                async with asyncio.timeout(0.5):
                    found = await fetch()
        except TimeoutError:
            found = await stock()
        interruption()
        return found

    run = await desk.interrupted(shop)
    assert await run.journal() == {"fetch": "failed", "stock": "recorded"}
    tried = len(tries)
    assert await run.again() == "from stock"
    assert len(tries) == tried


async def test_a_step_cut_off_as_the_run_ends_is_tried_again(desk: Desk):
    attempts = []

    @step
    async def fetch() -> str:
        if len(attempts) == 1:
            await asyncio.sleep(60)
        return "from the shop"

    @agent
    async def shop() -> str:
        attempts.append(1)
        async with asyncio.timeout(0.5 if len(attempts) == 1 else 60):
            return await fetch()

    run = await desk.start(shop)
    with pytest.raises(TimeoutError):
        await run.result()
    assert await run.journal() == {}
    assert await run.again() == "from the shop"


@pytest.mark.parametrize("desk_url", ["sqlite_url", "postgres_url"], indirect=True)
@pytest.mark.parametrize("limit", [None, 60], ids=["", "with a timeout of its own"])
async def test_a_step_that_is_cut_off_just_when_its_value_was_written_was_cut_off(
    desk: Desk, interruption: Interruption, monkeypatch: pytest.MonkeyPatch, limit: float | None
):
    """The agent did without the value: so says the journal, though it was there for a moment."""
    write = Checkpoints.write

    async def slowly(self: Checkpoints, run_id: str, attempt: int, key: str, *rest: Any, **more: Any) -> bool:
        written = await write(self, run_id, attempt, key, *rest, **more)
        if key == "fetch":
            await asyncio.sleep(0.6)  # the commit is done, and its acknowledgement is late
        return written

    @step(visible=False, timeout_seconds=limit)
    async def fetch() -> str:
        return "from the shop"

    @step
    async def stock() -> str:
        return "from stock"

    @agent
    async def shop() -> str:
        try:
            async with asyncio.timeout(0.3):
                found = await fetch()
        except TimeoutError:
            found = await stock()
        interruption()
        return found

    monkeypatch.setattr(Checkpoints, "write", slowly)
    run = await desk.interrupted(shop)
    assert await run.journal() == {"fetch": "failed", "stock": "recorded"}
    assert await run.again() == "from stock"
