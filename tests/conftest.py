"""For all tests: nothing of this machine's own Prefect is touched, nothing is left behind, databases on demand."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import certifi
import pytest

# Before anything imports Prefect, which reads them then: a profile of our own, and no server it points to. What
# `standby up` left in this folder is not ours either.
_home = tempfile.mkdtemp(prefix="standby-tests-")
for _name in [name for name in os.environ if name.startswith(("PREFECT_", "STANDBY_")) and "_TEST_" not in name]:
    del os.environ[_name]
os.environ |= {
    "PREFECT_HOME": _home,
    "STANDBY_HOME": str(Path(_home, "standby")),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # All is plain http: no client need load 150 certificates, which takes each of a thousand a twentieth of a second.
    "PREFECT_API_TLS_INSECURE_SKIP_VERIFY": "true",
    "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false",
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
    "SSL_CERT_FILE": str(Path(_home, "one.pem")),
    "SSL_CERT_DIR": _home,
}
_end = "-----END CERTIFICATE-----\n"
Path(_home, "one.pem").write_text(Path(certifi.where()).read_text().partition(_end)[0] + _end)

gc.disable()  # until all is imported: it takes a fifth of that time

import hypothesis  # noqa: E402

from standby.ledger import Ledger  # noqa: E402
from tests.support.databases import Ledgers, NoPostgres, fresh_database, postgres_server  # noqa: E402
from tests.support.forks import SERVICES, Forks, connected  # noqa: E402
from tests.support.leaks import no_leaks  # noqa: E402
from tests.support.seeds import ALL  # noqa: E402
from tests.support.server import SETTINGS, PrefectServer  # noqa: E402

# How long an example takes says something of the machine, which other tests keep busy.
hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("busy")

SLOWEST_FIRST = (
    "system", "browser", "faults", "fundamentals", "research", "prefect", "bank", "invoices", "ledger", "unit",
)  # fmt: skip
"""Folders of tests, so that the last ones to start on several processes are short."""

ON_ONE_DATABASE = {
    "test_a_run_killed_at_every_point_ends_as_an_undisturbed_one",
    "test_an_answer_is_the_same_on_every_replay",
    "test_a_signal_before_its_wait_is_used_once",
    "test_deadlines_that_pass_while_everything_is_down_fire_once",
    "test_fifty_cycles_of_park_and_wake_leave_memory_as_it_was",
}
"""The longest tests that kill processes; the statements they come by are attacked on both databases in tests/ledger."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    root = Path(__file__).parent

    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(root).parts[0]
        return SLOWEST_FIRST.index(folder) if folder in SLOWEST_FIRST else len(SLOWEST_FIRST)

    items.sort(key=rank)
    if not ALL:
        for item in items:
            if item.name.removesuffix("[postgresql]") in ON_ONE_DATABASE and item.name.endswith("[postgresql]"):
                item.add_marker(pytest.mark.skip("long, and done on SQLite: STANDBY_TEST_ALL=1 runs it here, too"))


def pytest_collection_finish() -> None:
    # What is there by now stays: the collections after the tests need not look at it, a quarter of a second each; nor,
    # later, at what an earlier test has left, which is there to stay.
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    shutil.rmtree(_home, ignore_errors=True)


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    with no_leaks():
        yield
    if "server_and_new_database" in request.fixturenames or "runs" in request.fixturenames:
        # Prefect leaves sockets of its clients to the garbage collector: none is left for another test to warn of.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def _postgres() -> Iterator[str]:
    """The PostgreSQL server of this session, found or started when the first test asks for it."""
    with ExitStack() as stack:
        try:
            url = stack.enter_context(postgres_server())
        except NoPostgres as reason:
            pytest.skip(f"no PostgreSQL: {reason}")
        yield url


@pytest.fixture(scope="session")
def _new_sqlite_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with its tables and nothing in them, to be copied: a tenth of the time of making them."""
    file = tmp_path_factory.mktemp("new") / "ledger.db"
    asyncio.run(_make_tables(f"sqlite:///{file}"))
    return file


@pytest.fixture(scope="session")
def _new_postgres_ledger(_postgres: str) -> Iterator[str]:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        url = runner.run(stack.enter_async_context(fresh_database(_postgres)))
        try:
            runner.run(_make_tables(url))
            yield url
        finally:
            runner.run(stack.aclose())


async def _make_tables(url: str) -> None:
    await (await Ledger.connect(url)).close()


@pytest.fixture
def sqlite_url(tmp_path: Path, _new_sqlite_ledger: Path) -> str:
    """A SQLite ledger of the test's own."""
    return f"sqlite:///{shutil.copy(_new_sqlite_ledger, tmp_path / 'ledger.db')}"


@pytest.fixture(scope="session")
def _postgres_ledgers(_postgres: str, _new_postgres_ledger: str) -> Iterator[Ledgers]:
    ledgers = Ledgers(_postgres, _new_postgres_ledger)
    yield ledgers
    asyncio.run(ledgers.close())


@pytest.fixture
async def postgres_url(_postgres_ledgers: Ledgers) -> AsyncIterator[str]:
    """A ledger of the test's own on PostgreSQL, with nothing in it."""
    url = await _postgres_ledgers.take()
    yield url
    _postgres_ledgers.give_back(url)


@pytest.fixture
async def empty_postgres_url(_postgres: str) -> AsyncIterator[str]:
    """A PostgreSQL database of the test's own without tables, dropped afterwards."""
    async with fresh_database(_postgres) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of the test's own without tables, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    return str(request.getfixturevalue("empty_postgres_url"))


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest) -> str:
    """An empty ledger of the test's own, on each kind of database."""
    return str(request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url"))


@pytest.fixture
async def ledger(ledger_url: str) -> AsyncIterator[Ledger]:
    opened = await Ledger.connect(ledger_url)
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run's, the same for all of its processes."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def forks(shared_folder: Path) -> Iterator[Forks]:
    """Starts servers, banks, gateways and commands of the terminal, in a tenth of the time that their imports take."""
    # A Prefect server reads how often its services do what they do when it is imported.
    started = Forks(connected(shared_folder, os.environ | SETTINGS, *SERVICES), os.environ)
    yield started
    started.close()


@pytest.fixture(scope="session")
def server_and_new_database(
    tmp_path_factory: pytest.TempPathFactory, shared_folder: Path, forks: Forks
) -> Iterator[tuple[PrefectServer, Path]]:
    server = PrefectServer(tmp_path_factory.mktemp("server"), forks)
    try:
        yield server, _start_as_new(server, shared_folder / "new-prefect.db")
    finally:
        server.close()


def _start_as_new(server: PrefectServer, new: Path) -> Path:
    """Start it on a database that the first of the test processes has made, which is most of a start's time."""
    with new.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not new.exists():
            server.start_now()
            server.keep_as_new(new)
            return new
    server.begin_with(new)
    server.start_now()
    return new


@pytest.fixture(scope="session")
def prefect_server(server_and_new_database: tuple[PrefectServer, Path]) -> PrefectServer:
    """A Prefect server for the whole session; who must kill one, or counts what is on it, takes another."""
    return server_and_new_database[0]


@pytest.fixture
async def own_prefect_server(
    server_and_new_database: tuple[PrefectServer, Path], forks: Forks, tmp_path: Path
) -> AsyncIterator[PrefectServer]:
    """A Prefect server of the test's own, to kill and to start again, with nothing on it."""
    server = PrefectServer(tmp_path / "server", forks)
    server.begin_with(server_and_new_database[1])
    try:
        await server.start()
        yield server
    finally:
        server.close()
