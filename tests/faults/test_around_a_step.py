"""Rows 1 to 8 of the failure matrix: a process dies around a step, or the step's checkpoint does not hold."""

from __future__ import annotations

import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import pytest
from sqlalchemy import text

from standby.errors import LedgerUnavailable
from standby.states import RunState
from tests.faults.agents.forms import ODD
from tests.support.databases import on_server
from tests.support.stage import Stage
from tests.support.waiting import together, wait_until

YES = {"approved": True}


# On PostgreSQL, too, in `test_every_point`.
@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
async def test_a_repeatable_step_runs_again_only_if_its_record_is_missing(stage: Stage) -> None:
    """Rows 1, 2, 5; G1: killed before its record, a step runs again with the same key; after it, never."""

    async def killed_at(point: str, runs: int) -> None:
        run = await stage.start("paying.py:paying", number=point)
        await run.dies_at(point)
        assert await run.rests() is RunState.PARKED
        deeds = run.deeds("look_up")
        assert [deed.key for deed in deeds] == [f"{run.id}/look_up"] * runs, point
        assert len({deed.pid for deed in deeds}) == runs, "each try was a process of its own"

    await together(
        killed_at("step.before", runs=1),
        killed_at("step.acting", runs=1),
        killed_at("step.acted", runs=2),
        killed_at("step.recorded", runs=1),
        killed_at("step.after", runs=1),
    )


# On PostgreSQL, too, in `test_every_point`.
@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
async def test_a_once_step_acts_once_and_the_probe_tells_whether_it_did(stage: Stage) -> None:
    """Rows 3, 4, 5; G2: killed with its intent recorded, the probe is asked; once recorded, not even the probe."""

    async def killed_at(point: str, asked: int) -> None:
        run = await stage.start("paying.py:paying", number=point)
        await run.rests()
        await run.answer(YES)
        await run.dies_at(point)
        assert await run.rests() is RunState.PARKED
        assert len(run.deeds("pay")) == 1
        assert len(run.deeds("asked")) == asked, point
        await stage.signal("payment.settled", {"bank": "Nord"}, key=point)
        assert await run.rests() is RunState.COMPLETED
        result = await run.result()
        assert result["payment"] == {"order": point, "amount": 12_050}
        assert result["entry"] == f"{point} through Nord"

    await together(
        killed_at("step.before", asked=0),
        killed_at("step.intended", asked=1),
        killed_at("step.acting", asked=1),
        killed_at("step.acted", asked=1),
        killed_at("step.recorded", asked=0),
    )


async def test_without_a_probe_a_person_is_asked_about_every_try(stage: Stage) -> None:
    """Rows 3, 4; G2: their no is about the try that died before it acted, and says nothing about the next one."""
    run = await stage.start("charging.py:charging", amount=5)
    await run.dies_at("step.acting")
    assert await run.rests() is RunState.PARKED
    assert run.deeds("charge") == []
    assert (await run.open_wait()).reason == "Did step 'charge' happen?"
    await run.answer({"happened": False})
    await run.dies_at("step.acted")
    assert await run.rests() is RunState.PARKED
    assert len(run.deeds("charge")) == 1
    await run.answer({"happened": True, "result": '"not a number"'})
    assert await run.rests() is RunState.PARKED, "an answer that is no result of the step leaves the question open"
    assert "result" in (await run.open_wait()).refused
    await run.answer({"happened": True, "result": "5"})
    assert await run.rests() is RunState.COMPLETED
    assert await run.result() == 5
    assert len(run.deeds("charge")) == 1


async def test_a_persons_no_holds_when_the_process_dies_right_after_it(stage: Stage) -> None:
    """Rows 3, 23; G2: killed between the no and the next try, nobody is asked again, and the step acts."""
    run = await stage.start("charging.py:charging", amount=5)
    await run.dies_at("step.intended")
    await run.rests()
    await run.answer({"happened": False})
    await run.dies_at("step.before")
    assert await run.rests() is RunState.COMPLETED
    assert await run.result() == 5
    assert len(run.deeds("charge")) == 1
    assert len(await run.waits()) == 1


async def test_a_step_whose_checkpoint_cannot_be_written_fails(stage: Stage, request: pytest.FixtureRequest) -> None:
    """Row 6; G1, G2: the ledger is gone when the step is done. The attempt stops and says so; another completes it."""
    working = await stage.start("gates.py:working", gated="gate")
    sending = await stage.start("gates.py:sending", gated="gate")
    attempts = [working.begin(), sending.begin()]
    await wait_until(lambda: len(stage.deeds("gate")) == 2, shows=working.shown)
    async with ledger_gone(stage, [attempt.pid for attempt in attempts], request):
        stage.open_gate("gate")
        await together(*(attempt.ended() for attempt in attempts))
        for run, attempt in zip((working, sending), attempts, strict=True):
            assert not (await run.prefect()).is_final(), attempt.output
            assert "its checkpoint could not be written" in attempt.output
    assert stage.deeds("report") == []
    for run in (working, sending):
        assert await run.recorded() == []
    assert await together(working.rests(), sending.rests()) == [RunState.COMPLETED] * 2
    assert await working.result() == "worked, reported"
    assert await sending.result() == "sent, reported"
    assert len(working.deeds("work")) == 2
    assert len(sending.deeds("send")) == 1


@asynccontextmanager
async def ledger_gone(stage: Stage, pids: list[int], request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Processes cannot write their ledger: their disk is full (SQLite), or the database is shut (PostgreSQL)."""
    if stage.ledger.database.sqlite:
        # The log of changes begins anew and may not grow to the size of one page.
        await stage.ledger.database.write(text("PRAGMA wal_checkpoint(TRUNCATE)"))
        for pid in pids:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        yield
        return
    server, name = request.getfixturevalue("_postgres"), stage.ledger_url.rpartition("/")[2]
    away = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    await on_server(server, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false", away)
    yield
    await on_server(server, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

    async def answers() -> bool:
        try:
            return bool(await stage.ledger.runs.all(ended=True))
        except LedgerUnavailable:
            return False

    await wait_until(answers)


async def test_a_damaged_checkpoint_is_a_named_error(stage: Stage) -> None:
    """Row 7; G1: what was recorded has changed. The run stops; the step is not silently run again."""

    async def damaged(value: str | None, says: str) -> None:
        run = await stage.start("paying.py:paying", number="A")
        await run.rests()
        await stage.ledger.database.write(
            text("UPDATE checkpoints SET value = :value WHERE run_id = :run AND key = 'look_up'"),
            {"run": run.id, "value": value},
        )
        await run.answer(YES)
        assert await run.rests() is RunState.FAILED
        error = await run.error()
        assert error.startswith("CheckpointDamaged: The checkpoint 'look_up'")
        assert says in error
        assert len(run.deeds("look_up")) == 1
        assert run.deeds("pay") == []

    await together(
        damaged('{"number":"A","amount":99999}', "does not match its digest"),
        damaged('{"number"', "does not match its digest"),
        damaged(None, "holds no value"),
    )


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
async def test_a_large_value_that_was_lost_is_a_named_error(stage: Stage) -> None:
    """Row 7: a value kept beside the ledger is not there any more."""
    run = await stage.start("odd_values.py:storing", size=512 * 1024)
    await run.rests()
    [value] = spilled(stage)
    value.unlink()
    await run.answer(YES)
    assert await run.rests() is RunState.FAILED
    assert "CheckpointDamaged: The checkpoint 'large'" in await run.error()
    assert len(run.deeds("large")) == 1


def spilled(stage: Stage) -> list[Path]:
    """The large values that are kept beside the ledger; PostgreSQL keeps them itself."""
    return [path for path in stage.folder.rglob("spill/*") if path.is_file()]


async def test_large_and_odd_values_are_stored_exactly(stage: Stage) -> None:
    """Row 8: what the step returned, what the first attempt saw and what the replay reads are the same."""
    size = 1024 * 1024
    run = await stage.start("odd_values.py:storing", size=size)
    await run.rests()
    assert len(spilled(stage)) == stage.ledger.database.sqlite
    await run.answer(YES)
    assert await run.rests() is RunState.COMPLETED
    whole = "".join(sha256(bytes(str(block), "ascii")).hexdigest() for block in range(size // 64))
    assert await run.result() == [sha256(whole.encode()).hexdigest(), ODD.model_dump(mode="json")]


async def test_a_value_that_cannot_be_stored_is_a_named_error(stage: Stage) -> None:
    """Row 8: NaN, half a surrogate pair, an object: refused when the step returns them, and nothing comes after."""

    async def refused(kind: str) -> None:
        run = await stage.start("odd_values.py:unstorable", kind=kind)
        assert await run.rests() is RunState.FAILED
        assert await run.recorded() == []
        assert (await run.error()).startswith("NotStorable: The value of step 'whatever' cannot be stored as JSON")

    await together(refused("an object"), refused("not a number"), refused("half a character"))
    assert stage.deeds("gone on") == []
