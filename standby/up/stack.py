"""Starts the Prefect server, worker, gateway, keeper and the project's own processes, and stops them again."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from rich.console import Console

from standby import settings
from standby.connect import only_server, open_prefect
from standby.errors import UsageError
from standby.host.checks import check_settings
from standby.host.place import attempt_command, fork_server_place
from standby.host.stopping import grace
from standby.ledger import Ledger
from standby.ports import require_free
from standby.states import ENDED
from standby.up.block_types import register_block_types
from standby.up.board import Board
from standby.up.config import Config, read_config
from standby.up.processes import STOP_SECONDS, Child, command, no_program, signal_group, stop_leftover

HOST = "127.0.0.1"
ANSWERS_SECONDS = 180.0
"""How long the Prefect server may take to answer after it was started; the gateway, too."""

HOST_GRACE = "5"
"""``STANDBY_HOST_GRACE`` of the host, unless it is set: who presses Ctrl-C wants to see an end."""

NOTE = "Note: "
"""What begins so, of what a bootstrap says, is for whoever starts it; the rest is in its log."""

console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


class Typed(NamedTuple):
    """What people type: to start this again, and with another port of the server, or of the gateway, for its ``{}``."""

    again: str
    port: str
    gateway_port: str


async def run_stack(*, port: int, gateway_port: int, demo: bool, auto_answer: str | None, typed: Typed) -> int:
    """Everything up, until Ctrl-C or (with ``demo``) until the demo is done; a second one kills what has not ended.
    Returns the exit code."""
    stop = asyncio.Event()
    children: list[Child] = []

    def told_to_stop() -> None:
        if stop.is_set():
            for child in children:
                child.end()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, told_to_stop)
    folder = Path.cwd()
    config = read_config(folder)
    if demo and config.demo is None:
        raise UsageError("This project has no demo: name a module as `demo` in [tool.standby] of pyproject.toml.")
    async with AsyncExitStack() as cleanup:
        check_settings()  # said before anything is started
        cleanup.enter_context(_only_one(settings.home()))
        another = port % 65535 + 1
        require_free(HOST, port, f"Choose another: {typed.port.format(another)}")
        if gateway_port == port:
            other = typed.gateway_port.format(another)
            raise UsageError(
                f"The Prefect server and the gateway cannot both listen on port {port}. Choose another: {other}"
            )
        require_free(HOST, gateway_port, f"Choose another: {typed.gateway_port.format(gateway_port % 65535 + 1)}")
        cleanup.enter_context(only_server(f"http://{HOST}:{port}/api"))
        starting = asyncio.create_task(_start(cleanup, children, config, port, gateway_port))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            console.print("Stopping.")
            return 130
        stack = starting.result()
        board = Board(stack.ledger, stack.ui_url, stack.api_url, console)
        code = await _attend(stack, board, stop, demo=demo, auto_answer=auto_answer)
        stopping.cancel()
        kept = _shown(settings.home())
        if await stack.ledger.runs.all(ended=False):
            console.print(f"Stopping. What waits is kept in {kept}; `{typed.again}` carries on with it.")
        else:
            console.print(f"Stopping. The data is kept in {kept}; delete it to begin anew.")
    return code


class Stack:
    """What is running: addresses, the open ledger, and the environment of its processes."""

    def __init__(self, config: Config, port: int, gateway_port: int, ledger: Ledger, env: dict[str, str]) -> None:
        self.config, self.ledger, self.env = config, ledger, env
        self.ui_url = f"http://{HOST}:{port}"
        self.api_url = f"{self.ui_url}/api"
        self.gateway_url = f"http://{HOST}:{gateway_port}"


def stop_seconds(environment: Mapping[str, str]) -> float:
    """How long the host has to end after SIGTERM: its grace, and then as long as every child. Raises ``UsageError`` for
    a grace that is no number."""
    return grace({"STANDBY_HOST_GRACE": HOST_GRACE, **environment}) + STOP_SECONDS


async def _start(cleanup: AsyncExitStack, children: list[Child], config: Config, port: int, gateway_port: int) -> Stack:
    home = settings.home()
    logs = home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    ledger_url = settings.told_ledger_url() or settings.default_ledger_url()
    env = _environment(port, ledger_url, gateway_port)
    told = ("PREFECT_API_URL", "STANDBY_LEDGER_URL", "STANDBY_GATEWAY_URL", "PREFECT_HOME", "DO_NOT_TRACK")
    os.environ.update({name: env[name] for name in told})  # the keeper and its Prefect client are in this process
    ledger = await Ledger.connect(ledger_url)
    cleanup.push_async_callback(ledger.close)
    stack = Stack(config, port, gateway_port, ledger, env)

    def write_down() -> None:
        """So that other terminals find this stack, and the next ``up`` what this one leaves if it is killed."""
        running = [identity for one in children if (identity := one.identity) is not None]
        about = {"pid": os.getpid(), "api_url": stack.api_url, "ledger_url": ledger_url,
                 "gateway_url": env["STANDBY_GATEWAY_URL"], "children": running}  # fmt: skip
        # Renamed into place: whoever reads it, after a kill too, finds one of the versions whole.
        (home / "up.json.new").write_text(json.dumps(about, indent=2))
        (home / "up.json.new").rename(home / "up.json")

    async def start(name: str, text: str, stop_seconds: float | None = None) -> Child:
        one = Child(
            name, command(text), env, logs / f"{name}.log",
            report=console.print, on_start=write_down, stop_seconds=stop_seconds, kept=False,
        )  # fmt: skip
        children.append(one)
        cleanup.push_async_callback(one.stop)
        await one.start()
        return one

    if place := cleanup.enter_context(fork_server_place(home)):
        env["STANDBY_FORK_SERVER"] = place
        # First, for it is to be there before the worker takes the first run.
        await start("forkserver", "python -m standby.host.forkserver")
    for name, text in config.processes.items():
        if shutil.which(command(text)[0], path=env["PATH"]) is None:
            raise no_program(name, command(text))
    server = await start("server", f"python -m standby.up.prefect_server --host {HOST} --port {port}")
    console.print(f"Starting the Prefect server on {stack.ui_url} ...")
    await _answers("Prefect server", server, children, f"{stack.api_url}/health")
    # They are ready while the rest is set up. The project's own may ask the server what they are for.
    for name, text in config.processes.items():
        await start(name, text)
    gateway = await start("gateway", f"python -m standby gateway --port {gateway_port}")
    async with open_prefect(stack.api_url) as client:
        await register_block_types(client)
    if config.bootstrap is not None:
        console.print("Setting up the work pool, blocks and deployments ...")
        setting_up = command(f"python -m {config.bootstrap} --deploy")
        said = await _while_up(children, _to_the_end("bootstrap", setting_up, env, logs / "bootstrap.log"))
        for note in notes_in(said):
            console.print(note)
    elif Path("prefect.yaml").exists():
        console.print("Deploying what is in prefect.yaml ...")
        await _make_pool(stack.api_url, config.pool)
        deploy = command("python -m prefect --no-prompt deploy --all")
        await _while_up(children, _to_the_end("deploying", deploy, env, logs / "deploying.log"))
    await _quick_attempts(stack.api_url, config.pool)
    await start("worker", f"python -m standby host --pool {config.pool} --name standby", stop_seconds(env))
    await cleanup.enter_async_context(_keeper(ledger, stack.api_url))
    await _answers("gateway", gateway, children, f"{stack.gateway_url}/health")
    for one in children:
        one.keep()
    return stack


def notes_in(said: str) -> list[str]:
    """Of what a bootstrap says, the lines that are for people."""
    return [line.removeprefix(NOTE) for line in said.splitlines() if line.startswith(NOTE)]


async def _attend(stack: Stack, board: Board, stop: asyncio.Event, *, demo: bool, auto_answer: str | None) -> int:
    """Show what goes on until told to stop, or until the demo's runs have ended."""
    if not demo:
        ledger = stack.ledger.database.shown
        console.print(f"Up: Prefect UI {stack.ui_url}, gateway {stack.gateway_url}, ledger {ledger}. Ctrl-C stops.")
        await board.show(stop)
        return 0
    run_ids = await _start_demo(stack)
    runs = [await stack.ledger.runs.get(run_id) for run_id in run_ids]
    if all(run is not None and run.state in ENDED for run in runs):
        console.print(f"All of them ended in an earlier run. To see it again, delete {_shown(settings.home())}.")
    done = await board.show(stop, run_ids=run_ids, auto_answer=auto_answer)
    if not done:
        return 130
    await board.print_receipts(run_ids)
    return 0


async def _start_demo(stack: Stack) -> list[str]:
    console.print("Starting the demo's runs ...")
    argv = command(f"python -m {stack.config.demo}")
    output = await _to_the_end("demo", argv, stack.env, settings.home() / "logs" / "demo.log")
    return [json.loads(line)["run_id"] for line in output.splitlines() if line.startswith("{")]


async def _make_pool(api_url: str, pool: str) -> None:
    """As ``prefect deploy`` wants it to be there."""
    async with open_prefect(api_url) as client:
        with suppress(ObjectAlreadyExists):
            await client.create_work_pool(WorkPoolCreate(name=pool, type="process"))


async def _quick_attempts(api_url: str, pool: str) -> None:
    """Have the worker fork an attempt instead of starting two interpreters one after the other, for seconds more."""
    async with open_prefect(api_url) as client:
        try:
            template = (await client.read_work_pool(pool)).base_job_template
        except ObjectNotFound:
            return  # the worker makes it
        if not template:  # a new pool has none until a worker comes
            from prefect.workers.process import ProcessWorker

            template = ProcessWorker.get_default_base_job_template()
        told = template.get("variables", {}).get("properties", {}).get("command")
        if told is None or told.get("default") == attempt_command():
            return
        told["default"] = attempt_command()
        await client.update_work_pool(pool, WorkPoolUpdate(base_job_template=template))


@asynccontextmanager
async def _keeper(ledger: Ledger, api_url: str) -> AsyncIterator[None]:
    from standby.keeper import Keeper

    task = asyncio.create_task(Keeper(ledger, lambda: open_prefect(api_url)).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _answers(name: str, server: Child, children: list[Child], url: str) -> None:
    """Wait until the server is healthy, at ``url``.

    Raises ``UsageError`` with the end of its log when it will not be, or when any of the children stops meanwhile.
    """
    async with httpx.AsyncClient() as client:
        try:
            async with asyncio.timeout(ANSWERS_SECONDS):
                while True:
                    _require_up(children)
                    try:
                        if (await client.get(url, timeout=2)).status_code == 200:
                            return
                    except httpx.HTTPError:
                        pass
                    await asyncio.sleep(0.2)
        except TimeoutError as error:
            raise UsageError(f"The {name} does not answer. The end of its log:\n{server.tail()}") from error


def _require_up(children: list[Child]) -> None:
    for one in children:
        if one.ended:
            raise UsageError(f"The {one.name} stopped at once. It said:\n{one.tail()}")


async def _while_up(children: list[Child], work: Coroutine[Any, Any, str]) -> str:
    """Do this, and raise ``UsageError`` as soon as one of the children has stopped meanwhile."""
    working = asyncio.create_task(work)
    try:
        while not working.done():
            _require_up(children)
            await asyncio.wait({working}, timeout=0.2)
        return working.result()
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def _to_the_end(name: str, argv: list[str], env: dict[str, str], log_file: Path) -> str:
    """Run a command to its end; its standard output. Raises ``UsageError`` with what it said when it fails."""
    process = await asyncio.create_subprocess_exec(
        *argv, env=env, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        output = (await process.communicate())[0].decode(errors="replace")
    except asyncio.CancelledError:
        signal_group(process.pid, signal.SIGKILL)  # with what it has started
        await process.wait()
        raise
    log_file.write_text(output)
    if process.returncode:
        raise UsageError(f"{' '.join(argv[1:])} failed. It said:\n{output.strip()[-2000:]}")
    return output


def _environment(port: int, ledger_url: str, gateway_port: int) -> dict[str, str]:
    """What the children are told. What the user has set stays, but for the addresses of this very stack."""
    defaults = {
        "PREFECT_HOME": str(settings.home() / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # Deadlines are the keeper's. Prefect's own scan of all paused runs is slowed down.
        "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_LOOP_SECONDS": "300",
        "STANDBY_HOST_GRACE": HOST_GRACE,
        "STANDBY_GATEWAY_URL": f"http://{HOST}:{gateway_port}",
        "PYTHONUNBUFFERED": "1",
    }
    addresses = {
        "PREFECT_API_URL": f"http://{HOST}:{port}/api",
        "STANDBY_LEDGER_URL": ledger_url,
        "STANDBY_HOME": str(settings.home()),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",  # one server is here, and on its database there is no other
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return defaults | dict(os.environ) | addresses | {"PATH": path}


class _only_one:
    """One ``standby up`` for a data folder. Also stops what one that was killed has left running."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def __enter__(self) -> None:
        self._home.mkdir(parents=True, exist_ok=True)
        self._file = (self._home / "up.lock").open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            about = settings.running()
            raise UsageError(
                f"Standby is already up on {_shown(self._home)} (process {about.get('pid', '?')}, "
                f"{about.get('api_url', 'still starting')}). Stop it first, or set STANDBY_HOME to another folder."
            ) from error
        for process in settings.running().get("children", []):
            stop_leftover(process, stop_seconds(os.environ))

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _shown(path: Path) -> str:
    return os.path.relpath(path)
