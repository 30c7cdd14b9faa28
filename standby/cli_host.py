"""``standby host``: hosts the agents of a work pool, in one process or several."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated

import httpx
import typer

from standby import settings
from standby.connect import here, only_server, open_prefect
from standby.terminal import escaped, open_ledger, out, perform


def host(
    pool: Annotated[str, typer.Option(help="The work pool whose agents it runs.")] = "agents",
    name: Annotated[str | None, typer.Option(help="Its name in Prefect; by default the machine's.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Agents that run at once in a process. Parked ones do not count.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="How many processes; one more for each core pays.")] = 1,
    health_port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            envvar="STANDBY_HOST_HEALTH_PORT",
            help="Port of GET /health; with several processes the first's, the others have those after it.",
        ),
    ] = None,
    until_input_ends: Annotated[bool, typer.Option(hidden=True, help="Ends as by SIGTERM with its input.")] = False,
) -> None:
    """Run agents beside each other, and keep those that wait warm. SIGTERM lets them go to their next checkpoint.

    It is the Prefect worker `prefect worker start --type standby`, and takes its settings.
    """
    name = name or f"host {socket.gethostname()}"
    gc.disable()  # what it loads now stays for good: there is nothing to collect
    if processes > 1:
        perform(_several(pool, name, limit, processes, health_port), serves=True)
    else:
        perform(_one(pool, name, limit, health_port, until_input_ends), serves=True)


async def _one(pool: str, name: str, limit: int | None, health_port: int | None, until_input_ends: bool) -> int:
    from standby.host.checks import check_settings
    from standby.host.health import PORT_VARIABLE
    from standby.host.logs import log_to_stderr
    from standby.host.worker import HostWorker

    check_settings()
    async with open_ledger() as (ledger, place):
        if place.api_url is None:
            raise ConnectionError("No Prefect server is known. Set PREFECT_API_URL, or start `standby up`.")
        if settings.told_ledger_url() is None and "PREFECT_API_URL" not in os.environ:
            os.environ["STANDBY_LEDGER_URL"] = place.ledger_url  # attempts in processes of their own find it, too
        if health_port is not None:
            os.environ[PORT_VARIABLE] = str(health_port)
        shown = ledger.database.shown
    await tell_of_new(pool, place.api_url)
    log_to_stderr()
    with only_server(place.api_url):
        to_say = [f"Hosting the agents of {pool} for {place.api_url}, ledger {shown}. Ctrl-C stops."]

        def it_hosts(_: str) -> None:  # told when it has begun and when it has ended
            while to_say:
                out.print(to_say.pop())

        gc.freeze()
        gc.enable()
        worker = HostWorker(work_pool_name=pool, name=name, limit=limit)
        if until_input_ends:
            _when_input_ends(worker.stop)
        await worker.start(printer=it_hosts)
    return 0


async def tell_of_new(pool: str, api_url: str) -> None:
    """The worker makes the pool if there is none, as Prefect's do. A misspelt one has no agents, and nobody would know.

    Raises ``httpx.HTTPError`` where Prefect cannot be asked."""
    from prefect.exceptions import ObjectNotFound

    async with open_prefect(api_url) as client:
        try:
            await client.read_work_pool(pool)
        except ObjectNotFound:
            said = f"There is no work pool {pool!r} yet: it is made, and has no agents until some are deployed to it."
            out.print(escaped(said))


def _when_input_ends(call: Callable[[], None]) -> None:
    """Call this when who has started this process wants it to end, or is gone."""
    loop = asyncio.get_running_loop()
    told = os.dup(0)  # what this process starts does not have it, and reads nothing
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)

    def listen() -> None:
        os.read(told, 1)
        with suppress(RuntimeError):  # it ends already
            loop.call_soon_threadsafe(call)

    threading.Thread(target=listen, name="standby-input", daemon=True).start()


async def _several(pool: str, name: str, limit: int | None, processes: int, health_port: int | None) -> int:
    """Start them, start again what dies, and stop them: each drains as one alone would, and a second signal kills."""
    from standby.host.checks import check_settings
    from standby.host.health import require_free
    from standby.up.processes import Child

    check_settings()  # else each would say it in its log, again and again
    if health_port is not None:
        require_free(health_port, processes)
    logs = settings.home() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    stop = asyncio.Event()
    children: list[Child] = []

    def told() -> None:
        if stop.is_set():
            for child in children:
                child.kill()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, stop.set)
    with suppress(httpx.HTTPError):  # each of them says so itself
        if (api_url := (await here()).api_url) is not None:
            await tell_of_new(pool, api_url)
    try:
        for one in range(processes):
            argv = [sys.executable, "-m", "standby", "host", "--pool", pool, "--name", f"{name} {one + 1}"]
            argv += ["--until-input-ends"]
            argv += ["--limit", str(limit)] if limit is not None else []
            argv += ["--health-port", str(health_port + one)] if health_port is not None else []
            child = Child(
                f"host {one + 1}", argv, dict(os.environ), logs / f"host-{one + 1}.log",
                report=out.print, on_start=lambda: None, drains=True,
            )  # fmt: skip
            children.append(child)
            await child.start()
        out.print(f"{processes} processes host the agents of {pool}. Their logs: {logs}/host-*.log. Ctrl-C stops.")
        await stop.wait()
    finally:
        await asyncio.gather(*(child.stop() for child in children))
    return 0
