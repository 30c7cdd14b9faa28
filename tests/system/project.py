"""A project folder beside a developer's own: the shipped flows and configuration, its own data, ports and processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from standby.ledger import Ledger
from tests.bank.process import ROOT, Bank
from tests.support.forks import Fork, Forks
from tests.support.ports import reserved_port
from tests.support.server import ON_A_COPY, copy_database
from tests.support.waiting import wait_until

PROGRAMS = Path(sys.executable).parent
SHIPPED = ("flows", "prefect.yaml", "pyproject.toml")

UP_WITHIN = 150.0
"""Seconds until `standby up` has everything up; it takes ten on an idle machine."""

STOPS_WITHIN = 180.0
"""Seconds until `standby up` has stopped everything; it takes two on an idle machine."""


class Result(NamedTuple):
    """What a command that has ended said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its standard output as JSON."""
        return json.loads(self.out)

    @property
    def sentence(self) -> str:
        """What it said is wrong, on one line; it must have failed, on its error stream, without a traceback."""
        assert self.code not in (0, None), self
        assert "Traceback" not in self.err + self.out, self
        assert self.err.strip(), self
        return " ".join(self.err.split())


class Project:
    def __init__(self, folder: Path, forks: Forks, *, pyproject: str | None = None) -> None:
        """``forks`` starts its commands; ``pyproject``: its text, where it is not the shipped one."""
        self.folder, self.home = folder, folder / ".standby"
        self.forks = forks
        self._commands = 0
        folder.mkdir(parents=True, exist_ok=True)
        for name in SHIPPED:
            (folder / name).symlink_to(ROOT / name)
        if pyproject is not None:
            (folder / "pyproject.toml").unlink()
            (folder / "pyproject.toml").write_text(pyproject)
        self.port, self._port = reserved_port()
        self.bank_port, self._bank_port = reserved_port()
        self.gateway_port, self._gateway_port = reserved_port()
        self.api_url = f"http://127.0.0.1:{self.port}/api"
        self.ledger_url = f"sqlite:///{self.home / 'ledger.db'}"
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "STANDBY_"))}
        self.env |= {
            "STANDBY_HOME": str(self.home),
            "PAYMENT_PROVIDER_URL": f"http://127.0.0.1:{self.bank_port}",
            "STANDBY_GATEWAY_PORT": str(self.gateway_port),
            "PREFECT_SERVER_UI_ENABLED": "false",
        }
        self._ups: list[Up] = []

    def begin_with(self, database: Path) -> None:
        """Have its Prefect server start from a copy of this database, which saves half of a first start."""
        (self.home / "prefect").mkdir(parents=True)
        copy_database(database, self.home / "prefect" / "prefect.db")
        self.env |= ON_A_COPY

    def close(self) -> None:
        """Kill what is left of its processes."""
        for one in self._ups:
            one.kill()
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._port.close()
        self._bank_port.close()
        self._gateway_port.close()

    def take_port(self) -> None:
        """Be the other program that listens on the port of `up`."""
        self._port.listen()

    def take_bank_port(self) -> None:
        self._bank_port.listen()

    def take_gateway_port(self) -> None:
        self._gateway_port.listen()

    # Commands.

    def up(self, *arguments: str, plain: bool = False) -> Up:
        """Start `standby up` on its port; ``plain``: in an interpreter of its own."""
        started = Up(self, arguments, plain=plain)
        self._ups.append(started)
        return started

    async def standby(self, *arguments: str, **env: str) -> Result:
        """A command of the terminal, to its end."""
        process, out, err = self.begin(arguments, **env)
        return Result(await asyncio.to_thread(process.wait, 120), out.read_text(), err.read_text())

    def begin(self, arguments: Sequence[str], *, plain: bool = False, **env: str) -> tuple[Fork, Path, Path]:
        """Start a command of the terminal: the process, and the files of what it says and what it says is wrong."""
        return self._begin(arguments[0], ["standby", *arguments], plain=plain, **env)

    def _begin(
        self, name: str, command: list[str], *, plain: bool = False, service: bool = False, **env: str
    ) -> tuple[Fork, Path, Path]:
        self._commands += 1
        out, err = (self.folder / f"{name}-{self._commands}.{kind}" for kind in ("out", "err"))
        out.touch()
        process = Fork()
        foreign: dict[str, str | None] = dict.fromkeys(name for name in os.environ if name not in self.env)
        self.forks.start(
            process, command, env=foreign | self.env | env, cwd=self.folder, log=out, errors=err, plain=plain,
            service=service,
        )  # fmt: skip
        return process, out, err

    async def module(self, *command: str, **env: str) -> Result:
        """``python -m COMMAND...``, to its end, in a process that need not import it first."""
        process, out, err = self._begin(command[0], list(command), service=True, **env)
        return Result(await asyncio.to_thread(process.wait, 120), out.read_text(), err.read_text())

    async def python(self, *arguments: str, **env: str) -> Result:
        return await self.run([sys.executable, *arguments], **env)

    async def run(self, command: list[str], **env: str) -> Result:
        def to_its_end() -> Result:
            done = subprocess.run(
                command, cwd=self.folder, env=self.env | env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=120,
            )  # fmt: skip
            return Result(done.returncode, done.stdout, done.stderr)

        return await asyncio.to_thread(to_its_end)

    @contextmanager
    def process(self, name: str, command: list[str], **env: str) -> Iterator[subprocess.Popen[bytes]]:
        """A process of the project beside `up`; what it says goes to ``NAME.out``. It is stopped at the end."""
        with (self.folder / f"{name}.out").open("ab") as output:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.env | env, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        try:
            yield process
        finally:
            for by in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, by)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(20)
                    break

    # What there is.

    def processes(self) -> list[psutil.Process]:
        """Every process that works on this project's data: in its folder, or told where the data is.

        Of one that was forked only the folder is seen.
        """
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                if process.cwd() == str(self.folder) or process.environ().get("STANDBY_HOME") == str(self.home):
                    found.append(process)
        return found

    async def gone(self) -> None:
        """Return when none of its processes is left."""

        def shown() -> list[str]:
            return [f"{process.pid} {process.cmdline()}" for process in self.processes()]

        await wait_until(lambda: not self.processes(), 10, every=0.1, shows=shown)

    def children(self) -> dict[str, psutil.Process]:
        """What `up` has started and still runs, by name: server, bank, gateway and worker."""
        names = {"prefect_server": "server", "sandbox_bank": "bank", "gateway": "gateway", "host": "worker"}
        found = {}
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                if process.name() in names:
                    found[names[process.name()]] = process
        return found

    @asynccontextmanager
    async def ledger(self) -> AsyncIterator[Ledger]:
        ledger = await Ledger.connect(self.ledger_url)
        try:
            yield ledger
        finally:
            await ledger.close()

    @asynccontextmanager
    async def bank(self) -> AsyncIterator[Bank]:
        """The bank that `up` has started: its controls and what it remembers."""
        bank = Bank(self.bank_port, self.home, {})
        try:
            yield bank
        finally:
            await bank.close()

    def logs(self) -> str:
        """The ends of all its logs, for a test that fails."""
        files = [*self.folder.glob("*.out"), *self.folder.glob("*.err"), *self.home.glob("logs/*.log")]
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-3000:]}" for file in sorted(files))


class Up:
    """One `standby up`, from its start to its end."""

    def __init__(self, project: Project, arguments: tuple[str, ...], *, plain: bool) -> None:
        self.project = project
        command = ["up", "--port", str(project.port), *arguments]
        self._process, self._out, self._err = project.begin(command, plain=plain)
        self.pid = self._process.pid

    @property
    def output(self) -> str:
        return self._out.read_text()

    async def ready(self) -> Up:
        """Return when everything is up."""
        await self.says("Up: ")
        return self

    def wait_ready(self) -> Up:
        """As ``ready``, where no event loop runs."""
        return asyncio.run(self.ready())

    async def says(self, text: str, within: float = UP_WITHIN) -> None:
        """Return when it has said so; it must not end before."""

        def said() -> bool:
            if text in self.output:
                return True
            assert self._process.running, f"it ended with {self._process.poll()}:\n{self.shown()}"
            return False

        await wait_until(said, within, every=0.1, shows=self.shown)

    async def ended(self, within: float = STOPS_WITHIN) -> Result:
        """What it said, when it has ended by itself."""
        try:
            code = await asyncio.to_thread(self._process.wait, within)
        except TimeoutError:
            raise AssertionError(f"it has not ended within {within} s:\n{self.shown()}") from None
        return Result(code, self.output, self._err.read_text())

    async def interrupted(self) -> Result:
        """Ctrl-C, and its end."""
        self._process.send_signal(signal.SIGINT)
        return await self.ended()

    def kill(self) -> None:
        """SIGKILL for it alone."""
        self._process.kill()
        self._process.wait(10)

    def shown(self) -> str:
        return f"{self.output}\n{self._err.read_text()}\n{self.project.logs()}"
