"""Asking a database: everything can be read, nothing can be changed, and nothing takes for ever."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psutil
import pytest

from tasks.errors import ToolError, ToolFailed, ToolRefused
from tasks.query_database import query_database
from tests.support.databases import on_server
from tests.support.waiting import wait_until

TABLES = (
    "CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT, price NUMERIC, note TEXT)",
    "INSERT INTO orders VALUES (1, 'desk', 120.5, NULL), (2, 'lamp', 30, 'urgent'), (3, 'chair', 80, '')",
)


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    with closing(sqlite3.connect(tmp_path / "shop.db")) as database, database:
        for statement in TABLES:
            database.execute(statement)
    return f"sqlite:///{tmp_path / 'shop.db'}"


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[str]:
    """As a role that may even write, and create functions."""
    role = f"standby_reader_{uuid4().hex[:8]}"
    await on_server(
        postgres_url,
        *TABLES,
        f"CREATE ROLE {role} LOGIN PASSWORD 'read'",
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}",
        f"GRANT ALL ON SCHEMA public TO {role}",
        "CREATE SEQUENCE numbers",
        f"GRANT ALL ON SEQUENCE numbers TO {role}",
    )
    parts = urlsplit(postgres_url)
    _, _, place = parts.netloc.rpartition("@")
    try:
        yield parts._replace(netloc=f"{role}:read@{place}").geturl()
    finally:
        await on_server(postgres_url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


async def test_the_rows_of_a_query_come_as_plain_values(url: str) -> None:
    found = await query_database("SELECT id, item, price, note FROM orders ORDER BY id -- all of them", url=url)
    assert found.columns == ["id", "item", "price", "note"]
    assert found.rows == [[1, "desk", 120.5, None], [2, "lamp", 30, "urgent"], [3, "chair", 80, ""]]
    assert not found.cut
    counted = await query_database(
        "WITH dear AS (SELECT * FROM orders WHERE price > 50) SELECT count(*) AS n FROM dear", url=url
    )
    assert counted.rows == [[2]]
    assert (await query_database(" SELECT item FROM orders WHERE id = 9 ; \n", url=url)).rows == []


async def test_more_than_the_limit_is_cut_and_says_so(url: str) -> None:
    found = await query_database("SELECT id FROM orders ORDER BY id", url=url, most_rows=2)
    assert (found.rows, found.cut) == ([[1], [2]], True)
    wide = "SELECT replace('0123456789', '0', item) AS t, id FROM orders ORDER BY id"
    found = await query_database(wide, url=url, most_characters=25)
    assert (len(found.rows), found.cut) == (1, True)


WRITES = [
    "DELETE FROM orders", "UPDATE orders SET price = 0", "INSERT INTO orders VALUES (9, 'x', 1, '')",
    "DROP TABLE orders", "CREATE TABLE t (a INTEGER)", "SELECT 1; DELETE FROM orders", "COMMIT; DELETE FROM orders",
    "WITH gone AS (DELETE FROM orders RETURNING id) SELECT * FROM gone", "EXPLAIN DELETE FROM orders", "BEGIN",
    "COMMIT", "SELECT 1) AS a; DELETE FROM orders; SELECT * FROM (SELECT 1", "DELETE FROM orders RETURNING id",
]  # fmt: skip


@pytest.mark.parametrize("sql", WRITES)
async def test_nothing_is_changed_on_sqlite(sqlite: str, sql: str) -> None:
    with pytest.raises(ToolError):
        await query_database(sql, url=sqlite)
    assert (await query_database("SELECT count(*) FROM orders", url=sqlite)).rows == [[3]]


@pytest.mark.parametrize(
    "sql",
    [
        "PRAGMA writable_schema = 1", "ATTACH 'x.db' AS x", "SELECT load_extension('x')", "VACUUM",
        "SELECT fts3_tokenizer('a')", "SELECT * FROM pragma_database_list", "DETACH main", "REINDEX", "ANALYZE",
    ],
)  # fmt: skip
async def test_nothing_but_reading_is_done_on_sqlite(sqlite: str, sql: str) -> None:
    with pytest.raises((ToolRefused, ToolFailed)):
        await query_database(sql, url=sqlite)


async def test_nothing_is_changed_on_postgresql(postgres: str) -> None:
    more = [
        "SELECT set_config('transaction_read_only', 'off', false), (SELECT count(*) FROM orders)",
        "SET TRANSACTION READ WRITE", "SET default_transaction_read_only = off", "SELECT nextval('numbers')",
        "SELECT * FROM orders FOR UPDATE", "COPY orders TO STDOUT", "COPY orders TO PROGRAM 'true'",
        "SELECT pg_read_file('PG_VERSION')", "TRUNCATE orders", "CALL nothing()", "LOCK orders",
        "DO $$ BEGIN END $$",
    ]  # fmt: skip
    for sql in [*WRITES, *more]:
        with pytest.raises(ToolError):
            print(sql, await query_database(sql, url=postgres))
    assert (await query_database("SELECT count(*) FROM orders", url=postgres)).rows == [[3]]
    # What a read-only transaction lets pass, as some versions do, is rolled back with it.
    with suppress(ToolRefused):
        await query_database("SELECT lo_create(4242) AS made", url=postgres)
    assert (await query_database("SELECT count(*) FROM pg_largeobject_metadata", url=postgres)).rows == [[0]]


async def test_a_superuser_is_not_used(postgres_url: str) -> None:
    with pytest.raises(ToolRefused, match="superuser"):
        await query_database("SELECT 1 AS one", url=postgres_url)


async def test_nor_a_role_that_may_become_one(postgres: str, postgres_url: str) -> None:
    superuser, role = urlsplit(postgres_url).username, urlsplit(postgres).username
    await on_server(postgres_url, f"ALTER ROLE {role} NOINHERIT", f'GRANT "{superuser}" TO {role}')
    with pytest.raises(ToolRefused, match="a superuser, or a member of one"):
        await query_database("SELECT 1 AS one", url=postgres)


ENDLESS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    "postgresql": "SELECT count(*) FROM generate_series(1, 1000000000000) AS n",
}


async def test_a_query_that_takes_too_long_is_stopped(url: str) -> None:
    with pytest.raises(ToolFailed, match=r"longer than 0\.2 seconds"):
        await query_database(ENDLESS[urlsplit(url).scheme], url=url, seconds=0.2)


async def test_a_value_that_is_too_large_fails_by_name(sqlite: str, postgres: str) -> None:
    with pytest.raises(ToolFailed, match="too big"):
        await query_database("SELECT zeroblob(1000000000)", url=sqlite)
    with pytest.raises(ToolFailed, match="more than 200000 characters"):
        await query_database("SELECT repeat('x', 10000000) AS x", url=postgres)
    long = await query_database("SELECT hex(zeroblob(4000)) AS x", url=sqlite)
    assert (len(str(long.rows[0][0])), long.cut) == (4000, True)


_LONG = "replace(hex(zeroblob(49900)), '0', char(1))"  # six bytes a character on the way
_MANY = (
    f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 101), w(v) AS MATERIALIZED (SELECT {_LONG})"
)
_NAMED = f'WITH w AS (SELECT 1 AS "{"x" * 15_000}") SELECT * FROM {", ".join(f"w AS w{n}" for n in range(60))}'


async def test_an_answer_that_would_be_huge_is_bounded_where_it_is_made(
    sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.query_database.LONGEST_ANSWER", 1_000_000)
    found = await query_database(f"{_MANY} SELECT v, substr(v, 1, 70000) AS b FROM n, w", url=sqlite)
    assert (len(found.rows), found.cut, {len(str(value)) for row in found.rows for value in row}) == (4, True, {4000})
    found = await query_database("SELECT hex(randomblob(40000)) AS a, hex(zeroblob(40000)) AS b", url=sqlite)
    assert (len(found.rows), found.cut) == (1, True)
    for wide in (f"{_MANY} SELECT {', '.join(f'v AS v{n}' for n in range(200))} FROM n, w", _NAMED):
        with pytest.raises(ToolFailed, match="more than 200000 characters"):
            await query_database(wide, url=sqlite)


async def test_an_answer_that_is_longer_than_can_be_read_fails_by_name(
    sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.query_database.LONGEST_ANSWER", 1000)
    with pytest.raises(ToolFailed, match="more than 1000 bytes"):
        await query_database("SELECT hex(zeroblob(4000)) AS x", url=sqlite)


@pytest.mark.parametrize("value", ["repeat('9', 5000)::numeric", "(repeat('[', 3000) || repeat(']', 3000))::json"])
async def test_a_value_that_cannot_be_read_fails_by_name(postgres: str, value: str) -> None:
    with pytest.raises(ToolFailed, match="a value in it cannot be read"):
        await query_database(f"SELECT {value} AS a", url=postgres)


async def test_half_a_character_can_be_told(postgres: str) -> None:
    found = await query_database(r"""SELECT '"a\ud800"'::json AS a, '{"b": "\ud800"}'::json AS b""", url=postgres)
    assert found.rows == [["a?", '{"b": "\\ud800"}']]
    found.model_dump_json()


_NUMBERS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"


@pytest.mark.parametrize(
    "sql",
    [
        f"{_NUMBERS} SELECT randomblob(90000) AS b FROM c ORDER BY b",
        f"{_NUMBERS} SELECT sum(length(a)) FROM (SELECT json_group_array(x) AS a FROM c GROUP BY x % 100000)",
    ],
)
async def test_a_query_fills_neither_disk_nor_memory(sqlite: str, sql: str) -> None:
    with pytest.raises(ToolFailed, match=r"disk|memory"):
        await query_database(sql, url=sqlite, seconds=30)


async def test_a_pattern_that_would_be_compared_for_minutes_is_refused(sqlite: str) -> None:
    """One comparison is one instruction, which no clock interrupts."""
    for pattern in ("'%' || hex(zeroblob(1000))", "replace(hex(zeroblob(1000)), '0', '%0')"):
        with pytest.raises(ToolFailed, match="pattern too complex"):
            await query_database(f"SELECT hex(zeroblob(40000)) LIKE {pattern} AS found", url=sqlite)
    with pytest.raises(ToolFailed, match="too big"):
        await query_database("SELECT length(hex(zeroblob(60000))) AS n", url=sqlite)
    found = await query_database("SELECT item FROM orders WHERE item LIKE '%am%' AND item GLOB 'l*'", url=sqlite)
    assert found.rows == [["lamp"]]


@pytest.fixture
def asking_processes() -> Callable[[], set[psutil.Process]]:
    """This process's children that were not there before the test."""
    before = set(psutil.Process().children())
    return lambda: set(psutil.Process().children()) - before


async def test_a_query_that_looks_at_no_clock_is_killed(
    sqlite: str, asking_processes: Callable[[], set[psutil.Process]]
) -> None:
    """Not left behind: hundreds of instructions that no loop is between, each of which compares for long."""
    compared = "length(replace(hex(zeroblob(40000)), hex(zeroblob(20000)) || '1', ''))"
    with pytest.raises(ToolFailed, match=r"longer than 0\.1 seconds"):
        await query_database(f"SELECT {' + '.join([compared] * 250)}", url=sqlite, seconds=0.1)
    assert asking_processes() == set()


async def test_a_query_that_nobody_waits_for_any_more_is_killed(
    sqlite: str, asking_processes: Callable[[], set[psutil.Process]]
) -> None:
    asking = asyncio.create_task(query_database(ENDLESS["sqlite"], url=sqlite, seconds=60))
    await wait_until(asking_processes, 10)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert asking_processes() == set()


async def test_what_json_does_not_have_comes_as_text(sqlite: str, postgres: str) -> None:
    found = await query_database("SELECT x'00ff' AS b, 9e999 AS i, 1 AS n", url=sqlite)
    assert found.rows == [["00ff", "inf", 1]]
    found = await query_database("SELECT DATE '2026-02-03' AS d, ARRAY[1, 2] AS a, 'NaN'::float AS f", url=postgres)
    assert found.rows == [["2026-02-03", "[1, 2]", "NaN"]]
    with pytest.raises(ToolRefused, match="two columns are called id"):
        await query_database("SELECT 1 AS id, 2 AS id", url=postgres)


@pytest.mark.parametrize("sql", ["", " ; ", "SELECT '\0'", "SELECT " + "1+" * 20_000 + "1", "-- nothing"], ids=range(5))
async def test_what_is_no_query_is_refused(sqlite: str, sql: str) -> None:
    with pytest.raises(ToolError):
        await query_database(sql, url=sqlite)


async def test_an_address_that_leads_nowhere_is_said_without_its_password(tmp_path: Path) -> None:
    for url in ("mysql://u:hidden@h/d", "postgresql://u:hidden@127.0.0.1:1/d", f"sqlite:///{tmp_path}/none.db"):
        with pytest.raises(ToolFailed) as caught:
            await query_database("SELECT 1", url=url)
        assert "hidden" not in str(caught.value)
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hid/den@h/d", "postgresql://u:hi[dden]@127.0.0.1:1/d", "postgresql://u:hi#dden@h/d",
        "postgresql://u:p@127.0.0.1:hidden/d", "postgresql://u:p@127.0.0.1:99999/d?application_name=hidden",
        "postgresql://u:p@127.0.0.1:1/d?target_session_attrs=hidden", f"postgresql://u:p@{'hidden' * 20}/d",
    ],
    ids=range(7),
)  # fmt: skip
async def test_an_address_that_is_oddly_written_is_not_quoted(url: str) -> None:
    with pytest.raises(ToolFailed) as caught:
        await query_database("SELECT 1 AS one", url=url)
    assert caught.value.reason == "its address cannot be read"
    assert all(part not in str(caught.value) for part in ("hid", "den"))


async def test_a_role_that_is_not_let_in_is_no_fault_of_the_query(postgres_url: str) -> None:
    nobody = urlsplit(postgres_url)._replace(netloc=f"nobody:hidden@{urlsplit(postgres_url).netloc.rpartition('@')[2]}")
    with pytest.raises(ToolFailed, match="the database: it cannot be reached") as caught:
        await query_database("SELECT 1 AS one", url=nobody.geturl())
    assert "hidden" not in str(caught.value)
