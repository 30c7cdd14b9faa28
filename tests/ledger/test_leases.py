"""Leases: a duty that one process at a time has."""

import asyncio
from datetime import timedelta

from standby.ledger import Ledger

from .conftest import Connect, Watch

MINUTE = timedelta(minutes=1)


async def test_a_duty_is_taken_kept_and_refused_to_others(ledger: Ledger, watch: Watch) -> None:
    assert await ledger.leases.take("keeper", "one", MINUTE)
    assert not await ledger.leases.take("keeper", "two", MINUTE)
    watch.forward(MINUTE / 2)
    assert await ledger.leases.take("keeper", "one", MINUTE), "kept, from now"
    watch.forward(MINUTE - timedelta(microseconds=1))
    assert not await ledger.leases.take("keeper", "two", MINUTE)


async def test_a_duty_that_was_not_kept_passes_on(ledger: Ledger, watch: Watch) -> None:
    await ledger.leases.take("keeper", "one", MINUTE)
    watch.forward(MINUTE)
    assert await ledger.leases.take("keeper", "two", MINUTE)
    assert not await ledger.leases.take("keeper", "one", MINUTE)


async def test_a_duty_is_given_up_by_who_has_it(ledger: Ledger) -> None:
    await ledger.leases.take("keeper", "one", MINUTE)
    await ledger.leases.give_up("keeper", "two")
    assert not await ledger.leases.take("keeper", "two", MINUTE)
    await ledger.leases.give_up("keeper", "one")
    assert await ledger.leases.take("keeper", "two", MINUTE)


async def test_of_many_that_reach_for_a_duty_one_gets_it(connect: Connect) -> None:
    ledgers = [await connect() for _ in range(6)]
    for number in range(10):
        taken = await asyncio.gather(
            *(ledger.leases.take(f"duty {number}", str(n), MINUTE) for n, ledger in enumerate(ledgers))
        )
        assert taken.count(True) == 1
