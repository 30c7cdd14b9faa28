"""Starts processes without two seconds of imports each: a process that has imported everything, and forks for each.

A fork is a process of its own that runs a module as ``python -m MODULE ARGUMENT...`` does, and ends as Python ends.
Nothing has been used before the fork: there is no thread, connection or event loop.

Its arguments are the modules to import; without any, those of an attempt (the module ``prefect.engine``). One order per
line on stdin: ``{"order": 1, "command": ["MODULE", "ARGUMENT"], "env": {...}, "cwd": "...", "log": "...",
"errors": "...", "plain": false, "trace": null}``. ``env`` is added to this process's; a variable that is null is taken
away. ``plain`` executes a fresh interpreter instead; ``trace`` names a file that gets a line for every crash point that
the fork comes by. On stdout ``{"order": 1, "pid": 4711}`` says that it started, ``{"order": 1, "code": -9}`` that it
ended. The end of stdin kills those that are left.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import sys
import threading
import warnings
from typing import Any

IMPORTS = (
    "prefect.flow_engine", "prefect.task_engine", "prefect.flow_runs", "prefect.deployments.steps.core",
    "prefect._internal.metrics", "standby.flows", "standby.parking", "standby.steps", "standby.waiting",
    "aiosqlite", "asyncpg", "sqlalchemy.dialects.postgresql.asyncpg", "sqlalchemy.dialects.sqlite.aiosqlite",
    # What Prefect imports on the way.
    "anyio._backends._asyncio", "encodings.idna", "prefect.utilities.visualization", "pydantic.v1", "rich._emoji_codes",
)  # fmt: skip


def serve() -> dict[str, Any] | None:
    """Fork for every order. Returns None when stdin has ended, and in each forked process its order."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, int] = {}
    rest = b""
    while True:
        readable, _, _ = select.select([0, woken], [], [])
        if woken in readable:
            os.read(woken, 1024)
            report_ended(running)
        if 0 not in readable:
            continue
        read = os.read(0, 65536)
        if not read:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
            return None
        *lines, rest = (rest + read).split(b"\n")
        for line in lines:
            order = json.loads(line)
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                return order
            running[pid] = order["order"]
            say({"order": order["order"], "pid": pid})


def report_ended(running: dict[int, int]) -> None:
    for pid in list(running):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            say({"order": running.pop(pid), "code": os.waitstatus_to_exitcode(status)})


def say(what: dict[str, Any]) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def be_the_fork(order: dict[str, Any]) -> None:
    log, errors = (os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for name in ("log", "errors"))
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, source in ((0, nothing), (1, log), (2, errors)):
        os.dup2(source, descriptor)
    os.closerange(3, 1024)
    os.chdir(order["cwd"])
    for name, value in order["env"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if order["plain"]:
        os.execv(sys.executable, [sys.executable, "-m", *order["command"]])
    if order["trace"] is not None:
        trace(order["trace"])
    module, *arguments = order["command"]
    sys.argv = [module, *arguments]
    with warnings.catch_warnings():
        # With -m, too, prefect.engine is imported a second time under its own name; there it comes after the start.
        warnings.filterwarnings("ignore", ".* found in sys.modules", RuntimeWarning)
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def trace(path: str) -> None:
    from standby import faults

    def note(point: str) -> None:
        with open(path, "a") as file:
            file.write(point + "\n")

    faults.set_hook(note)


if __name__ == "__main__":
    gc.disable()  # a fifth of the time of imports
    for name in sys.argv[1:] or IMPORTS:
        importlib.import_module(name)
    assert threading.enumerate() == [threading.main_thread()], f"not safe to fork: {threading.enumerate()}"
    gc.freeze()
    gc.enable()
    mine = serve()
    if mine is not None:
        be_the_fork(mine)
