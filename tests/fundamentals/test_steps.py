"""Steps: functions whose results are kept."""

import asyncio

import pytest

from standby import Approval, UsageError, agent, clock, idempotency_key, now, random, settings, step, uuid, wait_for
from standby.stops import Fenced
from tests.fundamentals.conftest import Desk, Interruption
from tests.ledger.acts import take_over


async def test_a_step_that_completed_is_not_computed_again(desk: Desk, interruption: Interruption):
    """The result of a step is a checkpoint: a later attempt reads it and does not call the step."""
    calls = []

    @step
    async def draw() -> int:
        calls.append("draw")
        return len(calls)

    @agent
    async def lottery() -> int:
        number = await draw()
        interruption()
        return number

    run = await desk.interrupted(lottery)
    assert await run.again() == 1
    assert calls == ["draw"]


@pytest.mark.parametrize("taken_over", [True, False])
async def test_an_attempt_that_was_frozen_between_two_steps_asks_whether_the_run_is_still_its_own(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, taken_over: bool
):
    """Its lease may be over: before the next step acts, the ledger is asked."""
    done: list[str] = []
    between, thawed = asyncio.Event(), asyncio.Event()

    @step
    async def read() -> None:
        done.append("read")

    @step
    async def report() -> None:
        done.append("report")

    @agent
    async def slow() -> str:
        await read()
        between.set()
        await thawed.wait()
        await report()
        return "reported"

    run = await desk.start(slow)
    await between.wait()
    if taken_over:
        row = await desk.ledger.runs.get(run.id)
        await take_over(desk.ledger, run.id, from_holder=row.holder)
    frozen_for = 2 * settings.RENEW_EVERY.total_seconds()
    since = clock.elapsed
    monkeypatch.setattr(clock, "elapsed", lambda: since() + frozen_for)
    thawed.set()
    if taken_over:
        with pytest.raises(Fenced):
            await run.result()
    else:
        assert await run.result() == "reported"
    assert done == (["read"] if taken_over else ["read", "report"])


async def test_a_run_that_completed_does_nothing_more(desk: Desk):
    """Started once more, it returns the result it has."""
    calls = []

    @agent
    async def once() -> int:
        calls.append("agent")
        return len(calls)

    run = await desk.start(once)
    assert await run.result() == 1
    assert await run.again() == 1
    assert calls == ["agent"]


async def test_a_key_is_the_name_and_the_occurrence(desk: Desk):
    """Later calls of the same name are ``name#2``, ``name#3``; arguments take no part."""

    @step
    async def fetch(item: str) -> str:
        return item

    @step(name="total")
    def add_up(*items: str) -> str:
        return "+".join(items)

    @agent
    async def shop() -> str:
        return await add_up(await fetch("tea"), await fetch("tea"), await fetch("milk"))

    run = await desk.start(shop)
    assert await run.result() == "tea+tea+milk"
    assert list(await run.journal()) == ["fetch", "fetch#2", "fetch#3", "total"]


async def test_a_key_may_be_given(desk: Desk):
    """An explicit key stands instead of the name, and must be unique in its run."""

    @step
    async def fetch(item: str) -> str:
        return item

    @agent
    async def shop(items: list[str]) -> list[str]:
        return [await fetch.with_options(key=f"item-{item}")(item) for item in items]

    run = await desk.start(shop, items=["tea", "milk"])
    assert await run.result() == ["tea", "milk"]
    assert list(await run.journal()) == ["item-tea", "item-milk"]
    with pytest.raises(UsageError, match="'item-tea' is used twice"):
        await desk.run(shop, items=["tea", "tea"])


async def test_the_journal_survives_an_edit_of_the_step(desk: Desk, interruption: Interruption):
    """Neither the code of a step nor its arguments are in its key: what it returned before the edit stays."""

    @step
    async def price(item: str) -> int:
        return 10

    @agent(name="quote")
    async def quote() -> int:
        found = await price("tea")
        interruption()
        return found

    @step(name="price")
    async def edited(item: str, currency: str) -> int:
        return 99

    @agent(name="quote")
    async def edited_quote() -> int:
        return await edited("tea", "EUR")

    run = await desk.interrupted(quote)
    assert await run.again(edited_quote) == 10


async def test_a_replay_makes_no_task_runs(desk: Desk, interruption: Interruption):
    """A step that is replayed is read from the ledger; Prefect hears nothing of it."""

    @step
    async def before() -> None: ...

    @step
    async def after() -> None: ...

    @agent
    async def walk() -> None:
        await before()
        await before()
        interruption()
        await after()

    run = await desk.interrupted(walk)
    await run.again()
    assert await run.task_runs(up_to="after") == {"before": 1, "before#2": 1, "after": 1}


async def test_an_invisible_step_is_in_the_ledger_alone(desk: Desk):
    """``visible=False`` keeps a small step out of Prefect's task runs; its checkpoint is like any other."""

    @step(visible=False)
    async def small() -> int:
        return 1

    @step
    async def seen(number: int) -> int:
        return number + 1

    @agent
    async def count() -> int:
        return await seen(await small())

    run = await desk.start(count)
    assert await run.result() == 2
    assert await run.journal() == {"small": "recorded", "seen": "recorded"}
    assert await run.task_runs(up_to="seen") == {"seen": 1}


async def test_time_and_chance_are_the_same_on_every_replay(desk: Desk, interruption: Interruption):
    """``now``, ``uuid`` and ``random`` are steps, so code that decides by them decides the same again."""
    seen = []

    @agent
    async def raffle() -> None:
        seen.append((await now(), await uuid(), await random()))
        interruption()

    run = await desk.interrupted(raffle)
    await run.again()
    first, again = seen
    assert first == again
    assert first[0].tzinfo is not None


async def test_the_idempotency_key_is_the_same_in_every_try(desk: Desk):
    """It is made of the run and the step's key, so the other side can tell a repetition from another order."""
    sent = []

    @step
    async def order() -> None:
        sent.append(idempotency_key())
        if len(sent) == 1:
            raise ConnectionError("the answer was lost")

    @agent
    async def buyer() -> None:
        await order()
        await order()

    run = await desk.start(buyer)
    with pytest.raises(ConnectionError):
        await run.result()
    await run.again()
    assert sent == [f"{run.id}/order", f"{run.id}/order", f"{run.id}/order#2"]


async def test_outside_an_agent_a_step_is_a_plain_function():
    """So it can be tested as one: no server, no ledger. A sync one is awaited, too."""

    @step
    async def double(number: int) -> int:
        return number * 2

    @step
    def half(number: int) -> float:
        return number / 2

    assert await double(2) == 4
    assert await half(2) == 1.0
    with pytest.raises(UsageError, match="outside a step"):
        idempotency_key()


async def test_inside_another_step_a_step_is_a_plain_function(desk: Desk):
    """The outer step is the unit that is kept."""

    @step
    async def inner() -> int:
        return 1

    @step
    async def outer() -> int:
        return await inner() + await inner()

    @agent
    async def nested() -> int:
        return await outer()

    run = await desk.start(nested)
    assert await run.result() == 2
    assert list(await run.journal()) == ["outer"]


async def test_a_step_cannot_wait(desk: Desk):
    """It would hold its task run for weeks."""

    @step
    async def ask() -> bool:
        return (await wait_for(Approval("May I?"))).approved

    @agent
    async def asker() -> bool:
        return await ask()

    with pytest.raises(UsageError, match="step cannot wait"):
        await desk.run(asker)


async def test_an_agent_cannot_call_an_agent(desk: Desk):
    """The inner one could not park by itself."""

    @agent
    async def inner() -> int:
        return 1

    @agent
    async def outer() -> int:
        return await inner()

    with pytest.raises(UsageError, match="cannot call another agent"):
        await desk.run(outer)


def test_a_step_says_what_it_returns():
    """Its result is read back by its annotation, so it must have one."""

    async def unsaid(): ...

    with pytest.raises(UsageError, match="no return annotation"):
        step(unsaid)


def test_an_agent_is_async():
    def sync() -> None: ...

    with pytest.raises(UsageError, match="must be async"):
        agent(sync)
