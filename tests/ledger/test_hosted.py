"""What a host has, in the ledger: runs parked warm are parked runs, whoever claims first goes on, and one only."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from standby import clock
from standby.ledger import Ledger
from standby.ledger.hosted import LEASES, NO_LIMIT
from standby.ledger.tables import Run, table_of
from standby.ledger.text import digest_of
from standby.states import ENDED, CheckpointState, Hold, Need, Outcome, RunState, Verdict, WaitState
from tests.support.seeds import ALL

from .acts import LEASE, ME, OTHER, answer, approval, claim, open_group, parked
from .conftest import Watch
from .turns import Turn, Turns

THIRD = "machine/3/3.00"
ADDRESS = "127.0.0.1:7"


async def warm(ledger: Ledger, run: str = "run") -> Any:
    """A run that is parked warm by its first attempt; its wait."""
    attempt = (await claim(ledger, run)).attempt
    [wait] = (await open_group(ledger, [approval()], run=run, attempt=attempt)).waits
    assert await ledger.runs.park(run, attempt, "approval", Hold.WARM, f"{ADDRESS}#{run}") is RunState.PARKED
    return wait


async def row_of(ledger: Ledger, run: str = "run") -> Any:
    row = await ledger.runs.get(run)
    assert row is not None
    return row


async def test_who_is_parked_warm_goes_on_under_a_new_number(ledger: Ledger) -> None:
    wait = await warm(ledger)
    assert await ledger.hosted.claim_warm("run", 1, ME, LEASE) == 0, "nobody has answered yet"
    settled = await answer(ledger, wait.id)
    assert (settled.wake, settled.wake_address) == (True, f"{ADDRESS}#run")
    assert await ledger.hosted.warm_and_ready(ME) == ["run"]
    assert await ledger.hosted.claim_warm("run", 1, ME, LEASE) == 2
    row = await row_of(ledger)
    assert (row.state, row.attempt, row.holder, row.hold, row.wake_address) == (RunState.RUNNING, 2, ME, None, None)
    assert row.lease_expires_at is not None
    assert await ledger.hosted.claim_warm("run", 1, ME, LEASE) is None, "only once"


async def test_a_stray_resume_wakes_it_without_an_answer(ledger: Ledger) -> None:
    await warm(ledger)
    assert await ledger.hosted.claim_warm("run", 1, ME, LEASE, stray=True) == 2


async def test_any_worker_may_claim_what_is_parked_warm_and_the_host_is_then_fenced(ledger: Ledger) -> None:
    wait = await warm(ledger)
    await answer(ledger, wait.id)
    assert (await claim(ledger, holder=OTHER)).attempt == 2
    assert await ledger.hosted.claim_warm("run", 1, ME, LEASE) is None
    assert not await ledger.hosted.evict("run", 1, None)
    assert not await ledger.checkpoints.write("run", 1, "step", 1, CheckpointState.RECORDED, value="1", digest="d")


async def test_what_runs_again_in_the_host_is_not_for_other_workers(ledger: Ledger) -> None:
    wait = await warm(ledger)
    await answer(ledger, wait.id)
    assert await ledger.hosted.claim_warm("run", 1, ME, LEASE) == 2
    refused = await claim(ledger, holder=OTHER)
    assert (refused.attempt, refused.holder) == (0, ME)


async def test_an_eviction_leaves_a_cold_run_that_comes_back_to_its_host(ledger: Ledger) -> None:
    wait = await warm(ledger)
    assert await ledger.hosted.evict("run", 1, f"{ADDRESS}#run")
    row = await row_of(ledger)
    assert (row.state, row.hold, row.holder) == (RunState.PARKED, Hold.SUSPEND, None)
    settled = await answer(ledger, wait.id)
    assert settled.wake_address == f"{ADDRESS}#run"
    assert await ledger.hosted.claim_ready("run", {"another"}, ME, LEASE) is None, "of a deployment it has not"
    taken = await ledger.hosted.claim_ready("run", {"deployment"}, ME, LEASE)
    assert taken is not None
    assert (taken[0].attempt, taken[1].attempt) == (2, 1)
    assert await ledger.hosted.claim_ready("run", {"deployment"}, OTHER, LEASE) is None


async def test_an_answer_comes_before_an_eviction(ledger: Ledger) -> None:
    wait = await warm(ledger)
    await answer(ledger, wait.id)
    assert not await ledger.hosted.evict("run", 1, None), "it is READY, and goes on"


async def test_a_host_calls_over_what_has_its_answer_and_waits_longest_in_another(ledger: Ledger, watch: Watch) -> None:
    for run in ("first", "second", "third"):
        wait = await warm(ledger, run)
        if run != "third":
            await answer(ledger, wait.id)
            watch.forward(timedelta(seconds=1))
    hosted, mine = ledger.hosted, {"deployment"}
    assert await hosted.waiting_elsewhere(mine, OTHER, clock.utcnow() - timedelta(seconds=5), 9) == [], "not for long"
    assert await hosted.waiting_elsewhere(mine, ME, clock.utcnow(), 9) == [], "they are its own"
    assert await hosted.waiting_elsewhere({"none"}, OTHER, clock.utcnow(), 9) == [], "it has not the code"
    assert await hosted.waiting_elsewhere(mine, OTHER, clock.utcnow(), 1) == [("first", 1)]
    assert await hosted.call_over("first", 1, "127.0.0.1:9#first")
    row = await row_of(ledger, "first")
    assert (row.state, row.hold, row.holder, row.wake_address) == (
        RunState.READY, Hold.SUSPEND, None, "127.0.0.1:9#first"
    )  # fmt: skip
    assert await hosted.claim_warm("first", 1, ME, LEASE) is None, "who had it is fenced"
    assert await hosted.claim_ready("first", mine, OTHER, LEASE) is not None
    assert await hosted.waiting_elsewhere(mine, OTHER, clock.utcnow(), 9) == [("second", 1)], "the third has no answer"
    assert await hosted.claim_warm("second", 1, ME, LEASE) == 2
    assert not await hosted.call_over("second", 1, "127.0.0.1:9#second"), "who has it was first"


async def test_nothing_waits_for_a_slot_in_a_host_that_runs_any_number(ledger: Ledger) -> None:
    here, mine = ledger.hosted, {"deployment"}
    waits = {run: await warm(ledger, run) for run in ("limited", "free")}
    await ledger.database.write(update(table_of(Run)).where(table_of(Run).c.id == "free").values(holder=THIRD))
    for address, holder, end in (("127.0.0.1:1/x", ME, ""), ("127.0.0.1:2/y", THIRD, NO_LIMIT)):
        assert await ledger.leases.take(f"{LEASES}{address}{end}", holder, LEASE)
    for wait in waits.values():
        await answer(ledger, wait.id)
    assert await here.waiting_elsewhere(mine, OTHER, clock.utcnow(), 9) == [("limited", 1)]
    found = {run: await here.whose(run) for run in waits}
    assert {run: (row.alive, row.limited, row.attempt) for run, row in found.items() if row} == {
        "limited": (True, True, 1), "free": (True, False, 1),
    }  # fmt: skip


async def test_what_a_worker_of_prefect_has_parked_is_woken_through_prefect(ledger: Ledger) -> None:
    [wait] = (await parked(ledger, [approval()])).waits
    assert (await answer(ledger, wait.id)).wake_address is None
    assert await ledger.hosted.claim_ready("run", {"deployment"}, ME, LEASE) is None


async def test_a_host_adopts_cold_runs_that_no_living_host_listens_for(ledger: Ledger, watch: Watch) -> None:
    for run, address in (("none's", None), ("dead", "127.0.0.1:1#dead"), ("another's", "127.0.0.1:2#another's")):
        attempt = (await claim(ledger, run)).attempt
        await open_group(ledger, [approval()], run=run, attempt=attempt)
        await ledger.runs.park(run, attempt, "approval", Hold.SUSPEND, address)
    await ledger.leases.take(f"{LEASES}127.0.0.1:1", OTHER, timedelta(seconds=1))
    await ledger.leases.take(f"{LEASES}127.0.0.1:2", OTHER, timedelta(hours=1))
    watch.forward(timedelta(minutes=1))
    assert await ledger.hosted.adopt({"another deployment"}, ADDRESS) == 0
    assert await ledger.hosted.adopt({"deployment"}, ADDRESS) == 2
    assert {run: (await row_of(ledger, run)).wake_address for run in ("none's", "dead", "another's")} == {
        "none's": f"{ADDRESS}#none's", "dead": f"{ADDRESS}#dead", "another's": "127.0.0.1:2#another's",
    }  # fmt: skip
    assert await ledger.hosted.disown(ADDRESS, "another deployment") == 0
    assert await ledger.hosted.disown(ADDRESS, "deployment") == 2
    assert await ledger.hosted.adopt({"deployment"}, ADDRESS) == 2
    assert await ledger.hosted.disown(ADDRESS) == 2
    assert (await row_of(ledger, "dead")).wake_address is None


async def test_runs_are_taken_up_in_the_order_in_which_they_were_answered(ledger: Ledger, watch: Watch) -> None:
    waits = {}
    for run in ("c", "a", "b"):
        attempt = (await claim(ledger, run)).attempt
        [waits[run]] = (await open_group(ledger, [approval()], run=run, attempt=attempt)).waits
        await ledger.runs.park(run, attempt, "approval", Hold.SUSPEND, f"{ADDRESS}#{run}")
    for run in ("b", "c", "a"):
        watch.forward(timedelta(seconds=1))
        await answer(ledger, waits[run].id)
    assert await ledger.hosted.to_take_up({"deployment"}) == ["b", "c", "a"]


async def test_what_a_dead_host_had_warm_is_cold_and_its_attempts_are_fenced(ledger: Ledger, watch: Watch) -> None:
    await warm(ledger, "parked")
    answered = await warm(ledger, "answered")
    await answer(ledger, answered.id)
    await ledger.leases.take(f"{LEASES}{ADDRESS}", ME, LEASE)
    assert await ledger.hosted.warm_holders() == [(ME, True)]
    assert await ledger.runs.held() == [], "they have no leases of their own"
    watch.forward(LEASE + timedelta(seconds=1))
    assert await ledger.hosted.warm_holders() == [(ME, False)]
    assert await ledger.hosted.abandon(ME) == 2
    for run, state in (("parked", RunState.PARKED), ("answered", RunState.READY)):
        row = await row_of(ledger, run)
        assert (row.state, row.hold, row.holder, row.attempt) == (state, Hold.SUSPEND, None, 2)
        assert await ledger.hosted.claim_warm(run, 1, ME, LEASE, stray=True) is None
    assert await ledger.hosted.warm_holders() == []


async def test_what_a_host_gives_back_is_ready_and_fenced(ledger: Ledger) -> None:
    await claim(ledger)
    assert not await ledger.hosted.give_back("run", 1, OTHER)
    assert await ledger.hosted.give_back("run", 1, ME)
    row = await row_of(ledger)
    assert (row.state, row.attempt, row.holder, row.wake_address) == (RunState.READY, 2, None, None)
    assert not await ledger.runs.end("run", 1, RunState.COMPLETED)


# Races: many interleavings of what the processes around a parked run do to it.


class Race:
    """One run, parked warm, and all who may do something about it. Each calls ``turn`` before each transaction."""

    def __init__(self, ledger: Ledger, run: str, dice: random.Random) -> None:
        self.ledger, self.run, self.dice = ledger, run, dice
        self.wait: Any = None
        self.attempts: list[int] = [1]  # claims that were granted, in the order in which they were seen
        self.steps: list[int] = []  # attempts whose write of the step was taken
        self.answers: list[str] = []  # what the run has taken in

    async def prepare(self) -> None:
        attempt = (await claim(self.ledger, self.run)).attempt
        deadline = clock.utcnow() - timedelta(seconds=1) if self.dice.random() < 0.5 else None
        row = approval(deadline=deadline, has_default=True, default_answer='"default"')
        [self.wait] = (await open_group(self.ledger, [row], run=self.run, attempt=attempt)).waits
        await self.ledger.runs.park(self.run, attempt, "approval", Hold.WARM, f"{ADDRESS}#{self.run}")

    async def works(self, attempt: int, turn: Turn) -> None:
        """An attempt from its claim to its park or end, as ``waiting`` and ``steps`` have it."""
        self.attempts.append(attempt)
        await turn()
        group = await self.ledger.waits.open(self.run, attempt, "approval", 0, Need.ONE, [approval()])
        if group is None:
            return
        if not group.ready:
            await turn()
            await self.ledger.runs.park(self.run, attempt, "approval", Hold.SUSPEND, f"{ADDRESS}#{self.run}")
            return
        text = json.dumps(group.waits[0].answer)
        await turn()
        journal = await self.ledger.checkpoints.journal(self.run)
        if {entry.key: entry.state for entry in journal}["approval"] != CheckpointState.RECORDED:
            if not await self.ledger.waits.consume(self.run, attempt, "approval", text, digest_of(text)):
                return
            self.answers.append(group.waits[0].answer)
        await turn()
        if not any(entry.key == "step" for entry in journal):
            written = await self.ledger.checkpoints.write(
                self.run, attempt, "step", 1, CheckpointState.RECORDED, value="1", digest=digest_of("1")
            )
            if not written:
                return
            self.steps.append(attempt)
        await turn()
        await self.ledger.runs.end(self.run, attempt, RunState.COMPLETED, result="1")

    async def lingers(self, turn: Turn) -> None:
        """The host's attempt: it hears, or thinks so, or its time is over."""
        for _ in range(4):
            await turn()
            what = self.dice.choice(["hears", "hears", "resumed", "evicted"])
            if what == "evicted" and await self.ledger.hosted.evict(self.run, 1, f"{ADDRESS}#{self.run}"):
                return
            await turn()
            attempt = await self.ledger.hosted.claim_warm(self.run, 1, ME, LEASE, stray=what == "resumed")
            if attempt is None:
                return
            if attempt:
                await self.works(attempt, turn)
                return

    async def takes_up(self, turn: Turn) -> None:
        """A host, the same or another, that hears of a cold run."""
        for _ in range(3):
            await turn()
            taken = await self.ledger.hosted.claim_ready(self.run, {"deployment"}, THIRD, LEASE)
            if taken is not None:
                await self.works(taken[0].attempt, turn)
                return

    async def is_given_it(self, turn: Turn) -> None:
        """A worker that Prefect has given the run."""
        for _ in range(2):
            await turn()
            made = await claim(self.ledger, self.run, holder=OTHER)
            if made.attempt:
                await self.works(made.attempt, turn)
                return

    async def answers_it(self, turn: Turn) -> None:
        await turn()
        await answer(self.ledger, self.wait.id)

    async def deadline(self, turn: Turn) -> None:
        await turn()
        await self.ledger.waits.expire(self.wait)

    async def cancels(self, turn: Turn) -> None:
        await turn()
        await self.ledger.runs.end_from_outside(self.run, RunState.CANCELLED, "cancelled in Prefect")

    async def takes_it_for_dead(self, turn: Turn) -> None:
        """The keeper, after the host stood still for longer than its lease."""
        await turn()
        row = await row_of(self.ledger, self.run)
        await turn()
        if row.hold == Hold.WARM:
            await self.ledger.runs.rescue(self.run, row.attempt, row.holder)

    async def calls_it_over(self, turn: Turn) -> None:
        """Another host, with a free slot."""
        for _ in range(2):
            await turn()
            waiting = await self.ledger.hosted.waiting_elsewhere({"deployment"}, THIRD, clock.utcnow(), 99)
            await turn()
            attempt = dict(waiting).get(self.run)
            if attempt is not None and await self.ledger.hosted.call_over(self.run, attempt, f"127.0.0.1:9#{self.run}"):
                await self.takes_up(turn)
                return

    def cast(self) -> list[Callable[[Turn], Awaitable[None]]]:
        others = [
            self.takes_up, self.is_given_it, self.calls_it_over, self.answers_it, self.deadline, self.takes_it_for_dead
        ]  # fmt: skip
        cast = [self.lingers, self.answers_it, *self.dice.sample(others, self.dice.randint(1, 3))]
        return [*cast, self.cancels] if self.dice.random() < 0.25 else cast

    async def comes_to_rest(self) -> None:
        """What keeper and workers do about what the race has left, until the run has ended."""

        async def at_once() -> None:
            pass

        await answer(self.ledger, self.wait.id)
        for _ in range(5):
            row = await row_of(self.ledger, self.run)
            if RunState(row.state) in ENDED:
                return
            assert row.state == RunState.READY or row.holder is not None, f"it would never wake: {row}"
            made = await claim(self.ledger, self.run, holder=OTHER, presumed_dead=row.holder)
            assert made.attempt, f"nobody could take it up: {row}"
            await self.works(made.attempt, at_once)
        raise AssertionError(f"it does not come to its end: {await row_of(self.ledger, self.run)}")

    async def check(self) -> None:
        await self.comes_to_rest()
        row = await row_of(self.ledger, self.run)
        [wait] = await self.ledger.waits.of_run(self.run)
        won = [one for one in await self.ledger.waits.decisions_of(self.run) if one.verdict == Verdict.WON]
        assert len(set(self.attempts)) == len(self.attempts), f"two attempts with one number: {self.attempts}"
        assert len(self.steps) <= 1, f"the step was done by attempts {self.steps}"
        assert len(self.answers) <= 1, f"answers were taken in twice: {self.answers}"
        assert len(won) <= 1, won
        if row.state == RunState.COMPLETED:
            assert len(self.steps) == 1
            assert wait.state == WaitState.SETTLED
            assert wait.outcome in (Outcome.ANSWERED, Outcome.DEFAULTED)
            assert self.answers == [wait.answer]
        else:
            assert row.state == RunState.CANCELLED
            assert wait.state != WaitState.OPEN


RACES = 5000 if ALL else 150
PATIENT = pytest.mark.timeout(3600 if ALL else 300)


@PATIENT
async def test_whoever_claims_first_goes_on_in_any_order_of_things(ledger: Ledger) -> None:
    """Host against worker, wake against eviction, cancel, deadline and a keeper that takes the host for dead."""

    async def race(number: int) -> None:
        dice = random.Random(number)
        one = Race(ledger, str(number), dice)
        await one.prepare()
        try:
            await Turns(dice).play(one.cast())
            await one.check()
        except AssertionError as error:
            raise AssertionError(f"race {number}: {error}") from error

    lanes = 1 if ledger.database.sqlite else 6

    async def lane(first: int) -> None:
        for number in range(first, RACES, lanes):
            await race(number)

    async with asyncio.TaskGroup() as group:
        for first in range(lanes):
            group.create_task(lane(first))


@PATIENT
async def test_whoever_claims_first_goes_on_when_all_come_at_once(ledger: Ledger) -> None:
    """As above, with transactions that meet each other."""
    for number in range(RACES // 5):
        dice = random.Random(number)
        one = Race(ledger, f"at once {number}", dice)
        await one.prepare()

        async def turn(dice: random.Random = dice) -> None:
            await asyncio.sleep(dice.random() / 500)

        async with asyncio.TaskGroup() as group:
            for part in one.cast():
                group.create_task(part(turn))  # type: ignore[arg-type]
        await one.check()
