"""A signal that may start a run: it goes to the living run of its topic and key, or starts one, once."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
from sqlalchemy.exc import IntegrityError

from standby.ledger import Ledger
from standby.ledger.signals import Delivery
from standby.ledger.starts import NewStart, alive, begin
from standby.states import Disposition, Need, RunState, WaitState
from tests.ledger.acts import answer, approval, claim, deliver, open_group, parked, signal, waiting_for_a_lock
from tests.ledger.conftest import Connect, Watch
from tests.support.waiting import wait_until

AGENT = NewStart("shop/live", '{"order": {"n": 1}}', takes_payload=True)
WAITING = NewStart("shop/live", "{}", takes_payload=False)


async def send(ledger: Ledger, delivery_id: str, start: NewStart = AGENT, key: str = "7") -> Delivery:
    return await ledger.signals.deliver(
        source="shop", delivery_id=delivery_id, topic="paid", correlation=key, payload='"x"', start=start
    )


async def dispositions(ledger: Ledger) -> list[str]:
    return [row.disposition for row in await ledger.signals.all()]


async def test_it_settles_the_wait_of_a_run_that_waits(ledger: Ledger) -> None:
    await parked(ledger, [signal()])
    made = await send(ledger, "a")
    assert (made.disposition, made.run_id, made.start) == (Disposition.DELIVERED, "run", None)
    assert await ledger.starts.all() == []


async def test_it_starts_a_run_and_is_its_input(ledger: Ledger) -> None:
    made = await send(ledger, "a")
    [start] = await ledger.starts.all()
    assert (made.disposition, made.run_id, made.start.id) == (Disposition.DELIVERED, None, start.id)
    assert (start.deployment, start.parameters, start.signal_id) == ("shop/live", AGENT.parameters, made.signal_id)


async def test_without_a_parameter_for_it_it_is_kept_for_the_runs_own_wait(ledger: Ledger) -> None:
    made = await send(ledger, "a", WAITING)
    assert made.disposition is Disposition.BUFFERED
    await ledger.starts.started(made.start.id, "run")
    await claim(ledger)
    [wait] = (await open_group(ledger, [signal()])).waits
    assert wait.state == WaitState.SETTLED
    assert await dispositions(ledger) == ["delivered"]


async def test_sent_by_many_at_once_it_starts_one_run(ledger: Ledger, connect: Connect) -> None:
    """Rows 26, 27: however often and however concurrently, over several gateways; the others are kept for that run."""
    gateways = [await connect() for _ in range(3)]
    made = await asyncio.gather(*(send(gateways[n % 3], f"d{n // 2}") for n in range(24)))
    told = Counter(one.disposition for one in made)
    assert told == {Disposition.DELIVERED: 1, Disposition.BUFFERED: 11, Disposition.DUPLICATE: 12}
    assert len(await ledger.starts.all()) == 1


async def test_who_sends_again_is_told_of_the_run_that_was_started(ledger: Ledger) -> None:
    """Row 30: also before Prefect has made it, so that the second one can see to that."""
    first = await send(ledger, "a")
    again = await send(ledger, "a")
    assert (again.disposition, again.start.id, again.run_id) == (Disposition.DUPLICATE, first.start.id, None)
    await ledger.starts.started(first.start.id, "run")
    assert (await send(ledger, "a")).run_id == "run"


async def test_while_the_run_lives_signals_are_kept_for_it(ledger: Ledger) -> None:
    """From its being written down to its end, whether it has come to the ledger or not; then another one starts."""
    first = await send(ledger, "a")
    assert (await send(ledger, "b")).disposition is Disposition.BUFFERED
    await ledger.starts.started(first.start.id, "run")
    kept = await send(ledger, "c")
    assert (kept.disposition, kept.run_id) == (Disposition.BUFFERED, "run")
    await claim(ledger)
    assert (await send(ledger, "d")).disposition is Disposition.BUFFERED
    await ledger.runs.end("run", 1, RunState.COMPLETED, result="null")
    second = await send(ledger, "e")
    assert second.disposition is Disposition.DELIVERED
    assert second.start.id != first.start.id


async def test_a_run_that_nobody_started_so_keeps_its_key_while_it_lives(ledger: Ledger) -> None:
    """It has waited for the topic and key: a signal is for it."""
    await parked(ledger, [signal()])
    await deliver(ledger, "first")
    assert (await send(ledger, "a")).disposition is Disposition.BUFFERED
    await ledger.runs.end("run", 1, RunState.COMPLETED, result="null")
    assert (await send(ledger, "b")).disposition is Disposition.DELIVERED
    [start] = await ledger.starts.all()
    assert start.run_id is None


async def test_a_plain_signal_for_a_run_that_was_started_is_early_and_not_late(ledger: Ledger) -> None:
    """An older run of the key has ended; the one that lives has not opened its wait yet."""
    await parked(ledger, [signal()], run="old")
    await ledger.runs.end("old", 1, RunState.CANCELLED)
    assert (await deliver(ledger, "early")).disposition is Disposition.LATE
    await send(ledger, "a")
    assert (await deliver(ledger, "b")).disposition is Disposition.BUFFERED


async def test_one_that_may_start_a_run_is_never_late_while_one_lives(ledger: Ledger) -> None:
    """The last wait of the run that has the key was closed by another one: it is kept for the next."""
    group = await parked(ledger, [approval("ok"), signal()], need=Need.ANY)
    await answer(ledger, group.waits[0].id)
    attempt = (await claim(ledger)).attempt
    made = await send(ledger, "a")
    assert (made.disposition, made.start) == (Disposition.BUFFERED, None)
    [wait] = (await open_group(ledger, [signal("paid#2")], attempt=attempt)).waits
    assert wait.state == WaitState.SETTLED
    assert await dispositions(ledger) == ["delivered"]


async def test_what_is_late_for_a_run_that_was_started_does_not_answer_its_next_wait(
    ledger: Ledger, watch: Watch
) -> None:
    """Early until it first waits, and late when that wait timed out, as for any other run."""
    made = await send(ledger, "a")
    await ledger.starts.started(made.start.id, "run")
    attempt = (await claim(ledger)).attempt
    assert (await deliver(ledger, "early")).disposition is Disposition.BUFFERED
    for key in ("paid", "paid#2"):
        watch.forward(timedelta(seconds=1))
        [wait] = (await open_group(ledger, [signal(key, deadline=watch.now)], attempt=attempt)).waits
    await ledger.waits.expire(wait)
    late = await deliver(ledger, "late")
    assert late.disposition is Disposition.LATE
    [wait] = (await open_group(ledger, [signal("paid#3")], attempt=attempt)).waits
    assert wait.state == WaitState.OPEN


@pytest.mark.parametrize(("start", "became"), [(AGENT, Disposition.REJECTED), (WAITING, Disposition.UNMATCHED)])
async def test_the_signals_of_a_start_that_cannot_be_are_dead_letters_and_its_key_is_free(
    ledger: Ledger, start: NewStart, became: Disposition
) -> None:
    """Sent again, the first starts a run as it was to; what was kept before it has nothing to do with it."""
    before = await deliver(ledger, "before")
    made = await send(ledger, "a", start)
    kept = await send(ledger, "b", start)
    await ledger.signals.not_started(made.start, "no such luck")
    rows = {row.id: row for row in await ledger.signals.all()}
    assert [rows[one.signal_id].disposition for one in (before, made, kept)] == [
        Disposition.BUFFERED, became, Disposition.UNMATCHED
    ]  # fmt: skip
    assert "no such luck" in rows[made.signal_id].note
    again = await send(ledger, "a", start)
    assert (again.disposition, again.first, bool(again.problems)) == (
        Disposition.DUPLICATE, became, became is Disposition.REJECTED
    )  # fmt: skip
    redriven = await ledger.signals.redrive(made.signal_id)
    assert redriven is not None
    assert (redriven.disposition, redriven.start.parameters) == (made.disposition, start.parameters)
    [first, second] = await ledger.starts.all()
    assert (first.ended_as, first.note, second.over_at) == (RunState.FAILED, "no such luck", None)
    assert (await send(ledger, "a", start)).start.id == second.id


async def test_a_start_that_has_a_run_by_now_is_not_given_up(ledger: Ledger) -> None:
    made = await send(ledger, "a")
    await ledger.starts.started(made.start.id, "run")
    await ledger.signals.not_started(made.start, "too slow")
    assert [start.over_at for start in await ledger.starts.all()] == [None]
    assert await dispositions(ledger) == ["delivered"]


async def test_other_keys_start_their_own(ledger: Ledger) -> None:
    for key in ("7", "8"):
        assert (await send(ledger, key, key=key)).start is not None


async def test_the_database_itself_refuses_a_second_one_alive(ledger: Ledger) -> None:
    async with ledger.database.transaction() as connection:
        await begin(connection, "one", "paid", "7", AGENT)
        with pytest.raises(IntegrityError):
            await begin(connection, "two", "paid", "7", AGENT)


async def test_starts_whose_run_has_ended_are_closed(ledger: Ledger) -> None:
    made = await send(ledger, "a")
    await ledger.starts.started(made.start.id, "run")
    assert [start.id for start in await ledger.starts.not_arrived()] == [made.start.id]
    await parked(ledger, [approval()])
    assert await ledger.starts.not_arrived() == []
    await ledger.starts.close_ended()
    assert (await ledger.starts.all())[0].over_at is None
    [wait] = await ledger.waits.open_ones()
    await answer(ledger, wait.id)
    await ledger.runs.end("run", 1, RunState.FAILED, error="x")
    await ledger.starts.close_ended()
    assert (await ledger.starts.all())[0].over_at is not None


async def test_a_run_that_is_retried_has_its_key_again(ledger: Ledger) -> None:
    """Until its next end, however often it ends; whether the keeper has closed its start or not."""
    first = await send(ledger, "a")
    await ledger.starts.started(first.start.id, "run")
    for attempt in (1, 2):
        assert (await claim(ledger)).attempt == attempt
        kept = await send(ledger, f"while attempt {attempt} lives")
        assert (kept.disposition, kept.run_id, kept.start) == (Disposition.BUFFERED, "run", None)
        await ledger.runs.end("run", attempt, RunState.FAILED, error="x")
        if attempt == 1:
            await ledger.starts.close_ended()
    assert (await send(ledger, "when it has ended")).start is not None


@pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)
async def test_closing_starts_holds_none_while_it_waits_for_another(ledger: Ledger, connect: Connect) -> None:
    """Who takes signals in together closes some in any order, too: the two would wait for each other."""
    for key in ("7", "8"):
        made = await send(ledger, key, key=key)
        await ledger.starts.started(made.start.id, f"run {key}")
        await claim(ledger, f"run {key}")
        await ledger.runs.end_from_outside(f"run {key}", RunState.CANCELLED)
    other = await connect()
    async with other.database.transaction() as connection:
        assert await alive(connection, "paid", "8") is None
        closing = asyncio.create_task(ledger.starts.close_ended())
        await wait_until(lambda: waiting_for_a_lock(other))
        assert await alive(connection, "paid", "7") is None
    await closing
    assert None not in [start.over_at for start in await ledger.starts.all()]
