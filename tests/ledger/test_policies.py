"""Policies in the ledger: decisions are counted, whoever races; what is due is done once."""

import asyncio
import json
from collections import Counter
from datetime import timedelta
from typing import Any

from standby import Escalation, Policy
from standby.ledger import Ledger
from standby.ledger.settling import Settled
from standby.states import Door, NoticeKind, Outcome, RunState, Verdict, WaitState

from .acts import approval, claim, open_group, parked, state_of_run, take_over
from .conftest import Connect, Watch

TWO = Policy(quorum=2)
HOUR = timedelta(hours=1)


async def asked(ledger: Ledger, policy: Policy, **columns: Any) -> Any:
    """A parked run's approval with this policy."""
    return (await parked(ledger, [approval(policy=policy.model_dump_json(), **columns)])).waits[0]


async def decide(ledger: Ledger, wait: Any, actor: str | None, approved: bool = True, **fields: Any) -> Settled:
    text = json.dumps({"approved": approved, **fields})
    settled = await ledger.waits.settle(wait.id, outcome=Outcome.ANSWERED, answer=text, door=Door.TERMINAL, actor=actor)
    assert settled is not None
    return settled


async def verdicts(ledger: Ledger) -> list[tuple[str | None, str]]:
    return [(one.actor, one.verdict) for one in await ledger.waits.decisions_of("run")]


async def test_two_people_approve_and_the_second_settles_it(ledger: Ledger) -> None:
    wait = await asked(ledger, TWO)
    first = await decide(ledger, wait, "ada")
    assert (first.won, first.counted, first.wake) == (False, True, False)
    assert await state_of_run(ledger) == RunState.PARKED
    second = await decide(ledger, wait, "bob", comment="yes")
    assert (second.won, second.counted, second.wake) == (True, False, True)
    assert (second.wait.state, second.wait.answer) == (WaitState.SETTLED, '{"approved": true, "comment": "yes"}')
    assert await verdicts(ledger) == [("ada", Verdict.COUNTED), ("bob", Verdict.WON)]


async def test_nobody_counts_twice_and_who_asked_does_not_count(ledger: Ledger) -> None:
    wait = await asked(ledger, Policy(quorum=2, not_by=("eve",)))
    assert (await decide(ledger, wait, "ada")).counted
    for actor, says in (("ada", "counts once"), ("eve", "may not decide"), (None, "has to be known")):
        refused = await decide(ledger, wait, actor)
        assert not refused.won
        assert not refused.counted
        assert says in (refused.refused or "")
    assert await state_of_run(ledger) == RunState.PARKED
    assert Counter(verdict for _, verdict in await verdicts(ledger)) == {Verdict.COUNTED: 1, Verdict.REFUSED: 3}


async def test_a_rejection_settles_it_when_the_quorum_cannot_be_met(ledger: Ledger) -> None:
    wait = await asked(ledger, Policy(quorum=2, approvers=("ada", "bob", "eve")))
    assert (await decide(ledger, wait, "ada", approved=False)).counted
    last = await decide(ledger, wait, "bob", approved=False)
    assert last.won
    assert json.loads(last.wait.answer) == {"approved": False}


async def test_everybody_approves_the_same(ledger: Ledger) -> None:
    wait = await asked(ledger, TWO)
    await decide(ledger, wait, "ada", amount=100)
    refused = await decide(ledger, wait, "bob", amount=999)
    assert refused.refused == "ada has approved with amount=100: approve the same, or reject"
    assert (await decide(ledger, wait, "bob", amount=100)).won


async def test_what_was_counted_lapses_when_the_wait_opens_again(ledger: Ledger) -> None:
    """The run fails while it waits and is retried: everybody is asked anew."""
    wait = await asked(ledger, TWO)
    await decide(ledger, wait, "ada")
    attempt = await ledger.runs.get("run")
    assert attempt is not None
    await ledger.runs.end("run", attempt.attempt, RunState.FAILED, error="no")
    assert not (await decide(ledger, wait, "bob")).won
    again = (await claim(ledger)).attempt
    await open_group(ledger, [approval(policy=TWO.model_dump_json())], attempt=again)
    assert (await decide(ledger, wait, "bob")).counted
    assert (await decide(ledger, wait, "ada")).won


async def asked_anew(ledger: Ledger, policy: Policy) -> Any:
    """The run goes on with code whose policy is this one, and comes to its wait."""
    group = await open_group(ledger, [approval(policy=policy.model_dump_json())], attempt=await take_over(ledger))
    return group.waits[0]


async def test_whom_the_policy_leaves_out_now_does_not_count_any_more(ledger: Ledger) -> None:
    wait = await asked(ledger, Policy(quorum=2, approvers=("ada", "bob", "eve")))
    await decide(ledger, wait, "ada")
    wait = await asked_anew(ledger, Policy(quorum=2, approvers=("bob", "eve"), not_by=("ada",)))
    assert wait.state == WaitState.OPEN
    assert (await decide(ledger, wait, "bob")).counted
    assert (await decide(ledger, wait, "eve")).won
    assert await verdicts(ledger) == [
        ("ada", Verdict.REFUSED),
        ("bob", Verdict.COUNTED),
        ("eve", Verdict.WON),
    ]


async def test_a_policy_that_asks_for_less_now_may_be_met_already(ledger: Ledger) -> None:
    wait = await asked(ledger, Policy(quorum=2, approvers=("ada", "bob")))
    await decide(ledger, wait, "ada", comment="yes")
    wait = await asked_anew(ledger, Policy(approvers=("ada",)))
    assert (wait.state, wait.answer) == (WaitState.SETTLED, '{"approved": true, "comment": "yes"}')
    assert await verdicts(ledger) == [("ada", Verdict.WON)]


async def test_a_policy_that_cannot_be_met_any_more_rejects(ledger: Ledger) -> None:
    wait = await asked(ledger, Policy(approvers=("ada", "bob")))
    await decide(ledger, wait, "ada", approved=False)
    wait = await asked_anew(ledger, Policy(approvers=("ada",)))
    assert (wait.state, wait.answer) == (WaitState.SETTLED, '{"approved": false}')


async def test_of_ten_people_at_once_two_count_and_one_settles_it(connect: Connect) -> None:
    ledgers = [await connect() for _ in range(4)]
    wait = await asked(ledgers[0], TWO)
    made = await asyncio.gather(*(decide(ledgers[n % 4], wait, f"person {n % 5}") for n in range(10)))
    assert sum(one.won for one in made) == 1
    assert sum(one.counted for one in made) == 1
    assert sum(one.wake for one in made) == 1
    winners = [actor for actor, verdict in await verdicts(ledgers[0]) if verdict in (Verdict.WON, Verdict.COUNTED)]
    assert len(set(winners)) == 2, "two different people"


async def test_who_is_away_is_stood_in_for(ledger: Ledger, watch: Watch) -> None:
    wait = await asked(ledger, Policy(quorum=2, approvers=("ada", "bob")))
    assert (await decide(ledger, wait, "zoe")).refused
    await ledger.delegations.give("ada", "zoe", watch.now + HOUR)
    watch.now += 2 * HOUR
    assert (await decide(ledger, wait, "zoe")).refused, "her time is over"
    await ledger.delegations.give("ada", "zoe", None)
    assert (await decide(ledger, wait, "zoe")).counted
    assert (await decide(ledger, wait, "ada")).refused, "she has been stood in for"
    assert (await decide(ledger, wait, "bob")).won
    [counted] = [one for one in await ledger.waits.decisions_of("run") if one.verdict == Verdict.COUNTED]
    assert (counted.actor, counted.place) == ("zoe", "ada")
    assert await ledger.delegations.end("ada")
    assert not await ledger.delegations.end("ada")


async def test_a_deadline_settles_it_whatever_was_counted(ledger: Ledger, watch: Watch) -> None:
    wait = await asked(ledger, TWO, deadline=watch.now + HOUR, has_default=True, default_answer='{"approved":false}')
    await decide(ledger, wait, "ada")
    watch.now += HOUR
    [due] = await ledger.waits.due()
    settled = await ledger.waits.expire(due)
    assert settled is not None
    assert settled.won
    assert json.loads(settled.wait.answer) == {"approved": False}


async def test_reminders_and_escalations_come_once_and_tell_who_is_asked(ledger: Ledger, watch: Watch) -> None:
    policy = Policy(remind=(HOUR,), escalate=(Escalation(after=2 * HOUR, to="the boss"),))
    wait = await asked(ledger, policy, party="accounts")
    assert await ledger.chases.due() == []
    for _ in range(2):
        watch.now += HOUR
        [due] = await ledger.chases.due()
        results = await asyncio.gather(*(ledger.chases.chase(*due) for _ in range(3)))
        assert sorted(results) == [False, False, True]
    assert await ledger.chases.due() == []
    told = [(notice.kind, notice.party) for notice in await ledger.notices.of_wait(wait.id)]
    assert told == [
        (NoticeKind.OPENED, "accounts"), (NoticeKind.REMINDER, "accounts"), (NoticeKind.ESCALATED, "the boss"),
    ]  # fmt: skip
    after = await ledger.waits.get(wait.id)
    assert after is not None
    assert after.party == "the boss"


async def test_nobody_is_reminded_of_what_is_settled(ledger: Ledger, watch: Watch) -> None:
    wait = await asked(ledger, Policy(remind=(HOUR,)))
    watch.now += HOUR
    [due] = await ledger.chases.due()
    assert (await decide(ledger, wait, None)).won
    assert not await ledger.chases.chase(*due)
    assert await ledger.chases.due() == []


async def test_a_notice_that_a_channel_refuses_is_tried_ever_more_slowly(ledger: Ledger, watch: Watch) -> None:
    wait = await asked(ledger, Policy())
    for pause in (10, 20, 40):
        [notice] = await ledger.notices.due()
        await ledger.notices.failed(notice, "the channel is down")
        watch.now += timedelta(seconds=pause - 1)
        assert await ledger.notices.due() == []
        watch.now += timedelta(seconds=1)
    [notice] = await ledger.notices.due()
    assert (notice.wait_id, notice.tries, notice.note) == (wait.id, 3, "the channel is down")
    await ledger.notices.done(notice.id)
    assert await ledger.notices.due() == []


async def test_opening_again_tells_again(ledger: Ledger) -> None:
    wait = await asked(ledger, Policy())
    assert (await decide(ledger, wait, None, amount=-1)).won
    attempt = (await claim(ledger)).attempt or await take_over(ledger)
    assert await ledger.waits.refuse("run", attempt, wait.id, "amount: too little")
    assert [notice.kind for notice in await ledger.notices.of_wait(wait.id)] == [NoticeKind.OPENED] * 2
