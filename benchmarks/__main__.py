"""``python -m benchmarks`` lists the benchmarks; ``python -m benchmarks NAME [--json]`` runs one.

Starts a Prefect server, and a child process that measures against it and prints a JSON line for each figure.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys

from rich.console import Console

from benchmarks import comparing, hold
from benchmarks.figures import Figure, Skipped, from_json, table
from benchmarks.server import data_folder, prefect_server

BENCHMARKS = {
    "agent": "what durability costs an agent that thinks",
    "checkpoint": "what a completed step costs",
    "replay": "what a recorded step costs a second attempt",
    "signals": "what taking a signal in costs",
    "hold": "what the hold policy costs beside the best linger (computed, without a server)",
    "deadlines": "how late deadlines fire when many are due at once",
    "wake": "how long an agent that waits takes from its answer to its next line",
    "start": "how long a new run takes to its first line",
    "parked": "what a parked agent holds of memory",
    "storm": "how long many answers at once take until the last agent runs",
    "recover": "how long agents stand still whose host was killed",
}

WITH_HOSTS = ("wake", "start", "parked", "storm", "recover")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Standby beside stock Prefect.")
    parser.add_argument("name", nargs="?", choices=BENCHMARKS, help="which one; without it they are listed")
    parser.add_argument("--json", action="store_true", help="one JSON line for each figure")
    parser.add_argument("--quick", action="store_true", help="fewer of each, in about a minute; for the last five")
    chosen = parser.parse_args()
    if chosen.name is None:
        for name, what in BENCHMARKS.items():
            print(f"{name:12}{what}")
        return
    # Ended from outside, it still stops its server and deletes its data.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if chosen.name == hold.NAME:
        _compute_hold(as_json=chosen.json)
        return
    if chosen.quick:
        os.environ["BENCHMARK_QUICK"] = "1"
    sys.exit(_run(chosen.name, as_json=chosen.json))


def _compute_hold(*, as_json: bool) -> None:
    found = []
    for cost in hold.costs():
        found.append(cost)
        if as_json:
            print(cost.as_json(), flush=True)
    if not as_json:
        for shown in hold.table(found):
            _console().print(shown)


def _console() -> Console:
    """Piped somewhere, a table keeps its lines."""
    return Console() if sys.stdout.isatty() else Console(width=160)


def _run(name: str, *, as_json: bool) -> int:
    figures: list[Figure] = []
    if name in comparing.BENCHMARKS and (missing := comparing.missing()):
        print(missing, file=sys.stderr)
    with data_folder() as folder, prefect_server(folder, as_up_does=name in WITH_HOSTS) as environment:
        child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.measuring", name, str(folder)],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        try:
            for line in child.stdout:
                reported = from_json(line)
                if as_json:
                    print(line, end="", flush=True)
                elif isinstance(reported, Skipped):
                    print(f"Skipped on {reported.database}: {reported.skipped}", file=sys.stderr)
                else:
                    figures.append(reported)
        finally:
            if child.poll() is None and sys.exc_info()[0] is not None:
                child.send_signal(signal.SIGINT)  # it drops its databases
            failed = child.wait()
    if figures:
        _console().print(table(f"{name}: {BENCHMARKS[name]}", figures))
    return failed


if __name__ == "__main__":
    main()
