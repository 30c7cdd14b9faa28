"""The command of a work pool whose attempts are forked: asks the fork server for one, and stands in for it.

Run by its path, with ``python -I -S``, in twenty milliseconds; so it imports nothing but the standard library, and
little of that. Signals are passed on, the exit code is passed back, and when this process is killed, so is the attempt.
Where no fork server answers it becomes ``python -m prefect.engine`` itself.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from contextlib import suppress

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main() -> None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(os.environ.get("STANDBY_FORK_SERVER", ""))
    except OSError:
        be_engine()
    early: list[int] = []
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: early.append(number))
    request = json.dumps({"env": dict(os.environ), "cwd": os.getcwd()}).encode() + b"\n"
    try:
        sent = socket.send_fds(connection, [request], [1, 2])
        connection.sendall(request[sent:])
        answers = connection.makefile("r")
        pid = json.loads(answers.readline())["pid"]
    except (OSError, ValueError, KeyError):
        # It needs an interpreter of its own, or the fork server has died; should that have forked before, the ledger
        # lets one of the two work.
        be_engine()
    with suppress(ProcessLookupError):  # it may have ended already
        attempt = os.pidfd_open(pid)
        for number in PASSED_ON:
            signal.signal(number, lambda number, _: pass_on(attempt, number))
        for came in early:
            pass_on(attempt, came)
    try:
        code = json.loads(answers.readline())["code"]
    except (OSError, ValueError):
        # The fork server has died. The attempt kept the connection open to its end; how that was, the ledger knows.
        code = 0
    if code < 0:
        with suppress(OSError):  # SIGKILL has no handler to take away
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def pass_on(attempt: int, number: int) -> None:
    with suppress(ProcessLookupError):  # it may just have ended
        signal.pidfd_send_signal(attempt, number)


def be_engine() -> None:
    os.execv(sys.executable, [sys.executable, "-m", "prefect.engine"])


if __name__ == "__main__":
    main()
