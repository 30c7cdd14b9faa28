"""Branches: steps that run at the same time."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Literal

import pytest

from standby import Approval, JournalMismatch, UsageError, agent, settings, step, wait_for
from standby.acting import Acting
from standby.caught import Failures
from standby.runs import AgentRun
from tests.fundamentals.conftest import Desk, Interruption


@step
async def price(item: str) -> int:
    return len(item)


@step
async def doubled(number: int) -> int:
    return number * 2


async def test_steps_that_are_gathered_need_no_keys(desk: Desk, interruption: Interruption):
    """They are called in the agent's own task, one after the other, so their order is sure."""

    @agent
    async def compare() -> list[int]:
        prices = await asyncio.gather(price("tea"), price("milk"))
        interruption()
        return prices

    run = await desk.interrupted(compare)
    assert await run.again() == [3, 4]
    assert list(await run.journal()) == ["price", "price#2"]


async def test_a_branch_without_a_key_is_refused(desk: Desk):
    """In a task of its own a step has no sure place in the order."""

    async def branch(item: str) -> int:
        return await doubled(await price(item))

    @agent
    async def race() -> list[int]:
        return await asyncio.gather(branch("tea"), branch("milk"))

    run = await desk.start(race)
    with pytest.raises(UsageError, match=r"Give it a key: price\.with_options"):
        await run.result()
    assert await run.journal() == {}


async def test_branches_with_keys_may_come_in_any_order(desk: Desk, interruption: Interruption):
    """A step in a branch is found by its key alone."""
    order = ["tea", "milk"]

    async def branch(item: str) -> int:
        found = await price.with_options(key=f"price-{item}")(item)
        return await doubled.with_options(key=f"doubled-{item}")(found)

    @agent
    async def race() -> dict[str, int]:
        found = dict(zip(order, await asyncio.gather(*[branch(item) for item in order]), strict=True))
        interruption()
        return found

    run = await desk.interrupted(race)
    order.reverse()
    assert await run.again() == {"tea": 6, "milk": 8}
    assert set(await run.journal()) == {"price-tea", "price-milk", "doubled-tea", "doubled-milk"}


async def test_new_work_waits_for_a_branch_that_stands_where_it_was_cut_off(
    desk: Desk, interruption: Interruption, monkeypatch: pytest.MonkeyPatch
):
    """Until it is cut off there again and comes to what it did then, however long that takes."""
    monkeypatch.setattr(settings, "BRANCH_GRACE", timedelta(seconds=0.1))

    @step
    async def hang() -> int:
        await asyncio.Event().wait()
        return 0

    async def patient() -> int:
        try:
            async with asyncio.timeout(0.5):
                return await hang.with_options(key="hang")()
        except TimeoutError:
            return await price.with_options(key="instead")("milk")

    async def busy() -> int:
        await instead.wait()
        interruption()
        return await price.with_options(key="new work")("tea")

    instead = asyncio.Event()

    @agent
    async def race() -> list[int]:
        cut_off = asyncio.create_task(patient())
        cut_off.add_done_callback(lambda _: instead.set())
        return await asyncio.gather(busy(), cut_off)

    run = await desk.interrupted(race)
    assert "instead" in await run.journal()
    instead.set()  # the new work comes first
    assert await run.again() == [3, 4]


@pytest.mark.parametrize("met_at_once", [True, False])
async def test_a_branch_that_goes_on_in_the_moment_in_which_its_time_is_over_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, met_at_once: bool
):
    """It stood where it was cut off until then: it comes to its own step at once, or a little later."""
    monkeypatch.setattr(settings, "BRANCH_GRACE", timedelta(0))
    run = AgentRun.__new__(AgentRun)
    run.id, run.fenced, run.host_ends, run.over, run._stopped_by = "run", False, False, False, None
    run.failures, run.acting = Failures(), Acting()
    run._unmet_branches, run._at_cut_off, run._at = {"instead"}, 1, {}

    class Met(asyncio.Event):
        async def wait(self) -> Literal[True]:
            if not run._at_cut_off:
                run._unmet_branches.clear()
                return True
            try:
                return await super().wait()
            finally:
                run._at_cut_off = 0
                if met_at_once:
                    run._unmet_branches.clear()

    run._branches_met = Met()
    await run.before_new_work("new work")
    assert not run._unmet_branches


async def test_a_run_that_stands_where_it_was_cut_off_says_so(
    desk: Desk, interruption: Interruption, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """New code may not cut it off any more. It is not tried again by itself, for it may have acted."""
    monkeypatch.setattr(settings, "CUT_OFF_GRACE", timedelta(seconds=0.1))
    limit = 0.05

    @step
    async def hang() -> int:
        await asyncio.Event().wait()
        return 0

    @agent
    async def patient() -> int:
        try:
            async with asyncio.timeout(limit):
                return await hang()
        except TimeoutError:
            found = await price("milk")
            interruption()
            return found

    run = await desk.interrupted(patient)
    assert "stands at step" not in caplog.text
    limit = 0.5
    assert await run.again() == 4
    assert "stands at step 'hang'" in caplog.text
    assert "cancel it, or bring the old code back" in caplog.text


async def test_a_branch_cannot_wait(desk: Desk):
    """The run parks as a whole."""

    @agent
    async def race() -> list[bool]:
        async def ask() -> bool:
            return (await wait_for(Approval("May I?"), name="ask")).approved

        return await asyncio.gather(ask())

    with pytest.raises(UsageError, match="branch cannot wait"):
        await desk.run(race)


async def test_a_step_without_probe_that_acts_once_goes_alone(desk: Desk):
    """After a crash a person is asked about it, and beside others nobody can wait for them."""
    acted = []

    @step(effect="once")
    async def pay(item: str) -> None:
        acted.append(item)

    @agent
    async def buyer() -> None:
        await asyncio.gather(pay("tea"), pay("milk"))

    with pytest.raises(UsageError, match="Give it a probe"):
        await desk.run(buyer)
    assert acted == []


async def test_which_branch_was_first_is_sure_once_a_step_has_recorded_it(desk: Desk, interruption: Interruption):
    """A replay has all at once, so that another one is first; what is in the journal counts."""
    fast_was_first = asyncio.Event()
    first_done: list[str] = []

    @step
    async def offer(shop: str) -> int:
        if shop == "slow":
            await fast_was_first.wait()
        return len(shop)

    @step(visible=False)
    async def first_of(shop: str) -> str:
        return shop

    async def ask(shop: str) -> str:
        await offer.with_options(key=f"offer-{shop}")(shop)
        return shop

    @agent
    async def order() -> str:
        offers = {shop: asyncio.create_task(ask(shop)) for shop in ("slow", "fast")}
        done = await next(asyncio.as_completed(offers.values()))
        first_done.append(done)
        shop = await first_of(done)
        fast_was_first.set()
        await asyncio.gather(*offers.values())
        interruption()
        return await offers[shop]

    run = await desk.interrupted(order)
    assert await run.again() == "fast"
    assert first_done == ["fast", "slow"]


async def by_wait(task: asyncio.Task[int]) -> bool:
    done, _ = await asyncio.wait([task], timeout=0.3)
    return bool(done)


async def by_shield(task: asyncio.Task[int]) -> bool:
    try:
        await asyncio.wait_for(asyncio.shield(task), 0.3)
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("looked", [by_wait, by_shield])
@pytest.mark.parametrize("recorded", [False, True])
async def test_what_was_late_and_not_cut_off_may_be_in_time_on_a_replay_unless_a_step_has_recorded_which(
    desk: Desk, interruption: Interruption, looked: Callable[[asyncio.Task[int]], Awaitable[bool]], recorded: bool
):
    comes = asyncio.Event()

    @step
    async def offer() -> int:
        await comes.wait()
        return 1

    @step(visible=False)
    async def is_in_time(in_time: bool) -> bool:
        return in_time

    @step
    async def accept() -> str:
        return "accepted"

    @step
    async def refuse() -> str:
        return "refused"

    @agent
    async def negotiate() -> str:
        task = asyncio.create_task(offer.with_options(key="offer")())
        in_time = await looked(task)
        if recorded:
            in_time = await is_in_time(in_time)
        said = await accept() if in_time else await refuse()
        comes.set()
        await task
        interruption()
        return said

    run = await desk.interrupted(negotiate)
    if recorded:
        assert await run.again() == "refused"
    else:
        with pytest.raises(JournalMismatch, match=r"'refuse'.*'accept'"):
            await run.again()
