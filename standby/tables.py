"""Runs as people see them in a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from standby import view
from standby.states import RunState, WaitKind


def runs_table(runs: list[dict[str, Any]]) -> RenderableType:
    """Each run (``view.runs_view``), its step, what it waits for and for how long; below, how to answer."""
    table = Table(header_style="bold", box=None, pad_edge=False)
    table.add_column("run", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("step", no_wrap=True)
    table.add_column("waits for", overflow="fold")
    table.add_column("for", justify="right", no_wrap=True)
    for run in runs:
        wait = run["wait"]
        more = len(run["waits"]) - 1
        awaited = f"{wait['reason']}{f' (+{more} more)' if more else ''}" if wait else run["error"] or ""
        age = view.age(wait["age_seconds"]) if wait else ""
        table.add_row(
            Text(plain(run["name"])),
            state_text(run["state"]),
            Text(plain(run["step"] or "")),
            Text(plain(awaited)),
            age,
        )
    asked = [(run, wait) for run in runs for wait in run["waits"] if wait["kind"] == WaitKind.APPROVAL]
    if not asked:
        return table
    how = Table.grid(padding=(0, 2))
    for run, wait in asked:
        how.add_row(
            Text(plain(run["name"]), no_wrap=True),
            Text(plain(wait["command"]), no_wrap=True),
            Text(run["ui"] or "", overflow="fold"),
        )
    return Group(table, Text("\nTo answer, type in another terminal, or open the run and press Resume:"), how)


def state_text(state: str) -> Text:
    colours = {RunState.PARKED: "yellow", RunState.COMPLETED: "green", RunState.FAILED: "red"}
    return Text(state, style=colours.get(RunState(state), ""))


def plain(text: str) -> str:
    """Text from elsewhere without control characters, which a terminal would obey."""
    return "".join(char for char in text if char.isprintable() or char == "\n")
