"""A process dies at every point there is, and the run ends as if nothing had happened."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from standby.states import RunState
from standby.testing.crash import POINTS
from tests.support.stage import Run, Stage
from tests.support.waiting import together

ANSWER, SETTLEMENT = {"approved": True, "comment": "go"}, {"bank": "Nord"}

REPEATABLE = {"look_up", "book"}


# Some thirty processes one after another: on two busy cores that takes longer than other tests may.
@pytest.mark.timeout(600)
async def test_a_run_killed_at_every_point_ends_as_an_undisturbed_one(stage: Stage) -> None:
    """Rows 1 to 5, 9, 11, 23; all guarantees: each leg of a run is killed at each occurrence of each point.

    A run has three legs: to its approval, to its signal, to its end. The undisturbed run tells what points each leg
    comes by; then there are as many runs as the longest leg has points, and each is killed once in each of its legs.
    """
    undisturbed = await stage.start("paying.py:paying", number="undisturbed")
    legs = [occurrences((await undisturbed.attempt(traced=True)).points)]
    assert (await undisturbed.answer(ANSWER)).won
    legs.append(occurrences((await undisturbed.attempt(traced=True)).points))
    await stage.signal("payment.settled", SETTLEMENT, key="undisturbed")
    legs.append(occurrences((await undisturbed.attempt(traced=True)).points))
    expected = json.dumps(await undisturbed.result())
    assert {point.partition(":")[0] for leg in legs for point in leg} == set(POINTS), "a point that nothing comes by"

    async def killed(number: int) -> None:
        run = await stage.start("paying.py:paying", number=f"run {number}")
        points = [leg[number] if number < len(leg) else None for leg in legs]
        await leg_to(run, points[0], RunState.PARKED)
        assert (await run.answer(ANSWER)).won
        await leg_to(run, points[1], RunState.PARKED)
        await stage.signal("payment.settled", SETTLEMENT, key=f"run {number}")
        await leg_to(run, points[2], RunState.COMPLETED)
        assert await run.result() == json.loads(expected.replace("undisturbed", f"run {number}")), points
        assert [wait.key for wait in await run.waits()] == ["approval", "payment.settled"], points
        assert_deeds(run, points)

    async with stage.keeping():
        await together(*(killed(number) for number in range(max(map(len, legs)))))


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
async def test_an_interpreter_of_its_own_dies_and_goes_on_the_same(stage: Stage) -> None:
    """What a worker starts is ``python -m prefect.engine``; the other tests fork it to save its imports."""
    run = await stage.start("charging.py:charging", amount=3)
    await run.dies_at("step.before", plain=True)
    await run.recover()
    await run.attempt(plain=True)
    assert await run.result() == 3
    assert (await run.row()).attempt == 3, "two that ran, and the keeper's takeover in between"


def occurrences(points: list[str]) -> list[str]:
    """``point:1``, ``point:2`` ... for points in the order in which they were come by."""
    seen: Counter[str] = Counter()
    named = []
    for point in points:
        seen[point] += 1
        named.append(f"{point}:{seen[point]}")
    return named


async def leg_to(run: Run, point: str | None, end: RunState) -> None:
    """One leg, killed at ``point``, recovered, and gone on with."""
    if point is not None:
        await run.dies_at(point)
    assert await run.rests() is end, f"killed at {point}: {await run.shown()}"


def assert_deeds(run: Run, points: list[Any]) -> None:
    """Each effect once; a repeatable one again only where its record was missing."""
    assert len(run.deeds("pay")) == 1, points
    for what in REPEATABLE:
        again = any(point is not None and point.startswith("step.acted") for point in points)
        assert 1 <= len(run.deeds(what)) <= 1 + again, points
        assert len({deed.key for deed in run.deeds(what)}) == 1, points
