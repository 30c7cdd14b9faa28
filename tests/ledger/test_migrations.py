"""From an empty database to the tables of today, whoever comes first."""

import asyncio
import fcntl
import json
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from standby.errors import LedgerUnavailable
from standby.ledger import Ledger, migrations
from standby.ledger.database import Database
from standby.ledger.tables import metadata
from standby.states import Door, RunState
from tests.ledger.acts import approval, parked
from tests.support.forks import ROOT, Fork, Forks
from tests.support.waiting import wait_until


async def test_eight_processes_that_start_at_once_make_the_tables_once(
    empty_url: str, forks: Forks, tmp_path: Path
) -> None:
    logs = [tmp_path / f"{number}.log" for number in range(8)]
    processes = [Fork() for _ in logs]
    gate = tmp_path / "gate"
    with gate.open("w") as shut:
        fcntl.flock(shut, fcntl.LOCK_EX)
        for process, log in zip(processes, logs, strict=True):
            forks.start(process, ["tests.ledger.connects", empty_url, log.stem, str(gate)], env={}, cwd=ROOT, log=log)
        await wait_until(lambda: [log.exists() and log.read_text() for log in logs] == ["here\n"] * 8)
    assert [await asyncio.to_thread(process.wait, 60) for process in processes] == [0] * 8
    assert [log.read_text() for log in logs] == ["here\n"] * 8
    ledger = await Ledger.connect(empty_url)
    try:
        async with ledger.database.transaction() as connection:
            versions = (await connection.execute(text("SELECT version FROM ledger_version"))).scalars().all()
            tables = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
        assert versions == list(range(1, len(migrations.MIGRATIONS) + 1))
        assert set(tables) == {*metadata.tables, "ledger_version"}
    finally:
        await ledger.close()


async def test_only_the_steps_a_ledger_lacks_are_taken(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await (await Ledger.connect(empty_url)).close()
    taken: list[int] = []

    async def newer(connection: object) -> None:
        taken.append(len(migrations.MIGRATIONS))

    monkeypatch.setattr(migrations, "MIGRATIONS", [*migrations.MIGRATIONS, newer])
    for _ in range(2):
        await (await Ledger.connect(empty_url)).close()
    assert taken == [len(migrations.MIGRATIONS)]


async def test_a_step_that_fails_is_undone_and_taken_again(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await (await Ledger.connect(empty_url)).close()
    broken = True

    async def newer(connection) -> None:  # type: ignore[no-untyped-def]
        await connection.execute(text("CREATE TABLE later (id INTEGER)"))
        if broken:
            raise RuntimeError("power cut")

    monkeypatch.setattr(migrations, "MIGRATIONS", [*migrations.MIGRATIONS, newer])
    with pytest.raises(RuntimeError, match="power cut"):
        await Ledger.connect(empty_url)
    broken = False
    await (await Ledger.connect(empty_url)).close()


async def test_a_newer_ledger_is_refused_with_what_to_do(empty_url: str) -> None:
    await (await Ledger.connect(empty_url)).close()
    database = Database(empty_url)
    async with database.transaction() as connection:
        await connection.execute(text("INSERT INTO ledger_version VALUES (99)"))
    shown = database.shown
    await database.close()
    with pytest.raises(LedgerUnavailable) as refused:
        await Ledger.connect(empty_url)
    assert str(refused.value).startswith(
        f"The ledger at {shown} cannot be used: it has version 99, this Standby knows up to "
        f"{len(migrations.MIGRATIONS)}; upgrade it. "
    )


async def test_tables_of_a_users_own_models_are_not_the_ledgers(empty_url: str) -> None:
    from sqlmodel import SQLModel

    assert not set(metadata.tables) & set(SQLModel.metadata.tables)


async def test_a_ledger_from_before_links_gets_what_they_need(empty_url: str) -> None:
    before = await Ledger.connect(empty_url)
    [wait] = (await parked(before, [approval()])).waits
    async with before.database.transaction() as connection:
        for statement in ("DROP TABLE secrets", "ALTER TABLE notices DROP COLUMN personal",
                          "DELETE FROM ledger_version WHERE version > 3"):  # fmt: skip
            await connection.execute(text(statement))
    await before.close()
    after = await Ledger.connect(empty_url)
    try:
        assert len(await after.secrets.get("links")) == 32
        assert [notice.personal for notice in await after.notices.of_wait(wait.id)] == [False]
    finally:
        await after.close()


async def test_a_ledger_from_before_it_knew_channels_has_notices_sent_to_all(empty_url: str) -> None:
    before = await Ledger.connect(empty_url)
    [wait] = (await parked(before, [approval()])).waits
    async with before.database.transaction() as connection:
        for statement in ("ALTER TABLE notices DROP COLUMN sent_to", "DELETE FROM ledger_version WHERE version > 6"):
            await connection.execute(text(statement))
    await before.close()
    after = await Ledger.connect(empty_url)
    try:
        [notice] = await after.notices.due()
        assert notice.sent_to is None
        await after.notices.sent_to(notice.id, ["pigeon/finance"])
        [notice] = await after.notices.of_wait(wait.id)
        assert json.loads(notice.sent_to) == ["pigeon/finance"]
    finally:
        await after.close()


async def test_a_ledger_that_counted_other_steps_gets_what_links_need(empty_url: str) -> None:
    """And the index that finds starts that live again."""
    before = await Ledger.connect(empty_url)
    async with before.database.transaction() as connection:
        for statement in ("DROP TABLE secrets", "ALTER TABLE notices DROP COLUMN personal",
                          "DROP INDEX starts_by_topic", "DELETE FROM ledger_version WHERE version > 5"):  # fmt: skip
            await connection.execute(text(statement))
    await before.close()
    after = await Ledger.connect(empty_url)
    try:
        assert len(await after.secrets.get("links")) == 32
        async with after.database.reading() as connection:
            indexes = await connection.run_sync(lambda sync: inspect(sync).get_indexes("starts"))
        assert "starts_by_topic" in {index["name"] for index in indexes}
    finally:
        await after.close()


async def test_a_ledger_from_before_tasks_gets_what_they_need(ledger_url: str) -> None:
    before = await Ledger.connect(ledger_url)
    async with before.database.transaction() as connection:
        for statement in ("DROP TABLE pushes", "DROP INDEX starts_by_run", "ALTER TABLE starts DROP COLUMN context_id",
                          "ALTER TABLE starts DROP COLUMN ended_as",
                          "DELETE FROM ledger_version WHERE version > 8"):  # fmt: skip
            await connection.execute(text(statement))
    await before.close()
    after = await Ledger.connect(ledger_url)
    try:
        assert await after.pushes.save("task", "push", "key", url="http://agents.example/") is None
        assert [push.config_id for push in await after.pushes.of_task("task")] == ["push"]
        assert await after.tasks.page(1, context_id="c") == []
        async with after.database.reading() as connection:
            indexes = await connection.run_sync(lambda sync: inspect(sync).get_indexes("starts"))
        assert "starts_by_run" in {index["name"] for index in indexes}
    finally:
        await after.close()


async def test_a_ledger_from_before_purses_gets_them(ledger_url: str) -> None:
    before = await Ledger.connect(ledger_url)
    async with before.database.transaction() as connection:
        for statement in ("DROP TABLE purses", "DELETE FROM ledger_version WHERE version > 10"):
            await connection.execute(text(statement))
    await before.close()
    after = await Ledger.connect(ledger_url)
    try:
        assert await after.purses.of_run("run") == []
    finally:
        await after.close()


async def test_a_ledger_from_before_it_knew_how_runs_ended_learns_it(ledger_url: str) -> None:
    before = await Ledger.connect(ledger_url)
    await parked(before, [approval()])
    async with before.database.transaction() as connection:
        for column in ("failed_step", "cancelled_by", "cancelled_door"):
            await connection.execute(text(f"ALTER TABLE runs DROP COLUMN {column}"))
        await connection.execute(text("DELETE FROM ledger_version WHERE version > 13"))
    await before.close()
    after = await Ledger.connect(ledger_url)
    try:
        await after.runs.end_from_outside("run", RunState.CANCELLED, "Cancelled in Prefect", after="state")
        assert not await after.runs.cancelled_by("run", "another", "eve", Door.TERMINAL, "cancelled by eve")
        assert await after.runs.cancelled_by("run", "state", "ada", Door.TERMINAL, "cancelled by ada")
        run = await after.runs.get("run")
        assert run is not None
        assert (run.error, run.cancelled_by, run.cancelled_door) == ("cancelled by ada", "ada", "terminal")
    finally:
        await after.close()


async def test_a_ledger_from_before_it_found_decisions_by_run_gets_the_indexes(ledger_url: str) -> None:
    """And the one of signals that are kept."""
    before = await Ledger.connect(ledger_url)
    async with before.database.transaction() as connection:
        for statement in ("DROP INDEX IF EXISTS decisions_by_run", "DROP INDEX IF EXISTS signals_kept",
                          "DELETE FROM ledger_version WHERE version > 14"):  # fmt: skip
            await connection.execute(text(statement))
    await before.close()
    after = await Ledger.connect(ledger_url)
    try:
        async with after.database.reading() as connection:
            for table, name in (("decisions", "decisions_by_run"), ("signals", "signals_kept")):
                indexes = await connection.run_sync(lambda sync, table=table: inspect(sync).get_indexes(table))
                assert name in {index["name"] for index in indexes}
    finally:
        await after.close()
