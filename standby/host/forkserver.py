"""A process that has imported everything and forks for each attempt, which then starts in no time.

``python -m standby.host.forkserver`` listens on the Unix socket that ``STANDBY_FORK_SERVER`` names. A request is one
line of JSON, ``{"env": {...}, "cwd": "..."}``, with standard output and error as descriptors. The answers are
``{"pid": 4711}`` when the attempt has started and ``{"code": -9}`` when it has ended. It is killed when the connection
is closed before that. An attempt does what ``python -m prefect.engine`` does, in a process of its own, and ends as
Python ends. Forking is safe because nothing of Prefect is used before it: there is no thread, connection or event loop.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

PRELOADED = (
    "prefect.flow_engine", "prefect.task_engine", "prefect.flow_runs", "prefect.deployments.steps.core",
    "prefect._internal.metrics", "standby.flows", "standby.parking", "standby.steps", "standby.waiting",
    "aiosqlite", "asyncpg", "sqlalchemy.dialects.postgresql.asyncpg", "sqlalchemy.dialects.sqlite.aiosqlite",
    # What Prefect imports on the way.
    "anyio._backends._asyncio", "encodings.idna", "prefect.utilities.visualization", "pydantic.v1", "rich._emoji_codes",
)  # fmt: skip

INTERPRETER = ("PYTHON", "LD_", "VIRTUAL_ENV")
"""Variables that Python looks at when it starts: with other ones an attempt needs an interpreter of its own."""


class Order(NamedTuple):
    """An attempt to start: its environment, its working folder, and where its output goes.

    ``fits``: whether it can do with what was imported here; else it needs an interpreter of its own.
    """

    env: dict[str, str]
    cwd: str
    out: int
    err: int
    fits: bool


def preload() -> None:
    """Import all that attempts need. Raises ``RuntimeError`` if something started a thread, which a fork would lose."""
    for name in PRELOADED:
        importlib.import_module(name)
    if threading.enumerate() != [threading.main_thread()]:
        raise RuntimeError(f"It is not safe to fork: {threading.enumerate()}")
    gc.freeze()


def be_attempt(order: Order) -> None:
    """Turn this freshly forked process into the attempt, to its end."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, source in ((0, nothing), (1, order.out), (2, order.err)):
        os.dup2(source, descriptor)
    os.closerange(3, 4096)
    os.chdir(order.cwd)
    os.environ.clear()
    os.environ.update(order.env)
    if not order.fits:
        os.execv(sys.executable, [sys.executable, "-m", "prefect.engine"])
    sys.path[0] = order.cwd
    run_engine()


def run_engine() -> None:
    """What ``python -m prefect.engine`` does."""
    sys.argv = ["prefect.engine"]
    with warnings.catch_warnings():
        # With -m, too, prefect.engine is imported a second time under its own name; there it comes after the start.
        warnings.filterwarnings("ignore", "'prefect.engine' found in sys.modules", RuntimeWarning)
        runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


def _fits(env: Mapping[str, str]) -> bool:
    """Whether an attempt with this environment can do with what was imported under ours."""
    if _of(env, *INTERPRETER) != _of(os.environ, *INTERPRETER):
        return False
    theirs = _prefect_settings_of(env)
    return theirs == _prefect_settings_of(os.environ) or _same_settings(tuple(sorted(theirs.items())))


def _of(env: Mapping[str, str], *beginnings: str) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(beginnings)}


def _prefect_settings_of(env: Mapping[str, str]) -> dict[str, str]:
    # With two underscores they are no settings: the run's id, and the like.
    return {name: value for name, value in _of(env, "PREFECT_").items() if not name.startswith("PREFECT__")}


@lru_cache(maxsize=32)
def _same_settings(theirs: tuple[tuple[str, str], ...]) -> bool:
    """Whether these variables come to the same settings, however they are written; a worker spells them its own way."""
    from prefect.settings import Settings, get_current_settings

    ours = _prefect_settings_of(os.environ)
    mine = get_current_settings().model_dump()
    try:
        for name in ours:
            del os.environ[name]
        os.environ.update(dict(theirs))
        return bool(Settings().model_dump() == mine)
    except ValueError:
        return False  # a setting that Prefect refuses: the attempt says so itself
    finally:
        for name, _ in theirs:
            os.environ.pop(name, None)
        os.environ.update(ours)


class ForkServer:
    """Listens, forks, and tells who asked how it went."""

    def __init__(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        if os.path.exists(path):
            os.unlink(path)  # of one that was killed
        self._listener.bind(path)
        self._listener.listen(64)
        self._listener.setblocking(False)
        self._ended, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._selector.register(self._ended, selectors.EVENT_READ, None)
        self._running: dict[int, socket.socket] = {}

    def serve(self) -> Order:
        """Fork for each request, for ever. Returns in the forked processes: what each of them is to be."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    connection, _ = self._listener.accept()
                    connection.settimeout(10)
                    self._selector.register(connection, selectors.EVENT_READ, None)
                elif key.fileobj == self._ended:
                    os.read(self._ended, 1024)
                    self._report_ended()
                elif (order := self._heard(key.fileobj)) is not None:
                    return order

    def _heard(self, connection: Any) -> Order | None:
        """A request, or the end of a connection. The order, in the process that was forked for it."""
        pid = next((pid for pid, asked in self._running.items() if asked is connection), None)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)  # who asked is gone, and it is not reaped yet
            self._selector.unregister(connection)
            return None
        try:
            order = _read(connection)
        except (OSError, ValueError, KeyError) as error:
            print(f"A request was not understood: {error}", file=sys.stderr, flush=True)
            self._forget(connection)
            return None
        pid = os.fork()
        if pid == 0:
            self._leave()
            return order
        os.close(order.out)
        os.close(order.err)
        self._running[pid] = connection
        _say(connection, {"pid": pid})
        return None

    def _leave(self) -> None:
        """In a forked process: give up all that is the fork server's.

        Closed as objects: one that still thought it had its descriptor would close what gets that number later.
        """
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        for connection in self._running.values():
            connection.close()
        self._selector.close()

    def _report_ended(self) -> None:
        for pid in list(self._running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                connection = self._running.pop(pid)
                _say(connection, {"code": os.waitstatus_to_exitcode(status)})
                self._forget(connection)

    def _forget(self, connection: socket.socket) -> None:
        with suppress(KeyError):
            self._selector.unregister(connection)
        connection.close()


def _read(connection: socket.socket) -> Order:
    data, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 2)
    try:
        while not data.endswith(b"\n"):
            if not (more := connection.recv(1 << 20)):
                raise ValueError("it ends in the middle")
            data += more
        request = json.loads(data)
        out, err = descriptors
        return Order(request["env"], request["cwd"], out, err, _fits(request["env"]))
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def _say(connection: socket.socket, what: dict[str, int]) -> None:
    with suppress(OSError):  # nobody may listen any more
        connection.sendall(json.dumps(what).encode() + b"\n")


def main() -> None:
    path = os.environ["STANDBY_FORK_SERVER"]
    preload()
    be_attempt(ForkServer(path).serve())


if __name__ == "__main__":
    main()
