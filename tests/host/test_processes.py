"""``standby host --processes``, and what each process says of itself over HTTP."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest

from standby.cli_host import _several
from standby.errors import UsageError
from standby.host.guest import Phase
from standby.host.health import Health, require_free
from standby.host.worker import HostWorker
from standby.up import processes, stack
from tests.host.conftest import AGENTS
from tests.support.ports import reserved_port
from tests.support.server import PrefectServer, prefect_env
from tests.support.waiting import WITHIN, wait_until

PLACE = "http://127.0.0.1:{}/health"


@pytest.fixture
def port() -> Iterator[int]:
    """One that is free, and so is the next."""
    with ExitStack() as kept:
        while True:
            found, keeper = reserved_port()
            kept.enter_context(keeper)
            following = kept.enter_context(socket.socket())
            following.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError, OverflowError):
                following.bind(("127.0.0.1", found + 1))
                yield found
                return


async def health_at(port: int) -> dict[str, Any]:
    """What it says, once it says that it is well."""

    async def said() -> dict[str, Any] | None:
        try:
            async with httpx.AsyncClient() as client:
                answer = await client.get(PLACE.format(port))
        except httpx.TransportError:
            return None
        return dict(answer.json()) if answer.status_code == 200 else None

    found = await wait_until(said, 150, every=0.1)
    assert found is not None
    return found


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_several_processes_host_a_pool_and_end_together(
    prefect_server: PrefectServer, ledger_url: str, tmp_path: Path, port: int, how: signal.Signals
) -> None:
    """Each with a name, an address and a health endpoint of its own; when the first is stopped or killed all end."""
    env = prefect_env(
        tmp_path / "prefect",
        PREFECT_API_URL=prefect_server.url,
        STANDBY_LEDGER_URL=ledger_url,
        STANDBY_HOME=str(tmp_path / "home"),
    )
    pool = f"several {uuid4().hex[:8]}"
    command = ["host", "--pool", pool, "--name", "twin", "--processes", "2", "--health-port", str(port)]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "standby", *command, env=env, cwd=AGENTS)
    try:
        one, other = await health_at(port), await health_at(port + 1)
        assert one["well"]
        assert other["well"]
        assert one["address"] != other["address"]
        children = psutil.Process(process.pid).children()
        named = [child.cmdline()[child.cmdline().index("--name") + 1] for child in children]
        assert sorted(named) == ["twin 1", "twin 2"]
        logs = [tmp_path / "home" / "logs" / f"host-{number}.log" for number in (1, 2)]
        await wait_until(lambda: all(f"Hosting the agents of {pool}" in log.read_text() for log in logs))
        process.send_signal(how)
        assert await asyncio.wait_for(process.wait(), WITHIN) == (0 if how is signal.SIGTERM else -how)
        if how is signal.SIGTERM:
            assert not [child for child in children if child.is_running()]
        await wait_until(lambda: not [child for child in children if child.is_running()])
    finally:
        with suppress(ProcessLookupError):
            process.terminate()  # killed, it would leave its children behind
        await process.wait()


async def test_what_drains_takes_its_time_and_what_it_has_started_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.01)
    script = (
        "import subprocess, sys; begun = subprocess.Popen(['sleep', '0.5'], stdin=subprocess.DEVNULL); "
        "print('begun', flush=True); sys.stdin.read(); print('drained', begun.wait(), flush=True)"
    )
    child = processes.Child(
        "drainer", [sys.executable, "-c", script], dict(os.environ), tmp_path / "log",
        report=lambda _: None, on_start=lambda: None, drains=True,
    )  # fmt: skip
    await child.start()
    await wait_until(lambda: child.tail() == "begun")
    await child.stop()
    assert child.tail() == "begun\ndrained 0"


async def test_the_host_of_standby_up_has_its_grace_and_then_the_time_that_every_child_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its grace is no promise if it is killed within it."""
    assert stack.stop_seconds({}) == 5 + processes.STOP_SECONDS
    assert stack.stop_seconds({"STANDBY_HOST_GRACE": "60"}) == 60 + processes.STOP_SECONDS
    with pytest.raises(UsageError, match="STANDBY_HOST_GRACE is a number of seconds, not 'long'"):
        stack.stop_seconds({"STANDBY_HOST_GRACE": "long"})
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.01)
    script = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), print('drained'), "
        "sys.exit())); print('begun', flush=True); signal.pause()"
    )
    child = processes.Child(
        "worker", [sys.executable, "-c", script], dict(os.environ), tmp_path / "log",
        report=lambda _: None, on_start=lambda: None, stop_seconds=WITHIN,
    )  # fmt: skip
    await child.start()
    await wait_until(lambda: child.tail() == "begun")
    await child.stop()
    assert child.tail() == "begun\ndrained"


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        ("STANDBY_HOST_GRACE", "10s"),
        ("STANDBY_HOST_GRACE", "-5"),
        ("STANDBY_HOST_GRACE", "inf"),
        ("STANDBY_GATEWAY_URL", "agents.example"),
        ("STANDBY_HOST_MEMORY", "abc"),
        ("STANDBY_HOST_MEMORY", "inf"),
        ("STANDBY_HOST_HEALTH_PORT", "99999"),
        ("STANDBY_PRICE_GIB_HOUR", "cheap"),
    ],
)
async def test_a_mistyped_setting_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, variable: str, told: str
) -> None:
    """By a host alone before it asks anything, by one of several processes before it starts any. At its end it would
    drain nothing."""
    monkeypatch.setenv(variable, told)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr(processes, "Child", lambda *_, **__: pytest.fail("it is started"))
    with pytest.raises(UsageError, match=f"{variable} is .*{told}"):
        await HostWorker(work_pool_name="pool").start()
    with pytest.raises(UsageError, match=f"{variable} is .*{told}"):
        await _several("pool", "host", None, 2, None)


def test_a_port_that_is_taken_is_named_at_the_start(tmp_path: Path) -> None:
    """By a host of several processes before it starts any, by one alone in the same words."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=f"Port {port} is taken by another program.*--health-port"):
            require_free(port, 2)
        with pytest.raises(UsageError, match=f"Port {port} is taken by another program.*--health-port"):
            asyncio.run(_serve(port))
        command = [sys.executable, "-m", "standby", "host", "--processes", "2", "--health-port", str(port)]
        env = {**os.environ, "STANDBY_HOME": str(tmp_path)}
        said = subprocess.run(command, capture_output=True, text=True, env=env, timeout=WITHIN, check=False)
    assert (said.returncode, said.stdout) == (1, "")
    assert f"Port {port} is taken" in said.stderr
    with pytest.raises(UsageError, match="leaves no ports for 2 processes"):
        require_free(65535, 2)


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("variable", "told", "error"),
    [
        ("STANDBY_PRICE_GIB_HOUR", "-1", "STANDBY_PRICE_GIB_HOUR is"),
        ("STANDBY_HOST_HEALTH_PORT", "{taken}", "Port {taken} is taken"),
    ],
)
def test_a_host_that_cannot_start_does_not_say_that_it_hosts(
    prefect_server: PrefectServer, ledger_url: str, tmp_path: Path, variable: str, told: str, error: str
) -> None:
    """A script that waits for the word would believe it."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        env = prefect_env(
            tmp_path / "prefect",
            PREFECT_API_URL=prefect_server.url,
            STANDBY_LEDGER_URL=ledger_url,
            STANDBY_HOME=str(tmp_path / "home"),
            **{variable: told.format(taken=taken)},
        )
        command = [sys.executable, "-m", "standby", "host", "--pool", f"none {uuid4().hex[:8]}"]
        said = subprocess.run(command, capture_output=True, text=True, env=env, cwd=AGENTS, timeout=WITHIN, check=False)
    assert (said.returncode, "Hosting" in said.stdout) == (1, False), said.stdout
    assert error.format(taken=taken) in said.stderr


async def _serve(port: int) -> None:
    host: Any = None
    async with Health(host, "127.0.0.1", port):
        pass


async def test_the_health_endpoint_says_how_a_host_stands() -> None:
    """200 while it is well, else 503, and the same body; anywhere else there is nothing."""
    following = SimpleNamespace(is_late=False, behind=3, lag=1.23456)
    host: Any = SimpleNamespace(
        open=True, leased=True, following=following, address="127.0.0.1:7",
        guests={
            str(phase): SimpleNamespace(phase=phase, queued=False)
            for phase in Phase if phase not in (Phase.WAKING, Phase.OVER)
        },
        slots=SimpleNamespace(waiting=1), intake=SimpleNamespace(unplaced=2),
    )  # fmt: skip
    async with Health(host, "127.0.0.1", 0) as health, httpx.AsyncClient() as client:
        well = await client.get(PLACE.format(health.port))
        assert well.status_code == 200
        assert well.json() == {
            "well": True, "running": 2, "warm": 1, "paused": 1, "waiting_for_a_turn": 3, "behind": 3,
            "lag_seconds": 1.235, "address": "127.0.0.1:7",
        }  # fmt: skip
        following.is_late = True
        late = await client.get(PLACE.format(health.port))
        assert (late.status_code, late.json()) == (503, well.json() | {"well": False})
        elsewhere = await client.get(f"http://127.0.0.1:{health.port}/")
        assert elsewhere.status_code == 404
