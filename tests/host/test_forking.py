"""Attempts are forked by a process that has imported everything, and are to a worker what a process of its own is."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from pydantic import BaseModel

from standby.errors import UsageError
from standby.host import forkserver
from standby.host.place import CAN_FORK, LONGEST_PATH, attempt_command, fork_server_place
from standby.ledger import Ledger, database
from standby.ledger.prepared import Prepared
from tests.support.server import prefect_env
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(not CAN_FORK, reason="attempts are forked on Linux alone"),
    pytest.mark.xdist_group("forking"),
]

RUN = "0b4b3a8e-5a0c-4b42-9a86-0d6ff4a3a123"
IN_ITS_OWN = "prefect.engine"
"""What is on the command line of an attempt that has an interpreter of its own."""


class Workshop:
    """A fork server, and a Prefect server that takes calls and never answers: attempts last as long as they are let."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env
        self.commands: list[subprocess.Popen[str]] = []
        self.start()

    def start(self) -> None:
        self.server = subprocess.Popen([sys.executable, "-m", "standby.host.forkserver"], env=self.env)

    async def up(self) -> None:
        """Return when it listens."""

        def listens() -> bool:
            with socket.socket(socket.AF_UNIX) as caller:
                return caller.connect_ex(self.env["STANDBY_FORK_SERVER"]) == 0

        await wait_until(listens, 60)

    def begin(self, cwd: Path | None = None, **env: str) -> subprocess.Popen[str]:
        """Run the pool's command, as a worker does."""
        begun = subprocess.Popen(
            shlex.split(attempt_command()), env=self.env | {"PREFECT__FLOW_RUN_ID": RUN} | env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=cwd,
        )  # fmt: skip
        self.commands.append(begun)
        return begun

    async def attempt(self) -> psutil.Process:
        """The forked process."""

        def forked() -> psutil.Process | None:
            return next(iter(psutil.Process(self.server.pid).children()), None)

        found = await wait_until(forked, 60)
        assert found is not None
        return found

    async def stood_in_for(self, begun: subprocess.Popen[str]) -> psutil.Process:
        """The same, once the command knows of it: until then it would become an attempt itself if the server died."""

        def knows() -> bool:
            with suppress(FileNotFoundError):  # closed meanwhile
                return any("pidfd" in os.readlink(file) for file in Path(f"/proc/{begun.pid}/fd").iterdir())
            return False

        await wait_until(knows, 60)
        return await self.attempt()

    async def clear(self) -> None:
        """Leave nothing of a test but the server."""
        while self.commands:
            process = self.commands.pop()
            process.kill()
            process.communicate()
        server = psutil.Process(self.server.pid)
        await wait_until(lambda: not server.children(), 30)  # they die with who asked for them

    def close(self) -> None:
        for process in [*self.commands, self.server]:
            process.kill()
            process.communicate()


@contextmanager
def opened(folder: Path) -> Iterator[Workshop]:
    with socket.socket() as silent, fork_server_place(folder) as place:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert place is not None
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        made = Workshop(prefect_env(folder, PREFECT_API_URL=address, STANDBY_FORK_SERVER=place))
        try:
            yield made
        finally:
            made.close()


@pytest.fixture(scope="module")
def kept_workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    with opened(tmp_path_factory.mktemp("workshop")) as made:
        yield made


@pytest.fixture
async def workshop(kept_workshop: Workshop) -> AsyncIterator[Workshop]:
    """One for all tests that let it live, for it takes seconds to start."""
    await kept_workshop.up()
    yield kept_workshop
    await kept_workshop.clear()


@pytest.fixture
async def own_workshop(tmp_path: Path) -> AsyncIterator[Workshop]:
    with opened(tmp_path) as made:
        await made.up()
        yield made


async def gone(process: psutil.Process) -> None:
    await wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, 30)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


async def test_output_and_exit_code_are_the_attempts(workshop: Workshop) -> None:
    code, said = ended(workshop.begin(PREFECT__FLOW_RUN_ID="none"))
    assert code == 1
    assert "Invalid flow run id" in said
    begun = workshop.begin()
    (await workshop.attempt()).kill()
    assert ended(begun)[0] == -signal.SIGKILL


async def test_a_signal_for_the_command_reaches_the_attempt_and_its_kill_kills_it(workshop: Workshop) -> None:
    begun = workshop.begin()
    attempt = await workshop.attempt()
    begun.terminate()
    await gone(attempt)
    assert ended(begun)[0] != 0

    begun = workshop.begin()
    attempt = await workshop.attempt()
    begun.kill()
    await gone(attempt)


async def test_an_attempt_outlives_a_fork_server_that_dies(own_workshop: Workshop) -> None:
    """The command stands in for it to its end, and kills it with itself; the next one has an interpreter of its own."""
    for killed in ("attempt", "command"):
        begun = own_workshop.begin()
        attempt = await own_workshop.stood_in_for(begun)
        own_workshop.server.kill()
        own_workshop.server.wait()
        assert attempt.is_running()
        assert begun.poll() is None
        if killed == "attempt":
            attempt.kill()
            assert ended(begun)[0] == 0, "nobody can know its exit code any more"
            own_workshop.start()
            await own_workshop.up()
        else:
            begun.kill()
            await gone(attempt)
    await in_its_own_interpreter(own_workshop.begin())


async def in_its_own_interpreter(begun: subprocess.Popen[str]) -> None:
    await wait_until(lambda: IN_ITS_OWN in psutil.Process(begun.pid).cmdline(), 30)


@pytest.mark.parametrize(
    ("env", "files"),
    [({"PREFECT_LOGGING_LEVEL": "DEBUG"}, []), ({"PYTHONPATH": "elsewhere"}, []), ({}, ["prefect.toml"])],
)
async def test_an_attempt_that_is_told_other_settings_has_an_interpreter_of_its_own(
    workshop: Workshop, tmp_path: Path, env: dict[str, str], files: list[str]
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in files:
        (folder / name).touch()
    await in_its_own_interpreter(workshop.begin(folder, **env))


async def test_settings_that_are_only_written_in_another_way_are_the_same(workshop: Workshop) -> None:
    begun = workshop.begin(PREFECT_LOGGING_LEVEL="INFO", PREFECT_SERVER_ANALYTICS_ENABLED="False")
    (await workshop.attempt()).kill()
    assert ended(begun)[0] == -signal.SIGKILL


async def test_what_makes_no_sense_stops_nothing(workshop: Workshop) -> None:
    """Nor does a request that never ends."""
    with socket.socket(socket.AF_UNIX) as unfinished:
        unfinished.connect(workshop.env["STANDBY_FORK_SERVER"])
        unfinished.sendall(b'{"env": ')
        for nonsense in (b"[]\n", b"{}\n", b"\xff\n", b""):
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.connect(workshop.env["STANDBY_FORK_SERVER"])
                stranger.sendall(nonsense)
        begun = workshop.begin()
        (await workshop.attempt()).kill()
        assert ended(begun)[0] == -signal.SIGKILL
    assert workshop.server.poll() is None


def test_the_socket_is_in_a_folder_that_nobody_else_may_use(tmp_path: Path) -> None:
    with fork_server_place(tmp_path) as place:
        assert place is not None
        folder = Path(place).parent
        assert folder.stat().st_mode & 0o777 == 0o700
        folder.chmod(0o755)
        with pytest.raises(UsageError, match="is not ours alone"), fork_server_place(tmp_path):
            pass
    assert not folder.exists()


@pytest.mark.parametrize("more", [0, 1])
def test_attempts_are_not_forked_where_the_path_of_a_socket_would_be_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    """What is not too long can be listened at."""
    with fork_server_place(tmp_path) as place:
        assert place is not None
        own = len(place) - len(tempfile.gettempdir())
    # Beneath the system's folder, for this test's own may be long.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        long = Path(folder) / ("\u00e4" + "x" * (LONGEST_PATH + more - own - len(folder) - len("/\u00e4x")))
        long.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(long))
        with fork_server_place(tmp_path) as place:
            assert (place is None) is bool(more)
            if place is not None:
                assert len(os.fsencode(place)) == LONGEST_PATH
                with socket.socket(socket.AF_UNIX) as listener:
                    listener.bind(place)
        assert list(long.iterdir()) == []


async def test_what_is_forked_need_neither_compile_statements_nor_build_models(
    ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deferred(BaseModel, defer_build=True):
        number: int

    monkeypatch.setattr(database, "_MADE", {})
    forkserver.make_ready()

    def compiled_again(*_: object) -> None:
        raise AssertionError("a statement that was not compiled before")

    monkeypatch.setattr(Prepared, "__init__", compiled_again)
    await (await Ledger.connect(ledger_url)).close()
    assert Deferred.__pydantic_complete__
