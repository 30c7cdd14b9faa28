"""Purses in the ledger: written by the attempt that has the run, all below one on one look."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from standby.ledger import Ledger
from standby.ledger.purses import NoPurse, PurseRow
from tests.agents.test_families import NOON
from tests.ledger.acts import claim, take_over

TOP = PurseRow("top", "run", None, "{}", "0", "0", NOON)


def nothing(_: Sequence[PurseRow]) -> tuple[None, str]:
    return None, "0"


async def test_an_attempt_that_lost_its_run_writes_nothing(ledger: Ledger) -> None:
    await claim(ledger)
    assert await ledger.purses.draw(1, TOP, nothing) == (None,)
    await take_over(ledger)
    assert await ledger.purses.draw(1, replace(TOP, spent="7"), nothing) is None
    assert await ledger.purses.of_run("run") == [TOP]


async def test_a_purse_is_paid_from_one_that_is_there(ledger: Ledger) -> None:
    await claim(ledger)
    with pytest.raises(NoPurse):
        await ledger.purses.draw(1, replace(TOP, parent="nobody's"), nothing)
    assert await ledger.purses.of_run("run") == []


async def test_many_at_once_each_see_what_the_others_have_set_aside(ledger: Ledger) -> None:
    """Of twenty that want one of seven, seven get it; at any depth."""
    await claim(ledger)
    await ledger.purses.draw(1, TOP, nothing)
    rows = []
    for number in range(20):
        await claim(ledger, f"run-{number}")
        parent = "top" if number % 2 == 0 else f"purse-{number - 1}"
        rows.append(replace(TOP, id=f"purse-{number}", run_id=f"run-{number}", parent=parent))
        await ledger.purses.draw(1, rows[-1], nothing)

    def one_of_seven(family: Sequence[PurseRow]) -> tuple[bool, str]:
        there = sum(int(row.under_way) for row in family) < 7
        return there, str(int(there))

    got = await asyncio.gather(*(ledger.purses.draw(1, row, one_of_seven) for row in rows))
    assert got.count((True,)) == 7
    assert got.count((False,)) == 13
