"""Runs as people see them in a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from standby import view
from standby.states import RunState, WaitKind, WaitState
from standby.values import one_line


def runs_table(runs: list[dict[str, Any]], type_where: str = "") -> RenderableType:
    """Each run (``view.runs_view``), its step, what it waits for and for how long; below, how to answer, and in words
    ``type_where``."""
    table = Table(header_style="bold", box=None, pad_edge=False)
    table.add_column("run", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("step", no_wrap=True)
    table.add_column("waits for", overflow="fold")
    table.add_column("for", justify="right", no_wrap=True)
    for run in runs:
        wait = run["wait"]
        more = len(run["waits"]) - 1
        awaited = f"{asked(wait)}{f' (+{more} more)' if more else ''}" if wait else run["error"] or ""
        age = view.age(wait["age_seconds"]) if wait else ""
        table.add_row(
            Text(plain(run["name"])),
            state_text(run["state"]),
            Text(plain(run["step"] or "")),
            Text(plain(awaited)),
            age,
        )
    questions = [(run, wait) for run in runs for wait in run["waits"] if wait["kind"] == WaitKind.APPROVAL]
    if not questions:
        return table
    # To be copied: nothing is cut, however narrow the terminal is.
    how = [
        Text(plain(f"{run['name']}: {wait['command']}\n  {beside(run, wait)}".rstrip()), overflow="fold")
        for run, wait in questions
    ]
    pages = any(run["ui"] and wait["decided_by"] is None for run, wait in questions)
    or_there = ", or open the address and press Resume" if pages else ""
    return Group(table, Text(f"\nTo answer, type{type_where}{or_there}:"), *how)


def asked(wait: dict[str, Any]) -> str:
    """What is waited for (``view.wait_view``), who decides it where that matters, who has so far, what was refused, and
    why its source could not be asked at its last poll."""
    said = str(wait["reason"])
    if wait["decided_by"] is not None:
        so_far = f"; so far: {', '.join(wait['so_far'])}" if wait["so_far"] and wait["state"] == WaitState.OPEN else ""
        said += f" ({wait['decided_by']}{so_far})"
    if wait["refused"]:
        said += f"; the last answer was refused: {wait['refused']}"
    if wait["poll_failed"] and wait["state"] == WaitState.OPEN:
        said += f"; the last poll failed: {one_line(wait['poll_failed'])}"
    return said


def beside(run: dict[str, Any], wait: dict[str, Any]) -> str:
    """What stands beside the command: the run's page, or why its form takes no answer."""
    return run["ui"] or "" if wait["decided_by"] is None else "each under a name of their own; Prefect asks for none"


def state_text(state: str) -> Text:
    colours = {RunState.PARKED: "yellow", RunState.COMPLETED: "green", RunState.FAILED: "red"}
    return Text(state, style=colours.get(RunState(state), ""))


def plain(text: str) -> str:
    """Text from elsewhere without control characters, which a terminal would obey."""
    return "".join(char for char in text if char.isprintable() or char == "\n")
