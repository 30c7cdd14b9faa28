"""Signals that come at the same time share a transaction, and none of them feels it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import text

from standby.errors import LedgerUnavailable
from standby.ledger import Ledger, database
from standby.ledger.batches import MOST, Batches
from standby.ledger.delivering import lock_topics
from standby.ledger.signals import Delivery, Misfit
from standby.states import Disposition, Hold, Need, RunState, WaitState
from tests.ledger.acts import deliver, parked, signal, waiting_for_a_lock
from tests.ledger.conftest import Connect
from tests.support.waiting import wait_until


class Work:
    """Does batches when it is let, and notes them."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.batches: list[list[str]] = []

    async def __call__(self, batch: Sequence[str]) -> list[str]:
        self.batches.append(list(batch))
        await self.go.wait()
        if "bad" in batch:
            raise ValueError("bad")
        return [piece.upper() for piece in batch]


async def test_what_comes_while_a_batch_is_done_makes_up_the_next() -> None:
    """The first begins at once and alone; no batch is larger than it may be."""
    work = Work()
    batches: Batches[str, str] = Batches(work)
    asked = [asyncio.create_task(batches.do(str(number))) for number in range(MOST + 2)]
    await wait_until(lambda: work.batches)
    late = asyncio.create_task(batches.do("late"))
    work.go.set()
    assert await asyncio.gather(*asked, late) == [*map(str, range(MOST + 2)), "LATE"]
    assert [len(batch) for batch in work.batches] == [MOST, 3]


async def test_pieces_of_one_name_are_done_one_after_another() -> None:
    work = Work()
    work.go.set()
    batches: Batches[str, str] = Batches(work, name=lambda piece: piece[0])
    await asyncio.gather(*map(batches.do, ["a1", "a2", "b1", "a3", "b2"]))
    assert work.batches == [["a1", "b1"], ["a2", "b2"], ["a3"]]


async def test_a_batch_that_fails_fails_those_in_it_and_no_others() -> None:
    """And who does not wait any longer takes nothing with them."""
    work = Work()
    batches: Batches[str, str] = Batches(work, name=lambda piece: piece[0])
    asked = [asyncio.create_task(batches.do(piece)) for piece in ("bad", "gone", "b2")]
    await wait_until(lambda: work.batches)
    asked[1].cancel()
    work.go.set()
    bad, gone, other = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(bad, ValueError)
    assert isinstance(gone, asyncio.CancelledError)
    assert other == "B2"


def picky(wait: Any, payload: str) -> list[tuple[str, str]]:
    if payload == '"explode"':
        raise RuntimeError("nobody thought of this")
    return [("answer", "it is bad")] if payload == '"bad"' else []


async def send(ledger: Ledger, key: str, payload: str = '"good"', misfit: Misfit | None = picky) -> Delivery:
    return await ledger.signals.deliver(
        source="bank", delivery_id=f"{key}/{payload}", topic="paid", correlation=key, payload=payload, misfit=misfit
    )


async def test_each_of_a_batch_becomes_what_it_would_have_become_alone(ledger: Ledger) -> None:
    """Delivered to a run that is suspended, that pauses in its process, or that has not parked yet; rejected; kept;
    late; a duplicate; one of a group."""
    await parked(ledger, [signal()], run="suspended")
    await parked(ledger, [signal(correlation="8")], run="paused", hold=Hold.PAUSE)
    await parked(ledger, [signal(correlation="9")], run="picky")
    await parked(ledger, [signal("a", correlation="10"), signal("b", correlation="11")], run="all", need=Need.ALL)
    await parked(ledger, [signal(correlation="12")], run="ended")
    await ledger.runs.end_from_outside("ended", RunState.CANCELLED)
    await deliver(ledger, "early", correlation="14")
    made = await asyncio.gather(
        send(ledger, "7"), send(ledger, "8"), send(ledger, "9", '"bad"'), send(ledger, "10"), send(ledger, "11"),
        send(ledger, "12"), send(ledger, "13"), deliver(ledger, "early", correlation="14"),
    )  # fmt: skip
    assert [one.disposition for one in made] == [
        "delivered", "delivered", "rejected", "delivered", "delivered", "late", "buffered", "duplicate"
    ]  # fmt: skip
    assert [(one.run_id, one.wake, one.wake_address) for one in made[:2]] == [
        ("suspended", True, None), ("paused", True, "127.0.0.1:9")
    ]  # fmt: skip
    assert sorted(one.wake for one in made[3:5]) == [False, True], "the second of the group wakes its run"
    states = {run.id: run.state for run in await ledger.runs.all(ended=True)}
    assert states == {"suspended": "ready", "paused": "ready", "picky": "parked", "all": "ready", "ended": "cancelled"}
    kept = {row.id: row.disposition for row in await ledger.signals.all()}
    assert [kept[one.signal_id] for one in made[:7]] == [one.disposition for one in made[:7]]
    for run, count in {"suspended": 1, "all": 2, "picky": 0}.items():
        decisions = await ledger.waits.decisions_of(run)
        assert [(one.verdict, one.door, one.actor) for one in decisions] == [("won", "signal", "bank")] * count
    [wait] = await ledger.waits.of_run("suspended")
    assert (wait.state, wait.outcome, wait.answer) == (WaitState.SETTLED, "answered", '"good"')


async def test_a_duplicate_in_a_batch_is_told_what_became_of_the_first(ledger: Ledger) -> None:
    """The same delivery for several keys: whichever of them is written, the others hear that it came late."""
    keys = [str(number) for number in range(20)]
    for key in keys:
        await parked(ledger, [signal(correlation=key)], run=key)
        await ledger.runs.end_from_outside(key, RunState.CANCELLED)
    _, *made = await asyncio.gather(
        deliver(ledger, "before", correlation="before"),
        *(deliver(ledger, "same", correlation=key) for key in keys[:10]),
        deliver(ledger, "a", correlation="a"),
        *(deliver(ledger, "same", correlation=key) for key in keys[10:]),
    )
    became = Counter((one.disposition, one.first) for one in made)
    assert became == {
        (Disposition.LATE, None): 1, (Disposition.DUPLICATE, Disposition.LATE): 19, (Disposition.BUFFERED, None): 1
    }  # fmt: skip


async def test_one_that_breaks_a_batch_breaks_no_other(ledger: Ledger) -> None:
    """The batch is undone, and each is taken in alone."""
    for key in ("7", "8", "9"):
        await parked(ledger, [signal(correlation=key)], run=key)
    made = await asyncio.gather(
        send(ledger, "7"), send(ledger, "8", '"explode"'), send(ledger, "9"), return_exceptions=True
    )
    assert [one.disposition if isinstance(one, Delivery) else str(one) for one in made] == [
        Disposition.DELIVERED, "nobody thought of this", Disposition.DELIVERED
    ]  # fmt: skip
    assert len(await ledger.signals.all()) == 2


async def test_a_ledger_that_is_away_is_told_to_all(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise LedgerUnavailable("the ledger", "it is away")

    monkeypatch.setattr(ledger.database, "transaction", away)
    made = await asyncio.gather(send(ledger, "7"), send(ledger, "8"), return_exceptions=True)
    assert [type(one) for one in made] == [LedgerUnavailable] * 2


@pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)
async def test_a_run_that_is_locked_keeps_only_its_own_signal_waiting(ledger: Ledger, connect: Connect) -> None:
    """The others of the batch are acknowledged; it is taken in when the run is free again."""
    for key in ("7", "8"):
        await parked(ledger, [signal(correlation=key)], run=key)
    other = await connect()
    async with other.database.transaction() as connection:
        await connection.execute(text("SELECT id FROM runs WHERE id = '7' FOR UPDATE"))
        blocked = asyncio.create_task(send(ledger, "7"))
        free = await asyncio.wait_for(send(ledger, "8"), 20)
        assert free.disposition is Disposition.DELIVERED
        assert not blocked.done()
    assert (await blocked).disposition is Disposition.DELIVERED
    assert len(await ledger.signals.all()) == 2


@pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)
async def test_a_key_that_is_locked_keeps_only_its_own_signals_waiting(ledger: Ledger, connect: Connect) -> None:
    """However many there are, also more than there are connections."""
    other = await connect()
    async with other.database.transaction() as connection:
        await lock_topics(connection, other.database, [("paid", "7")])
        blocked = [asyncio.create_task(send(ledger, "7", str(number))) for number in range(20)]
        free = await asyncio.wait_for(asyncio.gather(send(ledger, "8"), send(ledger, "9")), 20)
        assert [one.disposition for one in free] == [Disposition.BUFFERED] * 2
        assert not any(one.done() for one in blocked)
    assert [one.disposition for one in await asyncio.gather(*blocked)] == [Disposition.BUFFERED] * 20
    assert len({signal.delivery_id for signal in await ledger.signals.all()}) == 22


@pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("locked", ["keys", "runs"])
async def test_many_that_are_locked_leave_connections_to_others(ledger: Ledger, connect: Connect, locked: str) -> None:
    """More keys or runs than there are connections: signals for others are taken in, and the ledger answers."""
    keys = [f"locked {number}" for number in range(20)]
    for key in keys if locked == "runs" else ():
        await parked(ledger, [signal(correlation=key)], run=key)
    other = await connect()
    async with other.database.transaction() as connection:
        if locked == "runs":
            await connection.execute(text("SELECT id FROM runs FOR UPDATE"))
        else:
            await lock_topics(connection, other.database, [("paid", key) for key in keys])
        blocked = [asyncio.create_task(send(ledger, key)) for key in keys]
        await wait_until(lambda: waiting_for_a_lock(other))
        free = await asyncio.wait_for(asyncio.gather(send(ledger, "8"), send(ledger, "9")), 10)
        await asyncio.wait_for(ledger.answers(), 10)
        assert [one.disposition for one in free] == [Disposition.BUFFERED] * 2
        assert not any(one.done() for one in blocked)
    became = Disposition.DELIVERED if locked == "runs" else Disposition.BUFFERED
    assert [one.disposition for one in await asyncio.gather(*blocked)] == [became] * 20


@pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("again", ["7", "another"])
async def test_a_delivery_under_way_keeps_only_itself_waiting(ledger: Ledger, connect: Connect, again: str) -> None:
    """Sent again for its own key, or for another one, while the first of it waits for its run."""
    await parked(ledger, [signal()], run="7")
    other = await connect()
    async with other.database.transaction() as connection:
        await connection.execute(text("SELECT id FROM runs WHERE id = '7' FOR UPDATE"))
        first = asyncio.create_task(deliver(ledger, "d"))
        await wait_until(lambda: waiting_for_a_lock(other))
        second = asyncio.create_task(deliver(ledger, "d", correlation=again))
        free = await asyncio.wait_for(asyncio.gather(send(ledger, "8"), send(ledger, "9")), 20)
        assert [one.disposition for one in free] == [Disposition.BUFFERED] * 2
        assert not first.done()
        assert not second.done()
    assert ((await first).disposition, (await second).disposition) == (Disposition.DELIVERED, Disposition.DUPLICATE)


@pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)
async def test_many_deliveries_under_way_keep_no_others_waiting(ledger: Ledger, connect: Connect) -> None:
    """More than are taken in alone at a time, each written by a transaction that does not end, and in one batch with
    what is free."""
    keys = [f"under way {number}" for number in range(20)]
    other = await connect()
    async with other.database.transaction() as connection:
        columns = "(id, source, delivery_id, topic, correlation, payload, disposition, received_at)"
        for key in keys:
            row = {"id": key, "delivery": f'{key}/"good"'}
            values = "VALUES (:id, 'bank', :delivery, 'paid', 'another', '1', 'late', 1)"
            await connection.execute(text(f"INSERT INTO signals {columns} {values}"), row)
        blocked = [asyncio.create_task(send(ledger, key)) for key in keys]
        free = [asyncio.create_task(send(ledger, f"free {number}")) for number in range(10)]
        await asyncio.wait_for(asyncio.gather(*free), 20)
        await asyncio.wait_for(ledger.answers(), 10)
        assert not any(one.done() for one in blocked)
    assert [one.disposition for one in await asyncio.gather(*blocked)] == [Disposition.DUPLICATE] * 20


@pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)
async def test_a_process_that_is_frozen_in_a_transaction_loses_its_locks(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = await connect()
    monkeypatch.setattr(database, "IDLE_SECONDS", 0.1)
    frozen = await connect()

    async def freeze() -> None:
        async with frozen.database.transaction() as connection:
            await lock_topics(connection, frozen.database, [("paid", "7")])
            assert (await asyncio.wait_for(send(ledger, "7"), 20)).disposition is Disposition.BUFFERED
            await connection.execute(text("SELECT 1"))

    with pytest.raises(LedgerUnavailable):
        await freeze()
