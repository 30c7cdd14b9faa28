"""G8: once a run is taken over, what the old attempt still writes is refused."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from standby.ledger import Ledger
from standby.states import CheckpointState, Hold, Need, RunState, WaitState
from tests.support.seeds import seeds

from .acts import HEAD_STARTS, LEASE, ME, OTHER, approval, claim, open_group, take_over
from .conftest import Connect

Act = Callable[[Ledger, str, int], Awaitable[object]]


async def _wait(ledger: Ledger, run: str) -> str:
    [wait] = (await ledger.waits.group(run, "approval")).waits
    return str(wait.id)


async def _refuse(ledger: Ledger, run: str, attempt: int) -> object:
    return await ledger.waits.refuse(run, attempt, await _wait(ledger, run), "no")


async def _note_refusal(ledger: Ledger, run: str, attempt: int) -> object:
    return await ledger.waits.note_refusal(run, attempt, await _wait(ledger, run), "1", "no")


JOURNAL: dict[str, Act] = {
    "write": lambda ledger, run, n: ledger.checkpoints.write(run, n, "pay", 1, CheckpointState.RECORDED, value="1"),
    "intend": lambda ledger, run, n: ledger.checkpoints.write(run, n, "pay", 1, CheckpointState.INTENDED),
}
LEASES: dict[str, Act] = {
    "renew": lambda ledger, run, n: ledger.runs.renew(run, n, LEASE),
    "release": lambda ledger, run, n: ledger.runs.release(run, n),
}
PROGRESS: dict[str, Act] = {
    "open": lambda ledger, run, n: ledger.waits.open(run, n, "new", 1, Need.ONE, [approval("new")]),
    "consume": lambda ledger, run, n: ledger.waits.consume(run, n, "approval", "1", "d"),
    "refuse": _refuse,
    "note refusal": _note_refusal,
    "park": lambda ledger, run, n: ledger.runs.park(run, n, "approval", Hold.SUSPEND),
    "unpark": lambda ledger, run, n: ledger.runs.unpark(run, n),
    "end": lambda ledger, run, n: ledger.runs.end(run, n, RunState.COMPLETED, result="1"),
}


async def everything(ledger: Ledger, run: str) -> list[object]:
    row = await ledger.runs.get(run)
    journal = await ledger.checkpoints.journal(run)
    return [row, journal, await ledger.waits.of_run(run), await ledger.waits.decisions_of(run)]


async def begun(ledger: Ledger, run: str) -> None:
    await claim(ledger, run)
    await open_group(ledger, [approval()], run=run)


async def test_what_a_fenced_attempt_writes_is_refused_and_leaves_no_trace(ledger: Ledger) -> None:
    for name, act in (JOURNAL | LEASES | PROGRESS).items():
        await begun(ledger, name)
        attempt = await take_over(ledger, name)
        before = await everything(ledger, name)
        assert not await act(ledger, name, 1), name
        assert await everything(ledger, name) == before, name
        assert await act(ledger, name, attempt), f"{name}: the new attempt may"


@pytest.mark.parametrize("state", [RunState.COMPLETED, RunState.FAILED])
async def test_an_attempt_that_ended_its_run_goes_no_further(ledger: Ledger, state: RunState) -> None:
    for name, act in (JOURNAL | PROGRESS).items():
        if (name, state) == ("write", RunState.FAILED):
            continue  # the retry takes what was done after all
        await begun(ledger, name)
        assert await ledger.runs.end(name, 1, state, result="1")
        before = await everything(ledger, name)
        assert not await act(ledger, name, 1), name
        assert await everything(ledger, name) == before, name


async def test_a_run_that_was_ended_from_outside_fences_its_attempt(ledger: Ledger) -> None:
    """Cancelled in Prefect while it works."""
    for name, act in (JOURNAL | LEASES | PROGRESS).items():
        await begun(ledger, name)
        assert await ledger.runs.end_from_outside(name, RunState.CANCELLED)
        before = await everything(ledger, name)
        assert not await act(ledger, name, 1), name
        assert await everything(ledger, name) == before, name


@pytest.mark.parametrize("seed", seeds())
async def test_writes_that_race_a_takeover_come_wholly_before_it_or_not_at_all(connect: Connect, seed: int) -> None:
    """A step of the old attempt records while the run is taken over and replayed, over two connections.

    The journal the new attempt reads after its claim must be the last word: what is recorded by the old one
    is in it, and what is not in it was refused.
    """
    old, new = await connect(), await connect()
    dice = random.Random(seed)
    beaten = 0

    async def race(run: str) -> None:
        nonlocal beaten
        await claim(old, run)
        pauses = [dice.random() / 300 for _ in range(4)]

        async def record(key: str, pause: float) -> tuple[str, bool]:
            await asyncio.sleep(pause)
            return key, await old.checkpoints.write(run, 1, key, 0, CheckpointState.RECORDED, value="1", digest="d")

        async def take() -> set[str]:
            await asyncio.sleep(pauses[0])
            assert await take_over(new, run) == 2
            return {entry.key for entry in await new.checkpoints.journal(run)}

        journal, *written = await asyncio.gather(take(), *(record(f"s{n}", pauses[n]) for n in (1, 2, 3)))
        acknowledged = {key for key, done in written if done}
        assert acknowledged == journal, "recorded behind the back of the new attempt, or lost"
        beaten += len(acknowledged)
        assert {entry.key for entry in await new.checkpoints.journal(run)} == journal

    rounds = 80
    for start in range(0, rounds, 4):
        await asyncio.gather(*(race(f"{start + n}") for n in range(4)))
    assert 0 < beaten < rounds * 3, f"it was no race: {beaten} of {rounds * 3} were written"


async def test_waits_that_race_a_takeover_are_opened_for_the_new_attempt_or_not_at_all(connect: Connect) -> None:
    old, new = await connect(), await connect()
    dice = random.Random(11)
    opened = 0
    for number in range(60):
        run = str(number)
        start = HEAD_STARTS[number % 3]
        await claim(old, run)

        async def opening(pause: float = dice.random() / 400 + start[0], run: str = run) -> bool:
            await asyncio.sleep(pause)
            return await old.waits.open(run, 1, "approval", 0, Need.ONE, [approval()]) is not None

        async def taking(pause: float = dice.random() / 400 + start[1], run: str = run) -> list[str]:
            await asyncio.sleep(pause)
            await take_over(new, run)
            return [wait.state for wait in (await new.waits.group(run, "approval")).waits]

        done, seen = await asyncio.gather(opening(), taking())
        assert seen == ([WaitState.OPEN] if done else [])
        opened += done
    assert 0 < opened < 60, f"it was no race: {opened} of 60 were opened"


async def test_the_end_and_a_takeover_never_both_succeed(connect: Connect) -> None:
    old, new = await connect(), await connect()
    dice = random.Random(5)
    ended = 0
    for number in range(60):
        run = str(number)
        start = HEAD_STARTS[number % 3]
        await claim(old, run)

        async def ending(pause: float = dice.random() / 400 + start[0], run: str = run) -> bool:
            await asyncio.sleep(pause)
            return await old.runs.end(run, 1, RunState.COMPLETED, result="1")

        async def taking(pause: float = dice.random() / 400 + start[1], run: str = run) -> int:
            await asyncio.sleep(pause)
            return (await claim(new, run, holder=OTHER, presumed_dead=ME)).attempt

        done, attempt = await asyncio.gather(ending(), taking())
        assert (done, attempt) in {(True, 0), (False, 2)}
        ended += done
    assert 0 < ended < 60, f"it was no race: {ended} of 60 ended"
