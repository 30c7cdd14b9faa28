"""Errors of steps: caught, they are part of the path; uncaught, they end the run."""

import asyncio
from typing import Any

import pytest

from standby import agent, step
from standby.connect import Place
from standby.ledger.checkpoints import Checkpoints
from standby.view import runs_view
from tests.fundamentals.conftest import Desk, Interruption


class OutOfStock(Exception):
    def __init__(self, item: str) -> None:
        super().__init__(f"there is no {item}")
        self.item = item


async def test_a_caught_error_is_part_of_the_path(desk: Desk, interruption: Interruption):
    """When the agent has gone on to other work, a replay raises the same error and does not call the step again."""
    calls = []

    @step
    async def fetch(item: str) -> str:
        calls.append(item)
        raise OutOfStock(item)

    @step
    async def write_down(item: str) -> str:
        return f"no {item} today"

    @agent
    async def shop() -> str:
        try:
            found = await fetch("tea")
        except OutOfStock as error:
            found = await write_down(error.item)
        interruption()
        return found

    run = await desk.interrupted(shop)
    assert await run.journal() == {"fetch": "failed", "write_down": "recorded"}
    assert await run.again() == "no tea today"
    assert calls == ["tea"]


async def test_a_run_that_failed_is_shown_at_the_step_that_failed(desk: Desk):
    """Not at the one before it, which is the last in the journal; at none where the agent itself raised."""

    @step
    async def first() -> int:
        return 1

    @step(visible=False)
    async def fetch(item: str) -> str:
        raise OutOfStock(item)

    @agent
    async def shop(caught: bool) -> str:
        await first()
        try:
            return await fetch("tea")
        except OutOfStock:
            if caught:
                raise ValueError("no tea, no work") from None
            raise

    shown = []
    for caught in (False, True):
        run = await desk.start(shop, caught=caught)
        with pytest.raises((OutOfStock, ValueError)):
            await run.result()
        [listed] = [
            one for one in await runs_view(desk.ledger, Place("", None), ended=True) if one["run_id"] == str(run.id)
        ]
        shown.append(listed["step"])
    assert shown == ["fetch", None]


async def test_an_error_that_ends_the_run_is_tried_again(desk: Desk):
    """Retrying a run that failed tries the step that failed, and no other, again."""
    calls = []

    @step
    async def first() -> int:
        calls.append("first")
        return 1

    @step
    async def second() -> int:
        calls.append("second")
        if calls.count("second") == 1:
            raise ConnectionError("try later")
        return 2

    @agent
    async def add() -> int:
        return await first() + await second()

    run = await desk.start(add)
    with pytest.raises(ConnectionError, match="try later"):
        await run.result()
    assert await run.journal() == {"first": "recorded"}
    assert await run.again() == 3
    assert calls == ["first", "second", "second"]


@pytest.mark.parametrize("visible", [True, False])
async def test_a_step_may_be_tried_several_times(desk: Desk, visible: bool):
    """``retries`` counts the further tries; only the result is kept."""
    tries = []

    @step(retries=2, visible=visible)
    async def fetch() -> int:
        tries.append("try")
        if len(tries) < 3:
            raise ConnectionError("try later")
        return len(tries)

    @agent
    async def shop() -> int:
        return await fetch()

    run = await desk.start(shop)
    assert await run.result() == 3
    assert await run.journal() == {"fetch": "recorded"}


@pytest.mark.parametrize("visible", [True, False])
async def test_only_the_errors_that_may_pass_are_tried_again(desk: Desk, visible: bool):
    tries = []

    @step(retries=5, retry_on=(ConnectionError, TimeoutError), visible=visible)
    async def fetch() -> int:
        tries.append("try")
        raise ConnectionError("try later") if len(tries) < 3 else PermissionError("never")

    @agent
    async def shop() -> int:
        return await fetch()

    run = await desk.start(shop)
    with pytest.raises(PermissionError, match="never"):
        await run.result()
    assert len(tries) == 3


@pytest.mark.parametrize("visible", [True, False])
async def test_a_step_whose_time_runs_out_while_it_is_recorded_is_done(
    desk: Desk, visible: bool, monkeypatch: pytest.MonkeyPatch
):
    """Its row is in the ledger: it must not act again."""
    calls = []
    write = Checkpoints.write

    async def slowly(self: Checkpoints, run_id: str, attempt: int, key: str, *rest: Any, **more: Any) -> bool:
        written = await write(self, run_id, attempt, key, *rest, **more)
        await asyncio.sleep(3)  # the commit is done, and its acknowledgement is late
        return written

    @step(visible=visible, timeout_seconds=1.5, retries=1)
    async def fetch() -> int:
        calls.append("fetch")
        return len(calls)

    @agent
    async def shop() -> int:
        return await fetch()

    monkeypatch.setattr(Checkpoints, "write", slowly)
    assert await desk.run(shop) == 1
    assert calls == ["fetch"]


async def test_an_error_of_the_agent_itself_loses_no_step(desk: Desk, interruption: Interruption):
    """The run is failed, with its error, and goes on from its checkpoints when it is retried."""

    @step
    async def fetch() -> int:
        return 1

    @agent
    async def shop() -> int:
        found = await fetch()
        interruption()
        return found

    run = await desk.interrupted(shop)
    row = await desk.ledger.runs.get(run.id)
    assert (row.state, row.error) == ("failed", "Interrupted: The first attempt ends here.")
    assert await run.again() == 1
    assert (await desk.ledger.runs.get(run.id)).state == "completed"


async def test_an_error_of_a_background_task_that_ends_the_run_is_tried_again(desk: Desk):
    """The agent's own task goes on to other work before it asks the other task: that has caught nothing."""
    tries = []

    @step
    async def fetch() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError("try later")
        return 5

    @step
    async def count() -> int:
        return 1

    @agent
    async def add() -> int:
        fetching = asyncio.create_task(fetch.with_options(key="fetch")())
        await asyncio.wait([fetching])
        counted = await count()
        return counted + await fetching

    run = await desk.start(add)
    with pytest.raises(ConnectionError, match="try later"):
        await run.result()
    assert await run.journal() == {"count": "recorded"}
    assert await run.again() == 6


async def test_an_error_that_a_branch_catches_from_a_task_of_its_own_is_part_of_the_path(
    desk: Desk, interruption: Interruption
):
    tries = []

    @step
    async def fetch() -> str:
        tries.append(1)
        raise ConnectionError("no shop")

    @step
    async def stock(item: str) -> str:
        return f"{item} from stock"

    async def branch() -> str:
        try:
            return await asyncio.create_task(fetch.with_options(key="fetch")())
        except ConnectionError:
            return await stock.with_options(key="stock")("tea")

    @agent
    async def shop() -> list[str]:
        found = await asyncio.gather(branch())
        interruption()
        return found

    run = await desk.interrupted(shop)
    assert await run.journal() == {"fetch": "failed", "stock": "recorded"}
    assert await run.again() == ["tea from stock"]
    assert len(tries) == 1


@pytest.mark.parametrize("in_agent", [True, False])
async def test_a_sync_step_that_raises_stop_iteration_fails_as_an_async_one(desk: Desk, in_agent: bool):
    """A future cannot hold it: what waits for the thread would wait for ever."""

    @step
    def first_over(limit: int) -> int:
        return next(number for number in (1, 2) if number > limit)

    @agent
    async def search() -> int:
        return await first_over(100)

    with pytest.raises(RuntimeError, match="Step 'first_over' raised StopIteration") as raised:
        await asyncio.wait_for(desk.run(search) if in_agent else first_over(100), 10)
    assert isinstance(raised.value.__cause__, StopIteration)


@pytest.mark.parametrize("visible", [True, False])
async def test_a_step_that_something_it_awaits_is_cancelled_for_has_failed(
    desk: Desk, interruption: Interruption, visible: bool
):
    """Nobody has cut it off, and nobody would on a replay."""
    tries = []

    @step(visible=visible, retries=1)
    async def fetch() -> str:
        tries.append(1)
        asking = asyncio.create_task(asyncio.Event().wait())
        asyncio.get_running_loop().call_soon(asking.cancel)
        await asking
        return "from the shop"

    @step
    async def stock() -> str:
        return "from stock"

    @agent
    async def shop() -> str:
        try:
            found = await fetch()
        except RuntimeError as error:
            found = f"{await stock()}: {error}"
        interruption()
        return found

    run = await desk.interrupted(shop)
    assert await run.journal() == {"fetch": "failed", "stock": "recorded"}
    assert "from stock: Step 'fetch' raised CancelledError, and was not itself cut off" in await run.again()
    assert len(tries) == 2
