"""When the database is away, full or not ours, the error says so; when it is back, the ledger goes on."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from sqlalchemy import event
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_connection

from standby import clock
from standby.branches import Branches
from standby.checkpoints import CheckpointStore
from standby.errors import LedgerUnavailable
from standby.hosting import Woken
from standby.ledger import Ledger, database
from standby.ledger.opening import Group
from standby.parking import lingering
from standby.runs import AgentRun
from standby.states import CheckpointState, Hold, Need
from tests.support.waiting import wait_until

from .acts import LEASE, answer, approval, claim, deliver, open_group, parked, signal
from .conftest import Connect

RUN = "00000000-0000-4000-8000-000000000001"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://root:s3cret@127.0.0.1:1/x", "postgresql://root:***@127.0.0.1:1/x cannot be used: [Errno 111]"),
        ("postgresql://root@127.0.0.1:1/test?password=s3cret", "@127.0.0.1:1/test?password="),
        ("postgresql://root:s3cret@127.0.0.1:port/test", "postgresql://root:***@127.0.0.1:port/test cannot"),
        ("mysql://root:s3cret@host/test", "'mysql' is neither sqlite nor postgresql"),
        ("postgresql//root:s3c@ret@host/test", "postgresql//root:***@host/test cannot be used: Could not parse"),
        ("root:s3cret@host", "root:***@host cannot be used: Could not parse"),
        ("", "Could not parse"),
    ],
)  # fmt: skip
async def test_an_address_that_will_not_do_is_named_without_its_password(url: str, shown: str) -> None:
    with pytest.raises(LedgerUnavailable) as refused:
        await Ledger.connect(url)
    assert shown in str(refused.value)
    assert "s3c" not in str(refused.value)
    assert "Check STANDBY_LEDGER_URL" in str(refused.value)


async def test_a_postgresql_that_does_not_answer_in_time_is_said_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text of a timeout is empty."""

    async def connect(*_: Any, **__: Any) -> None:
        raise TimeoutError

    monkeypatch.setattr(asyncpg, "connect", connect)
    with pytest.raises(LedgerUnavailable, match=r"127\.0\.0\.1:1/x cannot be used: TimeoutError\. Check"):
        await Ledger.connect("postgresql://root@127.0.0.1:1/x")


@pytest.mark.parametrize("role", ["root:s3cret@{host}/no_such_database", "no_such_role:s3cret@{host}/test"])
async def test_a_postgresql_that_does_not_let_us_in_is_named(postgres_url: str, role: str) -> None:
    host = postgres_url.partition("@")[2].partition("/")[0]
    with pytest.raises(LedgerUnavailable, match=r"no_such_\w+.* does not exist") as refused:
        await Ledger.connect("postgresql://" + role.format(host=host))
    assert "s3cret" not in str(refused.value)


async def test_a_file_that_is_no_ledger_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Things to do, and not a database at all. " * 50)
    with pytest.raises(LedgerUnavailable, match=r"notes.txt cannot be used: file is not a database"):
        await Ledger.connect(f"sqlite:///{tmp_path}/notes.txt")
    with pytest.raises(LedgerUnavailable, match=r"File exists"):
        await Ledger.connect(f"sqlite:///{tmp_path}/notes.txt/ledger.db")
    with pytest.raises(LedgerUnavailable, match="unable to open database file"):
        await Ledger.connect(f"sqlite:///{tmp_path}")
    # aiosqlite does not wait for the thread of a connection that failed, which needs this event loop to end.
    await wait_until(lambda: not any("connection_worker" in thread.name for thread in threading.enumerate()))


async def test_a_full_disk_is_named_and_the_ledger_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """Failure 6."""
    ledger = await Ledger.connect(f"sqlite:///{tmp_path}/ledger.db")
    try:
        await claim(ledger)
        writer = ledger.database._writer

        async def limit(pages: int) -> None:
            async with writer.connect() as connection:
                await connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

        await limit(1)  # as many as there are
        large = "x" * 100_000
        with pytest.raises(LedgerUnavailable, match="database or disk is full"):
            await ledger.checkpoints.write("run", 1, "large", 0, CheckpointState.RECORDED, value=large, digest="d")
        with pytest.raises(LedgerUnavailable, match="database or disk is full"):
            await open_group(ledger, [approval(evidence=large)])
        assert await ledger.checkpoints.journal("run") == []
        await limit(1_000_000)
        assert await ledger.checkpoints.write("run", 1, "large", 0, CheckpointState.RECORDED, value=large, digest="d")
        await open_group(ledger, [approval(evidence=large)])
    finally:
        await ledger.close()


async def test_a_ledger_that_nobody_may_write_to_is_named(tmp_path: Path) -> None:
    ledger = await Ledger.connect(f"sqlite:///{tmp_path}/ledger.db")
    try:
        async with ledger.database._writer.connect() as connection:
            await connection.exec_driver_sql("PRAGMA query_only = 1")
        with pytest.raises(LedgerUnavailable, match="readonly database"):
            await claim(ledger)
    finally:
        await ledger.close()


async def test_connections_that_were_cut_while_idle_go_unnoticed(postgres_url: str) -> None:
    """Failure 44: the database was restarted, or a firewall forgot the connection overnight."""
    ledger = await Ledger.connect(postgres_url)
    try:
        await asyncio.gather(*(claim(ledger, f"idle {n}") for n in range(4)))
        await _cut_all(postgres_url)
        assert (await claim(ledger, "after")).attempt == 1
        await asyncio.gather(*(ledger.runs.get("after") for _ in range(4)))
    finally:
        await ledger.close()


async def test_a_read_is_made_once_more_where_its_connection_was_cut_unheard(postgres_url: str) -> None:
    """It is not asked first whether it lives: the process that waits for an answer would wait for that, too."""
    ledger = await Ledger.connect(postgres_url)
    try:
        await asyncio.gather(*(claim(ledger, f"idle {n}") for n in range(4)))
        # The event loop stands still meanwhile, and hears nothing of it.
        cutting = threading.Thread(target=lambda: asyncio.run(_cut_all(postgres_url)))
        cutting.start()
        cutting.join()
        rows = await asyncio.gather(*(ledger.runs.get(f"idle {n}") for n in range(4)))
        assert [row.id for row in rows if row is not None] == [f"idle {n}" for n in range(4)]
    finally:
        await ledger.close()


async def test_a_read_does_not_ask_first_whether_its_connection_lives_unless_that_has_rested_for_long(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "RESTED_SECONDS", -1.0)
    ledger = await Ledger.connect(postgres_url)
    try:
        await claim(ledger, "run")
        asked: list[Any] = []
        ping = AsyncAdapt_asyncpg_connection.ping

        def counted(connection: AsyncAdapt_asyncpg_connection) -> Any:
            asked.append(connection)
            return ping(connection)

        monkeypatch.setattr(AsyncAdapt_asyncpg_connection, "ping", counted)
        await ledger.runs.get("run")
        assert not asked
        await ledger.leases.take("a write", "somebody", LEASE)
        assert len(asked) == 1
        monkeypatch.setattr(database, "RESTED_LONG_SECONDS", -1.0)
        await ledger.runs.get("run")
        assert len(asked) == 2
    finally:
        await ledger.close()


async def test_a_warm_run_that_was_claimed_goes_on_where_the_read_beside_that_failed(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lingering, "LEDGER_AWAY_SECONDS", 0.0)
    await claim(ledger, RUN)
    [wait] = (await open_group(ledger, [approval()], run=RUN)).waits
    await ledger.runs.park(RUN, 1, wait.group_key, Hold.WARM, "127.0.0.1:7#")
    await answer(ledger, wait.id)
    read, failed = ledger.waits.group, []

    async def group(run_id: str, key: str) -> Group:
        if len(failed) < 2:
            failed.append(key)
            raise LedgerUnavailable(ledger.database.shown, "a connection was dropped")
        return await read(run_id, key)

    monkeypatch.setattr(ledger.waits, "group", group)
    run = AgentRun(RUN, 1, Hold.WARM, ledger, CheckpointStore(url="sqlite://"), [], sure_at=clock.elapsed())
    attempt, called, found = await lingering._goes_on(run, None, wait.group_key, Woken.SETTLED)  # type: ignore[arg-type]
    assert (attempt, called, found.ready, len(failed)) == (2, Woken.SETTLED, True, 2)


async def test_a_transaction_that_is_cut_says_so_and_leaves_nothing(postgres_url: str) -> None:
    ledger = await Ledger.connect(postgres_url)
    try:

        async def cut_in_between() -> None:
            async with ledger.database.transaction() as connection:
                await connection.exec_driver_sql("INSERT INTO blobs VALUES ('cut', 'x', 1)")
                await _cut_all(postgres_url)
                await connection.exec_driver_sql("INSERT INTO blobs VALUES ('cut too', 'x', 1)")

        with pytest.raises(LedgerUnavailable, match=r"terminat|connection"):
            await cut_in_between()
        assert await ledger.checkpoints.get_blob("cut") is None
    finally:
        await ledger.close()


async def test_a_server_that_went_dead_does_not_hold_up_the_close(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failure 42: the server has said goodbye, and the network keeps the news of its hanging up to itself."""
    monkeypatch.setattr(database, "CLOSE_SECONDS", 0.1)
    async with _link_to(postgres_url) as link:
        ledger = await Ledger.connect(link.url)
        await asyncio.gather(*(claim(ledger, str(n)) for n in range(4)))
        await _cut_all(postgres_url)
        assert (await claim(ledger, "after")).attempt == 1
        async with asyncio.timeout(5):
            await ledger.close()


async def test_a_server_that_stops_answering_is_unavailable_until_it_answers(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failure 42: the network is cut in the middle of a statement, and nobody hangs up."""
    monkeypatch.setattr(database, "CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(database, "STATEMENT_SECONDS", 2.0)
    async with _link_to(postgres_url) as link:
        ledger = await Ledger.connect(link.url)
        try:
            link.frozen = True
            async with asyncio.timeout(60):
                with pytest.raises(LedgerUnavailable):
                    await claim(ledger)
                with pytest.raises(LedgerUnavailable):
                    await ledger.runs.get("run")
            link.frozen = False
            assert (await claim(ledger)).attempt == 1
        finally:
            await ledger.close()


async def test_a_database_whose_connections_are_all_taken_is_unavailable(ledger: Ledger) -> None:
    """More hands than connections wait for one, and not for ever."""
    engine = ledger.database._writer
    pool: Any = engine.sync_engine.pool
    pool._timeout = 0.05
    async with AsyncExitStack() as stack:
        for _ in range(pool.size() + pool._max_overflow):
            await stack.enter_async_context(engine.connect())
        with pytest.raises(LedgerUnavailable, match="QueuePool limit"):
            await claim(ledger)
    assert (await claim(ledger)).attempt == 1


class _Link:
    """A way to a server that passes on everything but its hanging up; ``frozen`` it passes on nothing."""

    def __init__(self, url: str) -> None:
        self.server = urlsplit(url)
        self.url = ""
        self.frozen = False
        self.tasks: set[asyncio.Task[None]] = set()

    async def join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        answers, questions = await asyncio.open_connection(self.server.hostname, self.server.port)
        try:
            await asyncio.gather(self.pump(reader, questions), self.pump(answers, writer))
        finally:
            for one in (writer, questions):
                one.transport.abort()

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if not self.frozen:
                    writer.write(data)
                    await writer.drain()


@asynccontextmanager
async def _link_to(url: str) -> AsyncIterator[_Link]:
    link = _Link(url)
    listening = await asyncio.start_server(link.join, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    link.url = link.server._replace(netloc=f"{link.server.username}@127.0.0.1:{port}").geturl()
    try:
        yield link
    finally:
        listening.close()
        for task in link.tasks:
            task.cancel()
        await asyncio.gather(*link.tasks, return_exceptions=True)


async def _cut_all(ledger_url: str) -> None:
    server = await asyncpg.connect(ledger_url)
    try:
        await server.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    finally:
        await server.close()


async def test_what_is_cancelled_in_the_middle_is_undone_and_harms_nothing(connect: Connect) -> None:
    """G7: attempts are cancelled at any instant, also inside a transaction of the ledger they share with others."""
    ledger = await connect()
    dice = random.Random(3)
    cancelled = 0
    for number in range(120):
        run = f"run {number}"

        async def work(run: str = run) -> None:
            await claim(ledger, run)
            group = await open_group(ledger, [signal(correlation=run), approval()], run=run, need=Need.ALL, key="both")
            await ledger.checkpoints.write(run, 1, "step", 1, CheckpointState.RECORDED, value="1", digest="d")
            await answer(ledger, group.waits[1].id)
            await deliver(ledger, run, correlation=run)

        task = asyncio.create_task(work())
        for _ in range(dice.randrange(40)):
            await asyncio.sleep(0)
        await asyncio.sleep(dice.random() / 100 if dice.random() < 0.7 else 0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            cancelled += 1
        group = await ledger.waits.group(run, "both")
        assert len(group.waits) in (0, 2), "half a group"
        entry = await ledger.checkpoints.find(run, "both")
        assert (entry is not None) == bool(group.waits)
    assert cancelled > 20, "hardly anything was cancelled"
    [wait] = (await parked(ledger, [approval()], run="after")).waits
    assert (await answer(ledger, wait.id)).won


async def test_a_statement_that_fails_is_its_own_error_and_harms_nothing(ledger: Ledger) -> None:
    """A mistake of ours is not taken for a database that is away."""
    from sqlalchemy.exc import IntegrityError

    from standby.ledger.tables import Run, table_of

    with pytest.raises(IntegrityError):
        async with ledger.database.transaction() as connection:
            await connection.execute(table_of(Run).insert().values(id="run"))
    assert (await claim(ledger)).attempt == 1


async def test_every_connection_of_a_ledger_is_closed_with_it(ledger_url: str) -> None:
    ledger = await Ledger.connect(ledger_url)
    closed: list[int] = []
    opened: list[int] = []
    for engine in {ledger.database._writer.sync_engine, ledger.database._reader.sync_engine}:
        event.listen(engine, "close", lambda connection, record: closed.append(id(connection)))
        event.listen(engine, "checkin", lambda connection, record: opened.append(id(connection)))
    await asyncio.gather(*(claim(ledger, str(n)) for n in range(5)), *(ledger.runs.all(ended=True) for _ in range(5)))
    await ledger.close()
    assert set(closed) >= set(opened)


async def test_what_ends_with_its_attempt_gives_its_connection_back(ledger: Ledger) -> None:
    """At whatever moment it is cut off, also while its connection is being closed."""
    dice = random.Random(7)

    async def writes() -> None:
        while True:
            await ledger.leases.take("cut off", "somebody", LEASE)

    for _ in range(60):
        branches = Branches(lambda _: False)
        with branches.begun_here():
            for _ in range(3):
                asyncio.create_task(writes())  # noqa: RUF006 - they are the attempt's
        for _ in range(dice.randrange(40)):
            await asyncio.sleep(0)
        assert await branches.end(10) == []
        async with asyncio.timeout(10):
            await ledger.leases.take("cut off", "somebody", LEASE)
