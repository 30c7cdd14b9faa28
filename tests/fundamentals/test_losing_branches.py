"""A branch that lost a race, and was cut off, does not act on a replay."""

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

import pytest

from standby import Timer, agent, step, wait_for
from tests.fundamentals.conftest import Desk, Interruption
from tests.support.waiting import wait_until

acted: list[str] = []


@pytest.fixture(autouse=True)
def nothing_has_acted() -> None:
    acted.clear()


@step
async def reserve() -> int:
    return 1


async def _shipped() -> int:
    acted.append("ship")
    await asyncio.sleep(60)  # it is cut off here
    acted.append("has shipped")
    return 1


@step
async def ship() -> int:
    return await _shipped()


@step(name="ship", visible=False)
async def ship_quietly() -> int:
    return await _shipped()


async def ask_shipper() -> int | None:
    acted.append("probe")
    return None


@step(name="ship", effect="once", probe=ask_shipper)
async def ship_once() -> int:
    return await _shipped()


@step
async def check() -> int:
    await wait_until(lambda: "ship" in acted or "between" in acted)
    raise ValueError("fraud")


@step
async def refund() -> str:
    acted.append("refund")
    return "refunded"


async def in_group(*branches: Coroutine[Any, Any, Any]) -> str:
    try:
        async with asyncio.TaskGroup() as group:
            for branch in branches:
                group.create_task(branch)
    except* ValueError:
        pass
    return await refund()


async def checked() -> None:
    await check.with_options(key="check")()


@pytest.mark.parametrize("shipping", [ship, ship_quietly, ship_once], ids=["visible", "quiet", "once"])
async def test_a_step_that_a_branch_was_at_when_it_lost_does_not_act_again(
    desk: Desk, interruption: Interruption, shipping: Any
) -> None:
    async def shipped() -> None:
        await reserve.with_options(key="reserve")()
        await shipping.with_options(key="ship")()

    @agent
    async def order() -> str:
        said = await in_group(shipped(), checked())
        interruption()
        for _ in range(2):
            await wait_for(Timer(timedelta(0)))
        return said

    run = await desk.interrupted(order)
    assert (await run.journal())["ship"] == "failed"
    assert await run.again() == "refunded"
    assert acted == ["ship", "refund"]


async def test_a_step_in_a_gather_that_ran_out_of_time_does_not_act_again(
    desk: Desk, interruption: Interruption
) -> None:
    async def shipped() -> None:
        await reserve.with_options(key="reserve")()
        await ship.with_options(key="ship")()

    first = True

    async def runs_out(limit: asyncio.Timeout) -> None:
        if first:
            await wait_until(lambda: "ship" in acted)
            limit.reschedule(0)

    @agent
    async def order() -> str:
        try:
            async with asyncio.timeout(None if first else 0.1) as limit:
                await asyncio.gather(shipped(), reserve.with_options(key="another")(), runs_out(limit))
        except TimeoutError:
            pass
        said = await refund()
        interruption()
        return said

    run = await desk.interrupted(order)
    first = False
    assert await run.again() == "refunded"
    assert acted == ["ship", "refund"]


async def test_a_branch_may_lose_on_a_replay_before_it_comes_to_where_it_was_cut_off(
    desk: Desk, interruption: Interruption
) -> None:
    """New work does not wait for it, and the run may end without it."""
    first = True

    async def shipped() -> None:
        if not first:
            await asyncio.Event().wait()
        await ship.with_options(key="ship")()

    @agent
    async def order() -> str:
        said = await in_group(shipped(), checked())
        interruption()
        await wait_for(Timer(timedelta(0)))
        return said

    run = await desk.interrupted(order)
    first = False
    assert await run.again() == "refunded"
    assert acted == ["ship", "refund"]


async def test_a_branch_that_would_get_further_on_a_replay_is_held_back_until_it_loses(
    desk: Desk, interruption: Interruption
) -> None:
    """It was cut off between two steps, and nothing tells where."""
    between: list[Coroutine[Any, Any, Any]] = [asyncio.sleep(0), asyncio.sleep(60)]

    async def shipped() -> None:
        await reserve.with_options(key="reserve")()
        if len(between) == 2:
            acted.append("between")
        await between.pop()
        await ship_quietly.with_options(key="ship")()

    @agent
    async def order() -> str:
        said = await in_group(shipped(), checked())
        interruption()
        return said

    run = await desk.interrupted(order)
    assert "ship" not in await run.journal()
    assert await run.again() == "refunded"
    assert acted == ["between", "refund"]
