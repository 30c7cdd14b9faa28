"""Conditions: a signal or a poll, whichever is first; one poller asks for all of them."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from time import monotonic
from typing import Any

import pytest
from prefect.client.orchestration import PrefectClient

from standby import Approval, Condition, Signal, Timer, agent, polling, wait_any, wait_for
from standby.doctor import audit
from standby.keeper import Keeper
from standby.ledger import Ledger
from standby.polling import Poller, poll
from standby.states import Disposition, Door, WaitState
from tests.fundamentals.conftest import Desk
from tests.ledger import acts
from tests.support.waiting import wait_until

SOON = timedelta(seconds=0.05)
asked: list[str] = []
facts: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def _nothing_is_so_yet() -> None:
    asked.clear()
    facts.clear()


async def settled(payment: str) -> str | None:
    """The source of truth: what is in ``facts``; an exception there is raised."""
    asked.append(payment)
    found = facts.get(payment)
    if isinstance(found, Exception):
        raise found
    return found


def settled_slowly(payment: str) -> str | None:
    return facts.get(payment)


async def never_answers(payment: str) -> str | None:
    asked.append(payment)
    await asyncio.Event().wait()
    return None


returns = threading.Event()


def hangs(payment: str) -> str | None:
    asked.append(payment)
    returns.wait(60)
    return facts.get(payment)


@pytest.fixture
def hung() -> Iterator[None]:
    """What hangs returns after the test."""
    returns.clear()
    yield
    returns.set()


def paid(payment: str = "7", **how: Any) -> Condition[str]:
    given: dict[str, Any] = {"poll": settled, "every": SOON, "at_most": SOON * 2} | how
    return Condition("paid", key=payment, args={"payment": payment}, of=str, **given)


@pytest.fixture
async def ledger(sqlite_url: str) -> AsyncIterator[Ledger]:
    opened = await Ledger.connect(sqlite_url)
    yield opened
    await opened.close()


async def opened(ledger: Ledger, run: str = "run", **how: Any) -> Any:
    return (await acts.parked(ledger, [paid(run, **how).row("paid")], run=run)).waits[0]


async def row_of(ledger: Ledger, wait: Any) -> Any:
    row = await ledger.waits.get(wait.id)
    assert row is not None
    return row


async def polled(ledger: Ledger, poller: Poller, until: Any) -> None:
    async def so() -> bool:
        await poller.tick()
        return bool(await until())

    await wait_until(so, 30)
    await poller.close()


async def nobody(_: Any) -> None:
    """Wakes nobody."""


@pytest.mark.parametrize("source", [settled, settled_slowly])
async def test_a_poll_finds_what_no_signal_said(desk: Desk, source: Any) -> None:
    """In a process that holds its run, without a keeper."""

    @agent
    async def buyer() -> str:
        return await wait_for(paid(poll=source))

    run = await desk.start(buyer)
    await run.open_waits()
    facts["7"] = "settled at last"
    assert await run.result() == "settled at last"
    [wait] = await run.waits()
    [decision] = await desk.ledger.waits.decisions_of(run.id)
    assert (decision.door, decision.actor) == (Door.POLL, f"tests.fundamentals.test_conditions:{source.__name__}")
    assert await desk.ledger.signals.pushed_and_polled() == [("paid", 0, 1)]
    late = await desk.signal("paid", "settled at last", key="7")
    assert late.disposition in (Disposition.LATE, Disposition.BUFFERED), wait


async def test_the_signal_may_be_first(desk: Desk) -> None:
    @agent
    async def buyer() -> str:
        return await wait_for(paid(every=timedelta(hours=1), at_most=timedelta(hours=1)))

    run = await desk.start(buyer)
    await run.open_waits()
    assert (await desk.signal("paid", "pushed", key="7")).disposition == Disposition.DELIVERED
    assert await run.result() == "pushed"
    assert await desk.ledger.signals.pushed_and_polled() == [("paid", 1, 0)]


async def test_an_early_signal_needs_no_poll(desk: Desk) -> None:
    @agent
    async def buyer() -> str:
        return await wait_for(paid())

    await desk.signal("paid", "early", key="7")
    assert await desk.run(buyer) == "early"
    assert asked == []


async def test_one_of_several_closes_the_others_which_are_polled_no_more(desk: Desk) -> None:
    @agent
    async def buyer() -> str:
        first = await wait_any(paid=paid(every=timedelta(hours=1), at_most=timedelta(hours=1)), no=Approval("Stop?"))
        return first.name

    run = await desk.start(buyer)
    await run.answer({"approved": True}, key="paid|no/no")
    assert await run.result() == "no"
    assert [wait.state for wait in await run.waits()] == [WaitState.CLOSED, WaitState.SETTLED]
    assert await desk.ledger.polls.due() == []


async def test_one_poller_asks_for_all_and_a_slow_source_delays_no_other(ledger: Ledger) -> None:
    waits = [await opened(ledger, f"run{number}") for number in range(5)]
    await opened(ledger, "slow", poll=never_answers)
    facts.update({f"run{number}": str(number) for number in range(5)})

    async def all_but_the_slow_one() -> bool:
        rows = [await ledger.waits.get(wait.id) for wait in waits]
        return all(row is not None and row.state == WaitState.SETTLED for row in rows)

    await polled(ledger, Poller(ledger, nobody), all_but_the_slow_one)
    assert asked.count("slow") == 1, "it is not asked again while it is asked"


async def test_it_is_asked_ever_more_rarely(ledger: Ledger) -> None:
    hour = timedelta(hours=1)
    wait = await opened(ledger, every=hour, at_most=3 * hour)
    pauses = []
    for _ in range(4):
        before = await ledger.waits.get(wait.id)
        assert before is not None
        await poll(ledger, before)
        after = await ledger.waits.get(wait.id)
        assert after is not None
        pauses.append(round((after.poll_at - before.opened_at) / hour))
    assert pauses == [2, 3, 3, 3]
    assert after.polls == 4


@pytest.mark.parametrize(
    ("says", "note"),
    [
        (ConnectionError("the bank is shut"), "ConnectionError: the bank is shut"),
        (7, "7 is not of type 'string'"),
        (float("inf"), "what the source says cannot be stored as JSON"),
    ],
)
async def test_a_source_that_fails_or_talks_nonsense_is_asked_again(ledger: Ledger, says: Any, note: str) -> None:
    wait = await opened(ledger)
    facts["run"] = says
    assert await poll(ledger, wait) is None
    after = await ledger.waits.get(wait.id)
    assert after is not None
    assert (after.state, after.polls) == (WaitState.OPEN, 1)
    assert note in after.poll_note
    facts["run"] = "yes"
    made = await poll(ledger, after)
    assert made is not None
    assert made.won
    assert made.wait.answer == json.dumps("yes")


@pytest.mark.parametrize("says", [{"price": float("nan")}, [1.5, float("-inf")], float("nan")])
async def test_no_number_is_no_answer(ledger: Ledger, says: Any) -> None:
    """As a signal, it is refused. Written as null it would be one, where any JSON is."""
    condition = Condition("price", poll=settled, args={"payment": "run"})
    wait = (await acts.parked(ledger, [condition.row("price")])).waits[0]
    facts["run"] = says
    assert await poll(ledger, wait) is None
    after = await row_of(ledger, wait)
    assert (after.state, after.answer, after.polls) == (WaitState.OPEN, None, 1)
    assert "NaN" in after.poll_note or "Out of range" in after.poll_note


@pytest.mark.usefixtures("hung")
async def test_a_source_that_hangs_starves_no_other(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is to be asked, and longer; nor does it keep anybody from looking up a host name."""
    monkeypatch.setattr(polling, "EACH", 40)
    for number in range(201):  # more than are looked for at a time
        await opened(ledger, f"hung{number}", poll=hangs)
    wait = await opened(ledger, "quick", poll=settled_slowly)
    facts["quick"] = "yes"
    poller = Poller(ledger, nobody)

    async def answered() -> bool:
        await poller.tick()
        return (await row_of(ledger, wait)).answer == '"yes"'

    await wait_until(answered, 10)
    await asyncio.wait_for(asyncio.get_running_loop().getaddrinfo("localhost", 80, type=socket.SOCK_STREAM), 10)
    await poller.close()
    assert len(asked) == 40


@pytest.mark.usefixtures("hung")
async def test_a_source_that_hangs_is_asked_again_when_it_returns(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "POLL_SECONDS", 0.1)
    wait = await opened(ledger, poll=hangs, every=SOON / 10, at_most=SOON / 10)

    async def given_up() -> bool:
        return (await row_of(ledger, wait)).polls == 1

    await polled(ledger, Poller(ledger, nobody), given_up)
    assert (await row_of(ledger, wait)).poll_note == "it has not answered within 0.1 seconds"

    async def is_due() -> bool:
        return bool(await ledger.polls.due())

    await wait_until(is_due, 10)
    for _ in range(3):
        again = Poller(ledger, nobody)
        await again.tick()
        await again.finish()
    assert asked == ["run"]

    monkeypatch.setattr(polling, "POLL_SECONDS", 30)
    facts["run"] = "yes"
    returns.set()

    async def answered() -> bool:
        return (await row_of(ledger, wait)).answer == '"yes"'

    await polled(ledger, Poller(ledger, nobody), answered)
    assert asked == ["run", "run"]


@pytest.mark.parametrize("source", [never_answers, hangs])
@pytest.mark.usefixtures("hung")
async def test_a_source_that_hangs_delays_neither_a_time_nor_a_signal(desk: Desk, source: Any) -> None:
    """Also not where the run's own process asks it."""

    @agent
    async def buyer() -> list[str]:
        first = await wait_any(paid=paid(poll=source), late=Timer(timedelta(seconds=1)))
        second = await wait_any(paid=paid("8", poll=source), cancelled=Signal("cancelled", key="7"))
        return [first.name, second.name]

    began = monotonic()
    run = await desk.start(buyer)

    await wait_until(lambda: "8" in asked, 25)
    await run.paused()
    await desk.signal("cancelled", 1, key="7")
    assert await run.result() == ["late", "cancelled"]
    assert monotonic() - began < polling.POLL_SECONDS


async def test_a_source_that_fails_again_and_again_is_found_by_the_doctor_until_it_answers(ledger: Ledger) -> None:
    """One that failed once is asked again soon, and is no finding."""
    wait = await opened(ledger)
    for says, problems in [
        (ConnectionError("the bank\nis shut"), 0),
        (ConnectionError("the bank\nis shut"), 0),
        (None, 0),
        (ConnectionError("the bank\nis shut"), 0),
        (ConnectionError("the bank\nis shut"), 0),
        (ConnectionError("the bank\nis shut"), 1),
        (None, 0),
    ]:
        facts["run"] = says
        row = await ledger.waits.get(wait.id)
        assert row is not None
        await poll(ledger, row)
        found = await audit(ledger)
        assert len(found) == problems, (says, found)
        if found:
            assert found[0].run_id == "run"
            assert found[0].problem == (
                "waits for paid for run, whose source failed at its last 3 polls: ConnectionError: the bank is shut"
            )


async def test_a_poll_that_began_before_the_code_asks_in_another_way_changes_nothing_of_that(ledger: Ledger) -> None:
    before = await opened(ledger)
    anew = paid("run", poll=settled_slowly).row("paid")
    attempt = (await acts.claim(ledger)).attempt
    await acts.open_group(ledger, [anew], attempt=attempt)
    await ledger.polls.not_yet(before, "ConnectionError: the bank is shut")
    after = await ledger.waits.get(before.id)
    assert after is not None
    assert (after.poll, after.polls, after.poll_note) == (anew.poll, 0, None)


async def test_of_a_poll_and_a_signal_at_once_one_counts(ledger: Ledger) -> None:
    for number in range(20):
        wait = await opened(ledger, f"run{number}")
        facts[f"run{number}"] = "polled"
        made, delivery = await asyncio.gather(
            poll(ledger, wait), acts.deliver(ledger, f"d{number}", "paid", f"run{number}", '"pushed"')
        )
        assert made is not None
        assert made.won != (delivery.disposition is Disposition.DELIVERED)
        after = await ledger.waits.get(wait.id)
        assert after is not None
        assert after.answer == ('"polled"' if made.won else '"pushed"')


async def test_the_keeper_polls(desk: Desk) -> None:
    facts["00000000-0000-0000-0000-000000000001"] = "yes"
    wait = await opened(desk.ledger, "00000000-0000-0000-0000-000000000001")
    keeper = Keeper(desk.ledger, lambda: PrefectClient(desk.url))

    async def done() -> bool:
        await keeper.tick()
        row = await desk.ledger.waits.get(wait.id)
        return row is not None and row.state == WaitState.SETTLED

    await wait_until(done, 30)
