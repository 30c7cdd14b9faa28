"""A wait gets one answer, whatever races, and those who lose are told who won."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any

import pytest

from standby import clock
from standby.ledger import Ledger
from standby.ledger.text import digest_of
from standby.states import Disposition, Door, Hold, Need, Outcome, RunState, Verdict, WaitState
from tests.support.seeds import seeds

from .acts import answer, approval, claim, deliver, open_group, parked, signal, state_of_run
from .conftest import Connect, Watch


async def test_an_answer_settles_the_wait_and_readies_the_run(ledger: Ledger) -> None:
    [wait] = (await parked(ledger, [approval(evidence="| a |")])).waits
    settled = await answer(ledger, wait.id, '{"approved": true}', actor="ann")
    assert (settled.won, settled.wake, settled.wake_address) == (True, True, None)
    assert (settled.wait.state, settled.wait.outcome) == (WaitState.SETTLED, Outcome.ANSWERED)
    assert settled.wait.answer == '{"approved": true}'
    assert await state_of_run(ledger) == RunState.READY


async def test_the_audit_names_who_decided_through_which_door_on_what(ledger: Ledger, watch: Watch) -> None:
    """G12."""
    [wait] = (await parked(ledger, [approval(evidence="| a |")])).waits
    await answer(ledger, wait.id, '"yes"', actor="ann")
    watch.forward(timedelta(seconds=1))
    await answer(ledger, wait.id, '"no"', actor="bob", door=Door.PREFECT)
    won, lost = await ledger.waits.decisions_of("run")
    assert (won.verdict, won.actor, won.door, won.answer) == (Verdict.WON, "ann", Door.TERMINAL, '"yes"')
    assert (lost.verdict, lost.actor, lost.door, lost.answer) == (Verdict.LOST, "bob", Door.PREFECT, '"no"')
    assert won.evidence_digest == digest_of("| a |")


async def test_a_loser_is_told_who_won(ledger: Ledger) -> None:
    [wait] = (await parked(ledger, [approval()])).waits
    await answer(ledger, wait.id, '"yes"', actor="ann")
    settled = await answer(ledger, wait.id, '"no"', actor="bob")
    assert (settled.won, settled.wake) == (False, False)
    assert settled.wait.answer == '"yes"'
    assert settled.winner is not None
    assert settled.winner.actor == "ann"


async def test_an_answer_before_the_run_has_parked_wakes_nobody(ledger: Ledger) -> None:
    await claim(ledger)
    [wait] = (await open_group(ledger, [approval()])).waits
    settled = await answer(ledger, wait.id)
    assert (settled.won, settled.wake) == (True, False)
    assert await state_of_run(ledger) == RunState.RUNNING


async def test_a_run_that_pauses_in_its_process_is_called_at_its_address(ledger: Ledger) -> None:
    [wait] = (await parked(ledger, [approval()], hold=Hold.PAUSE)).waits
    settled = await answer(ledger, wait.id)
    assert (settled.wake, settled.wake_address) == (True, "127.0.0.1:9")


async def test_a_wait_there_is_not_is_not_settled(ledger: Ledger) -> None:
    assert await ledger.waits.settle("none", outcome=Outcome.ANSWERED, answer="1", door=Door.TERMINAL) is None


async def test_a_deadline_fires_when_it_is_due_and_not_before(ledger: Ledger, watch: Watch) -> None:
    [wait] = (await parked(ledger, [approval(deadline=watch.now + timedelta(hours=1))])).waits
    watch.forward(timedelta(hours=1, microseconds=-1))
    assert await ledger.waits.due() == []
    early = await ledger.waits.expire(wait)
    assert early is not None
    assert not early.won
    watch.forward(timedelta(microseconds=1))
    assert [due.id for due in await ledger.waits.due()] == [wait.id]
    fired = await ledger.waits.expire(wait)
    assert fired is not None
    assert (fired.won, fired.wake, fired.wait.outcome, fired.wait.answer) == (True, True, Outcome.TIMED_OUT, None)
    assert await ledger.waits.due() == []


async def test_a_default_answer_is_taken_at_the_deadline(ledger: Ledger, watch: Watch) -> None:
    row = approval(deadline=watch.now, has_default=True, default_answer='"no"')
    [wait] = (await parked(ledger, [row])).waits
    fired = await ledger.waits.expire(wait)
    assert fired is not None
    assert (fired.wait.outcome, fired.wait.answer) == (Outcome.DEFAULTED, '"no"')
    [decision] = await ledger.waits.decisions_of("run")
    assert (decision.door, decision.verdict, decision.actor) == (Door.DEADLINE, Verdict.WON, None)


async def test_due_waits_come_most_overdue_first(ledger: Ledger, watch: Watch) -> None:
    hours = {"late": 1, "later": 2, "latest": 3}
    for run, hour in hours.items():
        await parked(ledger, [approval(deadline=watch.now - timedelta(hours=hour))], run=run)
    assert [wait.run_id for wait in await ledger.waits.due()] == ["latest", "later", "late"]
    assert [wait.run_id for wait in await ledger.waits.due(limit=1)] == ["latest"]


@pytest.mark.timeout(300)
async def test_of_fifty_answers_at_once_one_wins(connect: Connect) -> None:
    """G5: fifty people and systems through several processes, again and again."""
    ledgers = [await connect() for _ in range(3)]
    for round_ in range(6):
        run = f"run {round_}"
        [wait] = (await parked(ledgers[0], [approval()], run=run)).waits
        settled = await asyncio.gather(
            *(answer(ledgers[n % len(ledgers)], wait.id, f'"{n}"', actor=str(n)) for n in range(50))
        )
        [winner] = [one for one in settled if one.won]
        assert [one.wake for one in settled].count(True) == 1
        told = {one.winner.actor for one in settled if one.winner is not None}
        assert told == {str(winner.wait.answer).strip('"')}
        verdicts = [decision.verdict for decision in await ledgers[0].waits.decisions_of(run)]
        assert (verdicts.count(Verdict.WON), verdicts.count(Verdict.LOST)) == (1, 49)


@pytest.mark.parametrize("seed", seeds())
async def test_a_deadline_and_an_answer_never_both_count(connect: Connect, seed: int) -> None:
    """G6, failure 28: an answer, a signal and the keeper at the instant of the deadline, for a thousand waits."""
    one, two, three = [await connect() for _ in range(3)]
    dice = random.Random(seed)
    names = [str(number) for number in range(125)]
    rows = [
        signal(name, correlation=name, deadline=clock.utcnow(), has_default=True, default_answer='"default"')
        for name in names
    ]
    group = await parked(one, rows, need=Need.ALL)

    async def race(wait: Any) -> str:
        async def at_some_time(act: Awaitable[Any], within: float = 0.05) -> Any:
            await asyncio.sleep(dice.random() * within)
            return await act

        settled = await asyncio.gather(
            at_some_time(one.waits.expire(wait)),
            at_some_time(answer(two, wait.id, '"answer"')),
            # It has more to do: without a head start it would never be first.
            at_some_time(deliver(three, wait.key, correlation=wait.key, payload='"signal"'), within=0.01),
        )
        expired, answered, delivered = settled
        won = [expired.won, answered.won, delivered.disposition == Disposition.DELIVERED]
        assert won.count(True) == 1, settled
        after = await one.waits.get(wait.id)
        assert after is not None
        assert after.answer == ['"default"', '"answer"', '"signal"'][won.index(True)]
        return str(after.answer)

    outcomes: Counter[str] = Counter()
    for start in range(0, len(names), 5):
        outcomes.update(await asyncio.gather(*(race(wait) for wait in group.waits[start : start + 5])))
    assert len(outcomes) == 3, f"it was no race: {outcomes}"
    verdicts = Counter(decision.verdict for decision in await one.waits.decisions_of("run"))
    assert verdicts[Verdict.WON] == len(names)
    assert await state_of_run(one) == RunState.READY
