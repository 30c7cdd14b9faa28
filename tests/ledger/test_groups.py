"""Several waits opened as one: the first of any, the last of all, and an answer that is refused afterwards."""

import asyncio
import random
from datetime import timedelta
from typing import Any

import pytest

from standby.ledger import Ledger
from standby.states import Disposition, Hold, Need, RunState, Verdict, WaitState

from .acts import (
    answer,
    approval,
    claim,
    deliver,
    open_group,
    parked,
    signal,
    state_of_run,
    states_of,
    take_over,
)
from .conftest import Connect, Watch

OPEN, SETTLED, CLOSED = WaitState.OPEN, WaitState.SETTLED, WaitState.CLOSED


async def test_the_first_of_any_closes_the_others(ledger: Ledger) -> None:
    group = await parked(ledger, [approval("boss"), approval("deputy"), signal("paid")], need=Need.ANY)
    settled = await answer(ledger, group.waits[1].id)
    assert (settled.won, settled.wake) == (True, True)
    assert await states_of(ledger) == {"boss": CLOSED, "deputy": SETTLED, "paid": CLOSED}


async def test_a_loser_of_any_hears_who_answered_the_other_wait(ledger: Ledger) -> None:
    group = await parked(ledger, [approval("boss"), approval("deputy")], need=Need.ANY)
    await answer(ledger, group.waits[1].id, actor="dora")
    lost = await answer(ledger, group.waits[0].id, actor="ben")
    assert not lost.won
    assert lost.winner is not None
    assert (lost.winner.actor, lost.winner.wait_id) == ("dora", group.waits[1].id)


async def test_all_are_ready_at_the_last(ledger: Ledger) -> None:
    group = await parked(ledger, [approval("a"), approval("b"), approval("c")], need=Need.ALL)
    first, second, third = group.waits
    assert not (await answer(ledger, third.id)).wake
    assert not (await answer(ledger, first.id)).wake
    assert await state_of_run(ledger) == RunState.PARKED
    assert (await answer(ledger, second.id)).wake
    assert await state_of_run(ledger) == RunState.READY
    assert (await ledger.waits.group("run", "a")).ready


async def test_a_loser_of_all_hears_who_answered_this_wait_and_not_another(ledger: Ledger, watch: Watch) -> None:
    group = await parked(ledger, [approval("a"), approval("b")], need=Need.ALL)
    await answer(ledger, group.waits[0].id, actor="ann")
    watch.forward(timedelta(seconds=1))
    await answer(ledger, group.waits[1].id, actor="bob")
    lost = await answer(ledger, group.waits[0].id, actor="carol")
    assert lost.winner is not None
    assert lost.winner.actor == "ann"


async def test_a_group_is_found_again_as_the_earlier_attempt_left_it(ledger: Ledger) -> None:
    group = await parked(ledger, [approval("a"), approval("b")], need=Need.ALL)
    await answer(ledger, group.waits[0].id)
    attempt = await take_over(ledger, from_holder="")
    again = await open_group(ledger, [approval("a"), approval("b")], attempt=attempt, need=Need.ALL)
    assert not again.ready
    assert [wait.id for wait in again.waits] == [wait.id for wait in group.waits]
    assert [wait.state for wait in again.waits] == [SETTLED, OPEN]


async def test_the_losers_of_any_stay_closed_on_a_replay(ledger: Ledger) -> None:
    group = await parked(ledger, [approval("a"), approval("b")], need=Need.ANY)
    await answer(ledger, group.waits[0].id)
    attempt = await take_over(ledger, from_holder="")
    again = await open_group(ledger, [approval("a"), approval("b")], attempt=attempt, need=Need.ANY)
    assert again.ready
    assert [wait.state for wait in again.waits] == [SETTLED, CLOSED]


@pytest.mark.parametrize("need", [Need.ONE, Need.ANY, Need.ALL])
async def test_an_answer_that_does_not_fit_opens_the_wait_again(ledger: Ledger, need: Need) -> None:
    rows = [approval("a")] if need is Need.ONE else [approval("a"), approval("b")]
    group = await parked(ledger, rows, need=need)
    await answer(ledger, group.waits[0].id, '"maybe"', actor="ann")
    attempt = await take_over(ledger, from_holder="")
    assert await ledger.waits.refuse("run", attempt, group.waits[0].id, "answer: it is not a yes")
    assert await states_of(ledger) == dict.fromkeys((row.key for row in rows), OPEN), "its closed siblings, too"
    wait = await ledger.waits.get(group.waits[0].id)
    assert wait is not None
    assert (wait.refused, wait.answer, wait.outcome) == ("answer: it is not a yes", None, None)
    [decision] = await ledger.waits.decisions_of("run")
    assert (decision.verdict, decision.note) == (Verdict.REFUSED, "answer: it is not a yes")
    settled = await answer(ledger, wait.id, '"yes"')
    assert settled.won
    assert settled.wait.refused is None


async def test_what_is_asked_again_is_asked_in_todays_form(ledger: Ledger) -> None:
    """The code has another form than when it was asked first: who answers has to know its fields."""
    group = await parked(ledger, [approval("a", answer_schema='{"properties": {"approved": {}}}')])
    await answer(ledger, group.waits[0].id, '{"approved": true}')
    attempt = await take_over(ledger, from_holder="")
    todays = approval("a", answer_schema='{"properties": {"approved": {}, "account": {}}}', answer_type="forms:Todays")
    assert await ledger.waits.refuse("run", attempt, group.waits[0].id, "account: missing", anew=todays)
    [wait] = (await ledger.waits.group("run", "a")).waits
    assert (wait.state, wait.answer_schema, wait.answer_type) == (OPEN, todays.answer_schema, "forms:Todays")


async def test_a_refusal_in_all_leaves_the_other_answers(ledger: Ledger) -> None:
    group = await parked(ledger, [approval("a"), approval("b")], need=Need.ALL)
    await answer(ledger, group.waits[0].id, '"good"')
    await answer(ledger, group.waits[1].id, '"bad"')
    attempt = await take_over(ledger, from_holder="")
    await ledger.waits.refuse("run", attempt, group.waits[1].id, "no")
    assert await states_of(ledger) == {"a": SETTLED, "b": OPEN}


async def test_a_signal_that_did_not_fit_is_rejected(ledger: Ledger) -> None:
    group = await parked(ledger, [signal()])
    await deliver(ledger, "bad")
    attempt = await take_over(ledger, from_holder="")
    await ledger.waits.refuse("run", attempt, group.waits[0].id, "amount: missing")
    [kept] = await ledger.signals.all()
    assert (kept.disposition, kept.note) == (Disposition.REJECTED, "amount: missing")


async def test_the_next_signal_after_one_that_did_not_fit_is_taken(ledger: Ledger) -> None:
    """G3: it came while the wait was settled with the bad one, was kept, and must not be left lying."""
    group = await parked(ledger, [signal()])
    await deliver(ledger, "bad")
    assert (await deliver(ledger, "good")).disposition == Disposition.BUFFERED
    attempt = await take_over(ledger, from_holder="")
    assert await ledger.waits.refuse("run", attempt, group.waits[0].id, "amount: missing")
    wait = await ledger.waits.get(group.waits[0].id)
    assert wait is not None
    assert (wait.state, wait.answer) == (SETTLED, '"good"')
    outcomes = {kept.delivery_id: kept.disposition for kept in await ledger.signals.all()}
    assert outcomes == {"bad": Disposition.REJECTED, "good": Disposition.DELIVERED}


async def test_a_refusal_that_never_settled_the_wait_is_written_down(ledger: Ledger) -> None:
    await claim(ledger)
    [wait] = (await open_group(ledger, [approval()])).waits
    assert await ledger.waits.note_refusal("run", 1, wait.id, '"maybe"', "answer: it is not a yes")
    assert await states_of(ledger) == {"approval": OPEN}
    [decision] = await ledger.waits.decisions_of("run")
    assert (decision.verdict, decision.answer) == (Verdict.REFUSED, '"maybe"')


async def test_the_end_of_a_run_closes_its_open_waits(ledger: Ledger) -> None:
    group = await parked(ledger, [approval("a"), approval("b")], need=Need.ALL)
    await answer(ledger, group.waits[0].id)
    attempt = await take_over(ledger, from_holder="")
    assert await ledger.runs.end("run", attempt, RunState.FAILED, error="ValueError: no")
    assert await states_of(ledger) == {"a": SETTLED, "b": CLOSED}
    lost = await answer(ledger, group.waits[1].id)
    assert not lost.won
    assert lost.winner is None, "nobody answered b"


@pytest.mark.parametrize("need", [Need.ONE, Need.ANY, Need.ALL])
async def test_a_failed_run_that_is_retried_waits_again(ledger: Ledger, need: Need) -> None:
    rows = [approval("a")] if need is Need.ONE else [approval("a"), approval("b")]
    group = await parked(ledger, rows, need=need)
    attempt = await take_over(ledger, from_holder="")
    await ledger.runs.end("run", attempt, RunState.FAILED, error="JournalMismatch: ...")
    attempt = (await claim(ledger)).attempt
    again = await open_group(ledger, rows, attempt=attempt, need=need)
    assert [wait.id for wait in again.waits] == [wait.id for wait in group.waits]
    assert {wait.state for wait in again.waits} == {OPEN}


async def test_a_retried_run_keeps_the_answers_it_had(ledger: Ledger) -> None:
    group = await parked(ledger, [approval("a"), approval("b")], need=Need.ALL)
    await answer(ledger, group.waits[1].id, '"yes"')
    attempt = await take_over(ledger, from_holder="")
    await ledger.runs.end("run", attempt, RunState.FAILED)
    attempt = (await claim(ledger)).attempt
    again = await open_group(ledger, [approval("a"), approval("b")], attempt=attempt, need=Need.ALL)
    assert [wait.state for wait in again.waits] == [OPEN, SETTLED]
    assert again.waits[1].answer == '"yes"'


async def test_an_answer_that_closes_many_waits_does_not_collide_with_their_announcement(connect: Connect) -> None:
    """Both write to the same rows, in different orders, and neither may be told of a deadlock."""
    door, keeper = await connect(), await connect()
    dice = random.Random(1)
    for number in range(20):
        run = str(number)
        group = await parked(door, [approval(f"w{n}") for n in range(20)], run=run, need=Need.ANY)

        async def answering(wait: str = group.waits[-1].id, pause: float = dice.random() / 300) -> bool:
            await asyncio.sleep(pause)
            return (await answer(door, wait)).won

        async def announcing(told_of: tuple[Any, ...] = tuple(group.waits)) -> None:
            await keeper.waits.announced(list(told_of))

        assert await asyncio.gather(answering(), announcing()) == [True, None]
        assert await keeper.waits.unannounced() == []


async def test_an_answer_that_was_refused_is_not_refused_again(ledger: Ledger) -> None:
    group = await parked(ledger, [approval("a"), approval("b")], need=Need.ANY)
    await answer(ledger, group.waits[0].id)
    attempt = await take_over(ledger, from_holder="")
    assert await ledger.waits.refuse("run", attempt, group.waits[0].id, "no")
    await answer(ledger, group.waits[1].id)
    assert await ledger.waits.refuse("run", attempt, group.waits[0].id, "no")
    assert await states_of(ledger) == {"a": CLOSED, "b": SETTLED}


async def test_waits_are_found_by_the_start_of_their_id_and_listed_oldest_first(ledger: Ledger, watch: Watch) -> None:
    first = (await parked(ledger, [approval()], run="one")).waits[0]
    watch.forward(timedelta(seconds=1))
    second = (await parked(ledger, [approval()], run="two", hold=Hold.PAUSE)).waits[0]
    assert [wait.id for wait in await ledger.waits.find(first.id[:20])] == [first.id]
    assert await ledger.waits.find("%") == []
    assert [wait.id for wait in await ledger.waits.open_ones()] == [first.id, second.id]
    assert [wait.id for wait in await ledger.waits.open_ones(["two"])] == [second.id]


async def test_a_wait_is_announced_until_it_has_been(ledger: Ledger) -> None:
    group = await parked(ledger, [approval("a"), approval("b")], need=Need.ALL)
    first, second = group.waits
    assert [wait.id for wait in await ledger.waits.unannounced()] == [first.id, second.id]
    await ledger.waits.announced([first])
    assert [wait.id for wait in await ledger.waits.unannounced()] == [second.id]
    await ledger.waits.announced([])
    assert len(await ledger.waits.unannounced()) == 1


async def test_a_wait_that_is_opened_again_is_announced_again(ledger: Ledger) -> None:
    """Also when the first announcement is noted only then."""
    [first] = (await parked(ledger, [approval()])).waits
    await answer(ledger, first.id)
    attempt = await take_over(ledger, from_holder="")
    assert await ledger.waits.refuse("run", attempt, first.id, "too much")
    await ledger.waits.announced([first])
    [again] = await ledger.waits.unannounced()
    assert (again.id, again.opening, again.refused) == (first.id, 2, "too much")
    await ledger.waits.announced([again])
    assert await ledger.waits.unannounced() == []
