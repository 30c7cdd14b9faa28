"""Errors that the agent has caught stand in the journal before what it does instead, in whichever task it does that."""

import asyncio

import pytest

from standby import Approval, agent, step, wait_for
from tests.fundamentals.conftest import Desk, Interruption


@step
async def fallback(number: int) -> str:
    return f"fallback {number}"


class Source:
    """Fails while it is away."""

    def __init__(self) -> None:
        self.away = True
        self.asked = 0

        @step
        async def source(number: int = 0) -> str:
            self.asked += 1
            if self.away:
                raise ConnectionError(f"{number} is away")
            return "source"

        self.step = source


async def in_gather() -> list[str]:
    return await asyncio.gather(fallback(1), fallback(2))


async def in_task_group() -> list[str]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(fallback(number)) for number in (1, 2)]
    return [task.result() for task in tasks]


async def with_a_timeout() -> list[str]:
    return [await asyncio.wait_for(fallback(1), 30), await fallback(2)]


@pytest.mark.parametrize("instead", [in_gather, in_task_group, with_a_timeout])
@pytest.mark.parametrize("several", [False, True])
async def test_a_caught_error_is_part_of_the_path_wherever_the_work_goes_on(
    desk: Desk, interruption: Interruption, instead: object, several: bool
) -> None:
    source = Source()

    @agent
    async def patient() -> list[str]:
        if several:
            found = await asyncio.gather(*(source.step(number) for number in range(3)), return_exceptions=True)
            assert all(isinstance(one, ConnectionError) for one in found)
        else:
            with pytest.raises(ConnectionError):
                await source.step()
        assert callable(instead)
        done: list[str] = await instead()
        interruption()
        return done

    run = await desk.interrupted(patient)
    source.away, asked = False, source.asked
    assert await run.again() == ["fallback 1", "fallback 2"]
    assert source.asked == asked


@pytest.mark.parametrize("desk_url", ["sqlite_url", "postgres_url"], indirect=True)
async def test_a_branch_that_is_cancelled_while_its_value_is_written_fences_nobody(desk: Desk) -> None:
    """The agent goes on without the value, and the attempt goes on."""
    later = [0.0, 0.0, 0.002, 0.004, 0.006, 0.008]

    @step
    async def quick() -> str:
        return "quick"

    @step
    async def failing() -> str:
        await asyncio.sleep(later.pop())
        raise ConnectionError("away")

    @agent
    async def both() -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(quick())
                group.create_task(failing())
        except* ConnectionError:
            pass
        await wait_for(Approval("Go on?"))
        return "went on"

    for _ in range(len(later)):
        run = await desk.start(both)
        await run.open_waits()
        await run.answer({"approved": True})
        assert await run.result() == "went on"


async def test_a_timeout_in_a_branch_that_dealt_with_it_is_part_of_the_path(
    desk: Desk, interruption: Interruption
) -> None:
    """On the replay the step would be quick: it is not tried."""
    slow = True
    asked = 0

    @step
    async def source() -> str:
        nonlocal asked
        asked += 1
        if slow:
            await asyncio.Event().wait()
        return "source"

    async def in_time(key: str) -> str | None:
        try:
            async with asyncio.timeout(0.3):
                return await source.with_options(key=key)()
        except TimeoutError:
            return None

    @agent
    async def impatient() -> str:
        found = await asyncio.gather(in_time("a"), in_time("b"))
        said = [one or await fallback(number) for number, one in enumerate(found)]
        interruption()
        return ", ".join(said)

    run = await desk.interrupted(impatient)
    slow = False
    assert await run.again() == "fallback 0, fallback 1"
    assert asked == 2
