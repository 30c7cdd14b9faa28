"""A process that has imported everything and forks for each attempt, which then starts in no time.

``python -m standby.host.forkserver`` listens on the Unix socket that ``STANDBY_FORK_SERVER`` names. A request is one
line of JSON, ``{"env": {...}, "cwd": "..."}``, with standard output and error as descriptors. The answers are
``{"pid": 4711}`` when the attempt has started and ``{"code": -9}`` when it has ended, or ``{"own": true}`` for one that
needs an interpreter of its own. An attempt does what ``python -m prefect.engine`` does, in a process of its own, and
ends as Python ends; it dies with whoever asked for it. Forking is safe because nothing of Prefect is used before it:
there is no thread, connection or event loop.
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
from time import monotonic
from typing import Any, NamedTuple

from pydantic import BaseModel

PRELOADED = (
    "prefect.flow_engine", "prefect.task_engine", "prefect.flow_runs", "prefect.deployments.steps.core",
    "prefect._internal.metrics", "standby.flows", "standby.parking", "standby.steps", "standby.waiting",
    "aiosqlite", "asyncpg", "sqlalchemy.dialects.postgresql.asyncpg", "sqlalchemy.dialects.sqlite.aiosqlite",
    # What Prefect imports on the way.
    "anyio._backends._asyncio", "encodings.idna", "prefect.utilities.visualization", "pydantic.v1", "rich._emoji_codes",
)  # fmt: skip

INTERPRETER = ("PYTHON", "LD_", "VIRTUAL_ENV")
"""Variables that Python looks at when it starts: with other ones an attempt needs an interpreter of its own."""


CONFIGURATION = ("prefect.toml", "pyproject.toml", ".env")
"""Files that Prefect looks for in the working folder when it is imported."""

REQUEST_SECONDS = 2.0
"""How long a request may take to arrive; meanwhile no other attempt is started."""


class Order(NamedTuple):
    """An attempt to start: its environment, its working folder, where its output goes, and who asked for it."""

    env: dict[str, str]
    cwd: str
    out: int
    err: int
    asked: socket.socket


def preload() -> None:
    """Import all that attempts need. Raises ``RuntimeError`` if something started a thread, which a fork would lose."""
    gc.disable()  # there is no garbage in imports, and to look for it takes a fifth of their time
    for name in PRELOADED:
        importlib.import_module(name)
    make_ready()
    if threading.enumerate() != [threading.main_thread()]:
        raise RuntimeError(f"It is not safe to fork: {threading.enumerate()}")
    gc.freeze()
    gc.enable()


def make_ready() -> None:
    """Do what each process would do at its first use of what is imported, a fifth of the time that an attempt takes."""
    from standby.ledger import compile_statements

    compile_statements()
    for model in _subclasses_of(BaseModel):
        if not model.__pydantic_complete__:  # Prefect has them built when they are used
            model.model_rebuild(raise_errors=False)


def _subclasses_of(kind: type[BaseModel]) -> set[type[BaseModel]]:
    found: set[type[BaseModel]] = set()
    for one in kind.__subclasses__():
        found |= {one} | _subclasses_of(one)
    return found


def be_attempt(order: Order) -> None:
    """Turn this freshly forked process into the attempt, to its end."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, source in ((0, nothing), (1, order.out), (2, order.err)):
        os.dup2(source, descriptor)
    asked = order.asked.fileno()
    os.closerange(3, asked)
    os.closerange(asked + 1, 4096)
    threading.Thread(target=_die_with, args=(order.asked,), name="asked", daemon=True).start()
    os.chdir(order.cwd)
    os.environ.clear()
    os.environ.update(order.env)
    sys.path[0] = order.cwd
    run_engine()


def _die_with(asked: socket.socket) -> None:
    """Who asked stands in for the attempt: when a worker kills that, it means this, also if the fork server is gone."""
    with suppress(OSError):
        asked.settimeout(None)
        asked.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


def run_engine() -> None:
    """What ``python -m prefect.engine`` does."""
    sys.argv = ["prefect.engine"]
    with warnings.catch_warnings():
        # With -m, too, prefect.engine is imported a second time under its own name; there it comes after the start.
        warnings.filterwarnings("ignore", "'prefect.engine' found in sys.modules", RuntimeWarning)
        runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


def _fits(env: Mapping[str, str], cwd: str) -> bool:
    """Whether an attempt with this environment and working folder can do with what was imported under ours."""
    if cwd != os.getcwd() and any(os.path.exists(os.path.join(cwd, name)) for name in CONFIGURATION):
        return False
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
                    self._accept()
                elif key.fileobj == self._ended:
                    os.read(self._ended, 1024)
                    self._report_ended()
                elif (order := self._heard(key.fileobj)) is not None:
                    return order

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            self._complain(error)
            return
        self._selector.register(connection, selectors.EVENT_READ, None)

    def _heard(self, connection: Any) -> Order | None:
        """A request, or the end of a connection. The order, in the process that was forked for it."""
        if connection in self._running.values():
            self._selector.unregister(connection)  # who asked is gone; its attempt has seen it, too
            return None
        try:
            order = _read(connection)
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._complain(error)
            self._forget(connection)
            return None
        pid = None
        try:
            if _fits(order.env, order.cwd):
                pid = os.fork()
                if pid == 0:
                    self._leave(order.asked)
                    return order
        except OSError as error:
            self._complain(error)
        os.close(order.out)
        os.close(order.err)
        if pid is None:
            _say(connection, {"own": True})
            self._forget(connection)
        else:
            self._running[pid] = connection
            _say(connection, {"pid": pid})
        return None

    def _complain(self, error: Exception) -> None:
        print(f"An attempt was not forked: {type(error).__name__}: {error}", file=sys.stderr, flush=True)

    def _leave(self, asked: socket.socket) -> None:
        """In a forked process: give up all that is the fork server's, but not the connection of who asked.

        Closed as objects: one that still thought it had its descriptor would close what gets that number later.
        """
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        mine = [key.fileobj for key in self._selector.get_map().values()]
        for one in {*mine, *self._running.values()}:
            if isinstance(one, socket.socket) and one is not asked:
                one.close()
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
    """A request. Raises ``OSError`` (also when it takes too long), ``ValueError``, ``KeyError`` or ``TypeError``."""
    deadline = monotonic() + REQUEST_SECONDS
    connection.settimeout(REQUEST_SECONDS)
    data, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 2)
    try:
        while not data.endswith(b"\n"):
            connection.settimeout(max(0.001, deadline - monotonic()))
            if not (more := connection.recv(1 << 20)):
                raise ValueError("the request ends in the middle")
            data += more
        request = json.loads(data)
        out, err = descriptors
        return Order(dict(request["env"]), str(request["cwd"]), out, err, connection)
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def _say(connection: socket.socket, what: dict[str, Any]) -> None:
    with suppress(OSError):  # nobody may listen any more
        connection.sendall(json.dumps(what).encode() + b"\n")


def main() -> None:
    path = os.environ["STANDBY_FORK_SERVER"]
    preload()
    be_attempt(ForkServer(path).serve())


if __name__ == "__main__":
    main()
