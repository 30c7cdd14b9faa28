"""Starts processes without seconds of imports each: a process that has imported everything, and forks for each.

A fork is a process of its own that runs a module as ``python -m MODULE ARGUMENT...`` does, and ends as Python ends.
Nothing has been used before the fork: there is no thread, connection or event loop.

Its arguments are the Unix socket to listen on and the modules to import. It listens in the background, and ends with
the last connection. A connection sends one order per line: ``{"order": 1, "command": ["MODULE", "ARGUMENT"],
"env": {...}, "cwd": "...", "log": "...", "errors": "...", "plain": false, "service": false, "trace": null}``. ``env``
is all of its environment. ``plain`` executes a fresh interpreter instead. A ``service`` leads a session of its own, is
named after its module, and has Prefect read its settings anew. ``trace`` names a file that gets a line for every crash
point that the fork comes by. The answers are ``{"order": 1, "pid": 4711}`` when it has started and
``{"order": 1, "code": -9}`` when it has ended. The end of a connection kills what is left of its own.

`standby up` starts its children the same way: from a fork that was made of it before it did anything.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
import warnings
from contextlib import suppress
from typing import Any

ALONE_SECONDS = 60
"""How long it waits for its first connection."""


class Engine:
    """``lets_live``: what it has started outlives the connection that asked for it."""

    def __init__(self, listener: socket.socket | None = None, *, lets_live: bool = False) -> None:
        self._listener, self._lets_live = listener, lets_live
        self._selector = selectors.DefaultSelector()
        if listener is not None:
            self._selector.register(listener, selectors.EVENT_READ)
        self._woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._unread: dict[socket.socket, bytes] = {}
        self._running: dict[int, tuple[socket.socket, int]] = {}

    def listen_to(self, connection: socket.socket) -> None:
        self._unread[connection] = b""
        self._selector.register(connection, selectors.EVENT_READ)

    def serve(self) -> dict[str, Any] | None:
        """Fork for every order. Returns None when nobody is connected any more; in each forked process its order."""
        while ready := self._selector.select(None if self._unread else ALONE_SECONDS):
            for key, _ in ready:
                if key.fileobj == self._woken:
                    os.read(self._woken, 1024)
                    self._report_ended()
                elif key.fileobj is self._listener:
                    assert self._listener is not None
                    self.listen_to(self._listener.accept()[0])
                elif (order := self._heard(key.fileobj)) is not None:
                    return order
            if not self._unread:
                break
        return None

    def _heard(self, connection: Any) -> dict[str, Any] | None:
        read = b""
        with suppress(ConnectionError):
            read = connection.recv(65536)
        if not read:
            self._forget(connection)
            return None
        *lines, self._unread[connection] = (self._unread[connection] + read).split(b"\n")
        for line in lines:
            order: dict[str, Any] = json.loads(line)
            pid = os.fork()
            if pid == 0:
                self._leave()
                return order
            self._running[pid] = connection, order["order"]
            say(connection, {"order": order["order"], "pid": pid})
        return None

    def _leave(self) -> None:
        """In a forked process: give up all that is the engine's.

        Closed as objects: one that still thought it had its descriptor would close what gets that number later.
        """
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for one in (*self._unread, self._listener):
            if one is not None:
                one.close()
        self._selector.close()

    def _forget(self, connection: socket.socket) -> None:
        if not self._lets_live:
            for pid, (asked, _) in self._running.items():
                if asked is connection:
                    os.kill(pid, signal.SIGKILL)
        del self._unread[connection]
        self._selector.unregister(connection)
        connection.close()

    def _report_ended(self) -> None:
        for pid in list(self._running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                connection, number = self._running.pop(pid)
                say(connection, {"order": number, "code": os.waitstatus_to_exitcode(status)})


def say(connection: socket.socket, what: dict[str, Any]) -> None:
    with suppress(OSError):  # nobody listens any more
        connection.sendall(json.dumps(what).encode() + b"\n")


def be_the_fork(order: dict[str, Any]) -> None:
    log, errors = (os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for name in ("log", "errors"))
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, source in ((0, nothing), (1, log), (2, errors)):
        os.dup2(source, descriptor)
    os.closerange(3, 1024)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    if order["service"]:
        os.setsid()
    module, *arguments = order["command"]
    sys.path[0] = order["cwd"]
    if order["plain"] or importlib.util.find_spec(module) is None:  # Python itself says that there is none
        os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
    if order["trace"] is not None:
        trace(order["trace"])
    sys.argv = [module, *arguments]
    if order["service"]:
        be_a_service(module, arguments)
    elif order["command"][:2] == ["standby", "up"] and (child := start_children_from_here()) is not None:
        be_the_fork(child)
        return
    with warnings.catch_warnings():
        # With -m, too, prefect.engine is imported a second time under its own name; there it comes after the start.
        warnings.filterwarnings("ignore", ".* found in sys.modules", RuntimeWarning)
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def be_a_service(module: str, arguments: list[str]) -> None:
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()
    name = arguments[0] if module == "standby" else module.rpartition(".")[2]
    with open("/proc/self/comm", "w") as comm:
        comm.write(name[:15])


def start_children_from_here() -> dict[str, Any] | None:
    """In the process of `standby up`: have its children forked from what it is now. In each of them: its order."""
    from tests.support.nursery import bring_up_children

    ours, theirs = socket.socketpair()
    if os.fork():
        theirs.close()
        bring_up_children(ours)
        return None
    ours.close()
    engine = Engine(lets_live=True)
    engine.listen_to(theirs)
    order = engine.serve()
    if order is None:
        os._exit(0)
    return order


def trace(path: str) -> None:
    from standby import faults

    def note(point: str) -> None:
        with open(path, "a") as file:
            file.write(point + "\n")

    faults.set_hook(note)


def main(path: str, *modules: str) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    if os.fork():
        os._exit(0)  # who waits for us can connect now
    os.setsid()
    gc.disable()  # a fifth of the time of imports
    for name in modules:
        importlib.import_module(name)
    importlib.import_module("standby.host.forkserver").make_ready()
    assert threading.enumerate() == [threading.main_thread()], f"not safe to fork: {threading.enumerate()}"
    gc.freeze()
    gc.enable()
    order = Engine(listener).serve()
    if order is None:
        os.unlink(path)
    else:
        be_the_fork(order)


if __name__ == "__main__":
    main(*sys.argv[1:])
