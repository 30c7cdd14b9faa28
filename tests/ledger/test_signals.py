"""Signals: taken once, kept when they are early, and every one with exactly one outcome."""

import asyncio
import random
from collections import Counter
from datetime import timedelta

import pytest

from standby.ledger import Ledger
from standby.ledger.signals import KEPT_FOR, Delivery
from standby.states import Disposition, Door, Hold, Need, RunState, Verdict, WaitState
from tests.support.seeds import seeds

from .acts import answer, approval, claim, deliver, open_group, parked, signal, state_of_run, states_of, take_over
from .conftest import Connect, Watch

BUFFERED, DELIVERED, DUPLICATE = Disposition.BUFFERED, Disposition.DELIVERED, Disposition.DUPLICATE
LATE, UNMATCHED = Disposition.LATE, Disposition.UNMATCHED


async def dispositions(ledger: Ledger) -> dict[str, str]:
    return {kept.delivery_id: kept.disposition for kept in await ledger.signals.all()}


async def test_a_signal_settles_the_wait_for_its_topic_and_key(ledger: Ledger) -> None:
    [wait] = (await parked(ledger, [signal()])).waits
    delivery = await deliver(ledger, "d1", payload='{"amount": 7}')
    assert (delivery.disposition, delivery.wait_id, delivery.run_id, delivery.wake) == (DELIVERED, wait.id, "run", True)
    after = await ledger.waits.get(wait.id)
    assert after is not None
    assert (after.state, after.answer) == (WaitState.SETTLED, '{"amount": 7}')
    [decision] = await ledger.waits.decisions_of("run")
    assert (decision.door, decision.actor, decision.verdict) == (Door.SIGNAL, "bank", Verdict.WON)
    assert await state_of_run(ledger) == RunState.READY


@pytest.mark.parametrize(("topic", "correlation"), [("paid", "8"), ("paid", None), ("settled", "7"), ("paid", "")])
async def test_a_signal_for_another_topic_or_key_does_not(ledger: Ledger, topic: str, correlation: str | None) -> None:
    await parked(ledger, [signal()])
    assert (await deliver(ledger, "d1", topic, correlation)).disposition == BUFFERED
    assert await states_of(ledger) == {"paid": WaitState.OPEN}


async def test_a_signal_without_a_key_is_for_waits_without_one(ledger: Ledger) -> None:
    [wait] = (await parked(ledger, [signal(correlation=None)])).waits
    assert (await deliver(ledger, "d1", correlation="7")).disposition == BUFFERED
    assert (await deliver(ledger, "d2", correlation=None)).wait_id == wait.id


async def test_an_early_signal_is_taken_by_the_wait_it_came_for_once(ledger: Ledger) -> None:
    """G4: two runs ask for it, and one gets it."""
    assert (await deliver(ledger, "d1")).disposition == BUFFERED
    for run in ("one", "two"):
        await claim(ledger, run)
    first = await open_group(ledger, [signal()], run="one")
    second = await open_group(ledger, [signal()], run="two")
    assert (first.ready, second.ready) == (True, False)
    assert first.waits[0].answer == '"d1"'
    assert await dispositions(ledger) == {"d1": DELIVERED}


async def test_early_signals_are_taken_oldest_first(ledger: Ledger, watch: Watch) -> None:
    for number in (1, 2, 3):
        await deliver(ledger, f"d{number}")
        watch.forward(timedelta(seconds=1))
    await claim(ledger)
    answers = [(await open_group(ledger, [signal(f"paid#{n}")], key=f"paid#{n}")).waits[0].answer for n in (1, 2, 3)]
    assert answers == ['"d1"', '"d2"', '"d3"']


async def test_the_oldest_wait_gets_the_signal(ledger: Ledger, watch: Watch) -> None:
    await parked(ledger, [signal()], run="older")
    watch.forward(timedelta(seconds=1))
    await parked(ledger, [signal()], run="newer")
    assert (await deliver(ledger, "d1")).run_id == "older"
    assert (await deliver(ledger, "d2")).run_id == "newer"


async def test_of_two_early_signals_for_any_of_two_waits_the_second_is_not_used_up(ledger: Ledger) -> None:
    """G3: the first closes the other wait, so the second answers nothing and must not count as delivered."""
    await deliver(ledger, "d1", correlation="1")
    await deliver(ledger, "d2", correlation="2")
    await claim(ledger)
    rows = [signal("a", correlation="1"), signal("b", correlation="2")]
    group = await open_group(ledger, rows, need=Need.ANY)
    assert [wait.state for wait in group.waits] == [WaitState.SETTLED, WaitState.CLOSED]
    assert await dispositions(ledger) == {"d1": DELIVERED, "d2": BUFFERED}
    assert [decision.verdict for decision in await ledger.waits.decisions_of("run")] == [Verdict.WON]


async def test_two_waits_of_all_for_one_topic_take_a_signal_each(ledger: Ledger) -> None:
    await deliver(ledger, "d1")
    await deliver(ledger, "d2")
    await claim(ledger)
    group = await open_group(ledger, [signal("a"), signal("b")], need=Need.ALL)
    assert group.ready
    assert sorted(str(wait.answer) for wait in group.waits) == ['"d1"', '"d2"']


async def test_the_same_delivery_again_changes_nothing(ledger: Ledger) -> None:
    """Failure 30: the first response was lost, and the sender tries again."""
    [wait] = (await parked(ledger, [signal()])).waits
    first = await deliver(ledger, "d1")
    again = await deliver(ledger, "d1", payload='"another"')
    assert again == Delivery(DUPLICATE, first.signal_id, wait.id, "run", first=DELIVERED), "and nobody is woken again"
    assert await dispositions(ledger) == {"d1": DELIVERED}


async def test_the_same_delivery_id_from_another_source_is_another_signal(ledger: Ledger) -> None:
    await deliver(ledger, "d1")
    delivery = await ledger.signals.deliver(source="shop", delivery_id="d1", topic="paid", correlation="7", payload="1")
    assert delivery.disposition == BUFFERED


async def test_a_hundred_copies_of_one_delivery_have_one_effect(connect: Connect) -> None:
    """Failure 26: concurrently, through four processes."""
    ledgers = [await connect() for _ in range(4)]
    [wait] = (await parked(ledgers[0], [signal()])).waits
    deliveries = await asyncio.gather(*(deliver(ledgers[n % 4], "d1") for n in range(100)))
    assert Counter(one.disposition for one in deliveries) == {DELIVERED: 1, DUPLICATE: 99}
    assert {one.wait_id for one in deliveries} == {wait.id}, "each was told the same"
    assert len({one.signal_id for one in deliveries}) == 1
    assert len(await ledgers[0].waits.decisions_of("run")) == 1


async def test_a_signal_after_the_deadline_is_late(ledger: Ledger, watch: Watch) -> None:
    [wait] = (await parked(ledger, [signal(deadline=watch.now)])).waits
    await ledger.waits.expire(wait)
    delivery = await deliver(ledger, "d1")
    assert delivery.disposition == LATE
    [kept] = await ledger.signals.all()
    assert kept.note is not None
    assert wait.id in kept.note


async def test_a_signal_after_the_end_of_the_run_is_late(ledger: Ledger) -> None:
    """Failures 18 and 29."""
    await parked(ledger, [signal()])
    await ledger.runs.end_from_outside("run", RunState.CANCELLED)
    assert (await deliver(ledger, "d1")).disposition == LATE


async def test_a_signal_for_a_wait_that_another_wait_closed_is_late(ledger: Ledger) -> None:
    group = await parked(ledger, [signal("a", correlation="1"), signal("b", correlation="2")], need=Need.ANY)
    assert (await deliver(ledger, "d1", correlation="1")).wait_id == group.waits[0].id
    assert (await deliver(ledger, "d2", correlation="2")).disposition == LATE


async def test_a_second_signal_after_an_answered_wait_is_early_for_the_next(ledger: Ledger) -> None:
    await parked(ledger, [signal()])
    await deliver(ledger, "d1")
    assert (await deliver(ledger, "d2")).disposition == BUFFERED
    attempt = await take_over(ledger, from_holder="")
    group = await open_group(ledger, [signal("paid#2")], attempt=attempt)
    assert (group.ready, group.waits[0].answer) == (True, '"d2"')


@pytest.mark.parametrize("correlation", ["7", None])
async def test_a_signal_is_early_for_a_living_run_although_a_younger_one_has_missed_it(
    ledger: Ledger, watch: Watch, correlation: str | None
) -> None:
    """Two agents share a topic. Of the younger one, the last wait timed out, and then it ends."""
    await parked(ledger, [signal(correlation=correlation)], run="older")
    await deliver(ledger, "d1", correlation=correlation)
    attempt = (await claim(ledger, "older")).attempt
    watch.forward(timedelta(seconds=1))
    younger = await parked(ledger, [signal(correlation=correlation, deadline=watch.now)], run="younger")
    await ledger.waits.expire(younger.waits[0])
    assert (await deliver(ledger, "d2", correlation=correlation)).disposition == BUFFERED
    await ledger.runs.end_from_outside("younger", RunState.CANCELLED)
    watch.forward(timedelta(seconds=1))
    assert (await deliver(ledger, "d3", correlation=correlation)).disposition == BUFFERED
    group = await open_group(ledger, [signal("paid#2", correlation=correlation)], run="older", attempt=attempt)
    assert group.waits[0].answer == '"d2"'


@pytest.mark.parametrize("times_answered", [1, 2])
async def test_of_a_run_that_waited_more_than_once_the_last_wait_decides(
    ledger: Ledger, watch: Watch, times_answered: int
) -> None:
    attempt = (await claim(ledger)).attempt
    for number in (1, 2):
        watch.forward(timedelta(seconds=1))
        group = await open_group(ledger, [signal(f"paid#{number}", deadline=watch.now)], attempt=attempt)
        if number > times_answered:
            await ledger.waits.expire(group.waits[0])
        else:
            await deliver(ledger, f"d{number}")
    assert (await deliver(ledger, "after")).disposition == (LATE if times_answered == 1 else BUFFERED)


async def test_a_signal_after_any_of_two_waits_for_it_took_one_is_early(ledger: Ledger) -> None:
    """The other wait, which was opened with it, got no answer; the run had what it waited for."""
    await parked(ledger, [signal("a"), signal("b")], need=Need.ANY)
    await deliver(ledger, "d1")
    assert (await deliver(ledger, "d2")).disposition == BUFFERED


async def test_what_came_late_is_delivered_when_its_wait_is_opened_anew(ledger: Ledger, watch: Watch) -> None:
    """An approval won and closed the wait for a cancellation, which comes then; the run refuses the approval.

    What had come late before the wait first opened, for another one, stays late; so does what nothing is open for any
    more.
    """
    attempt = (await claim(ledger)).attempt
    first = await open_group(ledger, [signal("paid", deadline=watch.now)], attempt=attempt)
    await ledger.waits.expire(first.waits[0])
    assert (await deliver(ledger, "for the first wait")).disposition == LATE
    watch.forward(timedelta(seconds=1))
    rows = [approval("ok"), signal("paid#2")]
    ok, paid = (await open_group(ledger, rows, attempt=attempt, need=Need.ANY, key="either")).waits
    await answer(ledger, ok.id, '{"approved": true}')
    for delivery in ("d1", "d2"):
        watch.forward(timedelta(seconds=1))
        assert (await deliver(ledger, delivery)).disposition == LATE
    assert await ledger.waits.refuse("run", attempt, ok.id, "not today")
    group = await ledger.waits.group("run", "either")
    assert [(wait.state, wait.answer) for wait in group.waits] == [
        (WaitState.CLOSED, None), (WaitState.SETTLED, '"d1"')
    ]  # fmt: skip
    assert await dispositions(ledger) == {"for the first wait": LATE, "d1": DELIVERED, "d2": LATE}
    again = await deliver(ledger, "d1")
    assert (again.disposition, again.first, again.wait_id) == (DUPLICATE, DELIVERED, paid.id)
    assert [(one.wait_id, one.verdict) for one in await ledger.waits.decisions_of("run")][1:] == [
        (ok.id, Verdict.REFUSED), (paid.id, Verdict.WON)
    ]  # fmt: skip


async def test_what_came_late_for_a_run_that_had_ended_is_delivered_when_it_is_retried(ledger: Ledger) -> None:
    await parked(ledger, [signal()])
    await ledger.runs.end_from_outside("run", RunState.FAILED)
    assert (await deliver(ledger, "d1")).disposition == LATE
    attempt = (await claim(ledger)).attempt
    group = await open_group(ledger, [signal()], attempt=attempt)
    assert (group.ready, group.waits[0].answer) == (True, '"d1"')
    assert await dispositions(ledger) == {"d1": DELIVERED}


async def test_a_signal_for_a_run_by_its_id_is_kept_for_as_long_as_the_run_lives(ledger: Ledger, watch: Watch) -> None:
    """Such as the word to stop, of a run that waits for longer than other signals are kept."""
    await claim(ledger)
    await deliver(ledger, "d1", correlation="run")
    watch.forward(KEPT_FOR * 3)
    assert await ledger.signals.expire() == 0
    assert await ledger.signals.is_kept("paid", "run")
    await ledger.runs.end_from_outside("run", RunState.FAILED)
    await ledger.signals.expire()
    assert await dispositions(ledger) == {"d1": UNMATCHED}


async def test_a_signal_that_nobody_asked_for_becomes_unmatched(ledger: Ledger, watch: Watch) -> None:
    await deliver(ledger, "d1")
    await parked(ledger, [signal(correlation="8")])
    await deliver(ledger, "d2", correlation="8")
    watch.forward(KEPT_FOR - timedelta(microseconds=1))
    assert await ledger.signals.expire() == 0
    watch.forward(timedelta(microseconds=1))
    assert await ledger.signals.expire() == 1
    assert await dispositions(ledger) == {"d1": UNMATCHED, "d2": DELIVERED}
    await claim(ledger, "after")
    assert not (await open_group(ledger, [signal()], run="after")).ready


async def test_a_signal_wakes_a_run_that_pauses_in_its_process_at_its_address(ledger: Ledger) -> None:
    await parked(ledger, [signal()], hold=Hold.PAUSE)
    delivery = await deliver(ledger, "d1")
    assert (delivery.wake, delivery.wake_address) == (True, "127.0.0.1:9")


@pytest.mark.parametrize("seed", seeds())
async def test_a_signal_that_meets_an_opening_wait_is_never_lost(connect: Connect, seed: int) -> None:
    """G3, failure 24: signals and waits for one key come at the same moment over two connections, over and over.

    Either the signal finds the wait, or the wait finds the signal. Without the lock on the topic neither sees the
    other on PostgreSQL.
    """
    agent, gateway = await connect(), await connect()
    dice = random.Random(seed)
    attempt = (await claim(agent)).attempt
    early = 0

    async def meet(number: int) -> None:
        nonlocal early
        key = f"k{seed}.{number}"
        pauses = [dice.random() / 400, dice.random() / 400]

        async def opening() -> bool:
            await asyncio.sleep(pauses[0])
            return (await open_group(agent, [signal(key, correlation=key)], attempt=attempt)).ready

        async def delivering() -> str:
            await asyncio.sleep(pauses[1])
            return (await deliver(gateway, key, correlation=key)).disposition

        ready, disposition = await asyncio.gather(opening(), delivering())
        assert (ready, disposition) in {(True, BUFFERED), (False, DELIVERED)}, (key, ready, disposition)
        early += ready
        group = await agent.waits.group("run", key)
        assert group.waits[0].answer == f'"{key}"'

    rounds = 200
    for number in range(0, rounds, 4):
        await asyncio.gather(*(meet(number + n) for n in range(4)))
    assert 0 < early < rounds, f"it was no race: {early} of {rounds} were early"
    assert Counter((await dispositions(agent)).values()) == {DELIVERED: rounds}


async def test_two_signals_racing_for_one_wait_take_it_and_the_next(connect: Connect) -> None:
    one, two = await connect(), await connect()
    for round_ in range(40):
        key = str(round_)
        await parked(one, [signal(correlation=key)], run=key)
        deliveries = await asyncio.gather(
            deliver(one, f"{key}a", correlation=key), deliver(two, f"{key}b", correlation=key)
        )
        assert sorted(delivery.disposition for delivery in deliveries) == [BUFFERED, DELIVERED]


async def test_signals_for_many_keys_are_delivered_while_runs_open_groups_of_them(connect: Connect) -> None:
    """Locks on several topics are taken in one order: nobody waits in a circle."""
    ledgers = [await connect() for _ in range(3)]
    keys = ["x", "y", "z"]
    dice = random.Random(7)
    for round_ in range(15):
        rows = [signal(f"{key}{round_}", correlation=f"{key}{round_}") for key in keys]
        runs = [f"{round_}.{n}" for n in range(3)]
        for run in runs:
            await claim(ledgers[0], run)
        groups = (
            open_group(ledger, dice.sample(rows, 3), run=run, need=Need.ALL, key="group")
            for ledger, run in zip(ledgers, runs, strict=True)
        )
        sent = (
            deliver(ledgers[n % 3], f"{key}{round_}.{n}", correlation=f"{key}{round_}")
            for n in range(3)
            for key in keys
        )
        await asyncio.gather(*groups, *sent)
        for run in runs:
            assert (await ledgers[0].waits.group(run, "group")).ready, run


async def test_an_answer_beside_a_signal_leaves_the_signal_for_the_next_wait(ledger: Ledger) -> None:
    [wait] = (await parked(ledger, [signal()])).waits
    assert (await answer(ledger, wait.id)).won
    assert (await deliver(ledger, "d1")).disposition == BUFFERED
