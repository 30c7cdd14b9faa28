"""The processes that `standby up` starts: what is said of one that stops while the rest is still starting."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from standby.cli import app
from standby.errors import UsageError
from standby.up import stack
from standby.up.processes import Child
from tests.support.ports import reserved_port
from tests.support.waiting import wait_until

TYPED = stack.Typed("make run", "make run PORT={}", "GATEWAY={}")


@asynccontextmanager
async def started(code: str, log: Path, report: Callable[[str], None], **how: bool) -> AsyncIterator[Child]:
    child = Child("bank", [sys.executable, "-c", code], dict(os.environ), log, report=report, on_start=lambda: None,
                  **how)  # fmt: skip
    await child.start()
    try:
        yield child
    finally:
        await child.stop()


async def test_one_that_stops_at_once_is_told_of_by_who_starts_it_and_not_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    log = tmp_path / "bank.log"
    log.write_text("Port 4242 is in use: at an earlier start\n")
    async with started("print('no')", log, said.append, kept=False) as child:
        await wait_until(lambda: child.ended, 30)
        assert (said, child.tail()) == ([], "no")
        child.keep()
        await wait_until(lambda: log.read_text().count("no\n") >= 2, 30)
    assert said[0].startswith("The bank stopped (exit code 0) and is started again.")


async def test_a_second_ctrl_c_kills_what_has_not_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had a day."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STANDBY_HOME", str(tmp_path / "home"))
    log = tmp_path / "worker.log"
    code = (
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('told', flush=True))\n"
        "print('begun', flush=True)\n"
        "while True: time.sleep(60)"
    )
    child = Child("worker", [sys.executable, "-c", code], dict(os.environ), log, report=lambda _: None,
                  on_start=lambda: None, stop_seconds=86_400)  # fmt: skip

    async def none(*, ended: bool) -> list[object]:
        return []

    async def start(cleanup: AsyncExitStack, children: list[Child], *_: object) -> SimpleNamespace:
        children.append(child)
        cleanup.push_async_callback(child.stop)
        await child.start()
        await wait_until(lambda: "begun" in child.tail(), 30)
        ledger = SimpleNamespace(runs=SimpleNamespace(all=none), database=SimpleNamespace(shown=""))
        return SimpleNamespace(ledger=ledger, ui_url="", api_url="")

    async def attend(_stack: object, _board: object, stop: asyncio.Event, **_: object) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        await stop.wait()
        return 0

    monkeypatch.setattr(stack, "_start", start)
    monkeypatch.setattr(stack, "_attend", attend)
    monkeypatch.setattr(stack, "require_free", lambda *_: None)
    up = asyncio.create_task(stack.run_stack(port=1, gateway_port=2, demo=False, auto_answer=None, typed=TYPED))
    await wait_until(lambda: up.done() or (log.exists() and "told" in child.tail()), 60)
    os.kill(os.getpid(), signal.SIGINT)
    try:
        async with asyncio.timeout(30):
            assert await up == 0
    finally:
        child.end()


async def test_two_of_them_on_one_port_are_found_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STANDBY_HOME", str(tmp_path / "home"))
    port, free = reserved_port()
    with free, pytest.raises(UsageError) as refused:
        await stack.run_stack(port=port, gateway_port=port, demo=False, auto_answer=None, typed=TYPED)
    assert f"The Prefect server and the gateway cannot both listen on port {port}." in str(refused.value)


async def test_a_port_that_is_taken_is_said_with_what_to_type_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STANDBY_HOME", str(tmp_path / "home"))
    (port, taken), (other, free) = reserved_port(), reserved_port()
    with taken, free:
        taken.listen()
        for ports, remedy in (((port, other), f"make run PORT={port + 1}"), ((other, port), f"GATEWAY={port + 1}")):
            with pytest.raises(UsageError) as refused:
                await stack.run_stack(port=ports[0], gateway_port=ports[1], demo=False, auto_answer=None, typed=TYPED)
            assert str(refused.value) == f"Port {port} is taken by another program. Choose another: {remedy}"


@pytest.mark.parametrize(
    ("arguments", "again", "port", "gateway_port"),
    [
        (["--by-make", "--demo"], "make run", "make run PORT={}", "STANDBY_GATEWAY_PORT={} make run"),
        (["--by-make", "--demo", "--port", "4310"], "make run PORT=4310", "make run PORT={}",
         "STANDBY_GATEWAY_PORT={} make run"),
        ([], "standby up", "standby up --port {}", "standby up --gateway-port {}"),
        (["--demo", "--port", "4310", "--gateway-port", "4311"], "standby up --demo --port 4310 --gateway-port 4311",
         "standby up --port {}", "standby up --gateway-port {}"),
    ],
)  # fmt: skip
def test_what_is_advised_is_what_was_typed(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], again: str, port: str, gateway_port: str
) -> None:
    told: list[stack.Typed] = []

    async def run_stack(*, typed: stack.Typed, **_: object) -> int:
        told.append(typed)
        return 0

    monkeypatch.setattr(stack, "run_stack", run_stack)
    assert CliRunner().invoke(app, ["up", *arguments]).exit_code == 0
    [typed] = told
    assert (typed.again.rpartition("/")[2], typed.port, typed.gateway_port) == (again, port, gateway_port)


def test_of_what_a_bootstrap_says_notes_are_for_people() -> None:
    assert stack.notes_in("Block a/b is there.\nNote: Agents pay elsewhere.\nDone.\n") == ["Agents pay elsewhere."]
