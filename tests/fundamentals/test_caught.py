"""Errors that the agent has caught stand in the journal before what it does instead, in whichever task it does that."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

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


class Bank:
    """Down at first. ``other`` goes on beside it for as long as the agent tidies up."""

    def __init__(self) -> None:
        self.down = True
        self.paid: list[str] = []
        self.done: list[str] = []
        self.tidied = asyncio.Event()

        @step(visible=False)
        async def pay() -> str:
            self.paid.append("pay")
            if self.down:
                raise ConnectionError("the bank is down")
            return "paid"

        @step(visible=False)
        async def other(number: int) -> int:
            self.done.append(f"other {number}")
            return number

        self.pay, self.other = pay, other

    async def others(self) -> None:
        """Goes on a little after the agent's error, and then lets it tidy up to its end."""
        for number in range(20):
            await self.other.with_options(key=f"other {number}")(number)
        self.tidied.set()


class Refused(Exception):
    pass


async def in_finally(bank: Bank) -> None:
    try:
        await asyncio.gather(bank.pay.with_options(key="pay")(), bank.others())
    finally:
        await bank.tidied.wait()


async def as_another(bank: Bank) -> None:
    try:
        await asyncio.gather(bank.pay.with_options(key="pay")(), bank.others())
    except ConnectionError as error:
        await bank.tidied.wait()
        raise Refused from error


async def in_a_task_of_its_own(bank: Bank) -> None:
    tidying = asyncio.create_task(in_finally(bank))
    await fallback(1)
    await tidying


@pytest.mark.parametrize("paying", [in_finally, as_another, in_a_task_of_its_own])
@pytest.mark.parametrize("cut", [False, True], ids=["", "interrupted"])
async def test_an_error_that_ends_the_run_slowly_is_tried_again(
    desk: Desk, paying: Callable[[Bank], Coroutine[Any, Any, None]], cut: bool
) -> None:
    """Branches beside it go on to new work while the agent, which has the error in its hands, tidies up. It may be
    interrupted there, too: the next attempt is the one that fails."""
    bank = Bank()
    raised, goes_on = asyncio.Event(), asyncio.Event()
    if not cut:
        goes_on.set()

    @agent
    async def shop() -> str:
        try:
            await paying(bank)
        except (ConnectionError, Refused):
            raised.set()
            await goes_on.wait()
            raise
        return "paid"

    run = await desk.start(shop)
    if cut:
        await raised.wait()
        assert run.attempt is not None
        run.attempt.cancel()
        await asyncio.wait([run.attempt])
        goes_on.set()
        run.begin()
    with pytest.raises((ConnectionError, Refused)):
        await run.result()
    assert (len(bank.paid), len(bank.done)) == (1, 20)
    bank.down = False
    assert await run.again() == "paid"
    assert (len(bank.paid), len(bank.done)) == (2, 20)


async def not_found() -> str | None:
    return None


@pytest.mark.parametrize("once", [False, True])
async def test_a_step_cut_off_by_an_error_that_ends_the_run_slowly_is_tried_again(desk: Desk, once: bool) -> None:
    """A once step keeps its intent: its probe is asked."""
    bank = Bank()
    shipping: list[str] = []
    began = asyncio.Event()

    async def ship() -> str:
        shipping.append("ship")
        began.set()
        if bank.down:
            await asyncio.Event().wait()
        return "shipped"

    shipped = step(effect="once", probe=not_found)(ship) if once else step(ship)

    async def pay_later() -> str:
        await began.wait()
        return await bank.pay.with_options(key="pay")()

    async def order() -> str:
        async with asyncio.TaskGroup() as group:
            shipment = group.create_task(shipped.with_options(key="ship")())
            group.create_task(pay_later())
        return shipment.result()

    async def others() -> None:
        await ended.wait()
        await bank.others()

    ended = asyncio.Event()

    @agent
    async def shop() -> str:
        ordered = asyncio.create_task(order())
        ordered.add_done_callback(lambda _: ended.set())
        try:
            said, _ = await asyncio.gather(ordered, others())
        finally:
            await bank.tidied.wait()
        return said

    run = await desk.start(shop)
    with pytest.raises(ExceptionGroup):
        await run.result()
    journal = await run.journal()
    assert (journal.get("pay"), journal.get("ship")) == (None, "intended" if once else None)
    bank.down = False
    assert await run.again() == "shipped"
    assert len(shipping) == 2


async def on_with_it_in_hand(bank: Bank) -> None:
    try:
        await asyncio.gather(bank.pay.with_options(key="pay")(), bank.others())
    except ConnectionError:
        await fallback(1)
        raise


async def on_and_fail_otherwise(bank: Bank) -> None:
    try:
        await asyncio.gather(bank.pay.with_options(key="pay")(), bank.others())
    except ConnectionError as error:
        away = error
    await fallback(1)
    raise Refused from away


async def on_and_fail_there(bank: Bank) -> None:
    try:
        await asyncio.gather(bank.pay.with_options(key="pay")(), bank.others())
    except ConnectionError:
        await asyncio.gather(fallback(1), fallback(2))
        raise Refused from None


async def on_in_a_finally(bank: Bank) -> None:
    try:
        await bank.pay()
    finally:
        await fallback(1)


@pytest.mark.parametrize("going", [on_with_it_in_hand, on_in_a_finally, on_and_fail_otherwise, on_and_fail_there])
async def test_an_error_that_the_agent_went_on_with_stays_in_the_path_also_if_the_run_then_fails(
    desk: Desk, going: Callable[[Bank], Coroutine[Any, Any, None]]
) -> None:
    bank = Bank()

    @agent
    async def shop() -> None:
        await going(bank)

    run = await desk.start(shop)
    with pytest.raises((ConnectionError, Refused)):
        await run.result()
    journal = await run.journal()
    assert (journal["pay"], journal["fallback"]) == ("failed", "recorded")
    bank.down = False
    with pytest.raises((ConnectionError, Refused)):
        await run.again()
    assert len(bank.paid) == 1
