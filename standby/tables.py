"""Runs as people see them in a terminal."""

from __future__ import annotations

from typing import Any, NamedTuple

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from standby import view
from standby.states import RunState, WaitKind, WaitState
from standby.values import one_line

EACH = "once for each person, with their name; Prefect's form cannot tell who answers"
"""What stands beside the command where it matters who answers."""

ITS_TURN = "its turn to go on"
"""What a run waits for that has its answer: its host, its process or a worker takes it up."""

NARROW = 40
"""What is waited for stands below its run where beside it there are fewer columns than this."""

LONGEST_ERROR = 600
"""Characters of what a run has failed with, beside the other runs."""

_COLUMNS = ("run", "state", "step", "for")
_GAP = 2
_WIDEST = 1_000_000


class _Row(NamedTuple):
    run: str
    state: Text
    step: str
    awaited: str
    age: str
    lines: int | None  # that what is waited for takes at most

    def cells(self) -> tuple[Text, Text, Text, Text]:
        return Text(self.run), self.state, Text(self.step), Text(self.age)


class RunsTable:
    """Each run (``view.runs_view``), its step, what it waits for and for how long, as wide as it is let.

    ``lines``: how many of them what is waited for takes at most, by default as many as it needs; ``error_lines``: what
    a run has failed with. Of that no more than ``LONGEST_ERROR`` is shown: ``standby show`` has the whole.
    """

    def __init__(self, runs: list[dict[str, Any]], *, lines: int | None = None, error_lines: int | None = None) -> None:
        self._rows = [_row(run, lines, error_lines) for run in runs]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        beside = options.max_width - sum(self._widths) - _GAP * len(_COLUMNS)
        yield self._beside() if beside >= NARROW else self._below()

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self._beside())

    @property
    def _widths(self) -> list[int]:
        """Of the other columns, in cells."""
        rows = [[Text(name) for name in _COLUMNS], *map(_Row.cells, self._rows)]
        return [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]

    def _beside(self) -> Table:
        table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
        for column in ("run", "state", "step"):
            table.add_column(column, no_wrap=True)
        table.add_column("waits for", overflow="fold")
        table.add_column("for", justify="right", no_wrap=True)
        for row in self._rows:
            table.add_row(Text(row.run), row.state, Text(row.step), _Cut(row.awaited, row.lines), row.age)
        return table

    def _below(self) -> Group:
        parts: list[RenderableType] = []
        heads, widths = _Row("run", Text("state"), "step", "", "for", None), self._widths
        for row in (heads, *self._rows):
            line = Text(" " * _GAP).join(map(_filled, row.cells(), widths))
            line.rstrip()
            line.stylize("bold" if row is heads else "")
            parts.append(_folding(line))
            if row.awaited:
                parts.append(_Cut(row.awaited, row.lines, indent=_GAP))
        return Group(*parts)


class _Cut:
    """Text in at most so many lines: what does not fit is cut, and ends in an ellipsis."""

    def __init__(self, text: str, lines: int | None, indent: int = 0) -> None:
        self._text, self._lines, self._indent = Text(text), lines, indent

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(1, options.max_width - self._indent)
        lines = list(self._text.wrap(console, width, overflow="fold", no_wrap=False))
        if self._lines is not None and len(lines) > self._lines:
            del lines[self._lines :]
            lines[-1].truncate(width - 1, overflow="crop")
            lines[-1].append("…")
        for line in lines:
            line.pad_left(self._indent)
            yield line

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self._text)


def _filled(text: Text, width: int) -> Text:
    text = text.copy()
    text.pad_right(width - text.cell_len)
    return text


def _row(run: dict[str, Any], lines: int | None, error_lines: int | None) -> _Row:
    ready = run["state"] == RunState.READY
    wait = None if ready else run["wait"]
    more = len(run["waits"]) - 1
    awaited = f"{asked(wait)}{f' (+{more} more)' if more else ''}" if wait else one_line(run["error"], LONGEST_ERROR)
    if ready:
        awaited = ITS_TURN
    return _Row(
        in_one_line(run["name"]),
        state_text(run["state"]),
        in_one_line(run["step"] or ""),
        in_one_line(awaited),
        view.age(wait["age_seconds"]) if wait else "",
        lines if wait else error_lines,
    )


def how_to_answer(runs: list[dict[str, Any]], type_where: str = "") -> list[Text]:
    """For each question that these runs ask, the command that answers it and the run's page, below a line that says so,
    and in words ``type_where``. Nothing of it is cut, however narrow the terminal is: it is there to be copied."""
    questions = questions_of(runs)
    if not questions:
        return []
    pages = any(run["ui"] and wait["decided_by"] is None for run, wait in questions)
    or_there = ", or open the address and press Resume" if pages else ""
    return [_folding(Text(f"To answer, type{type_where}{or_there}:")), *(_answer_to(*one) for one in questions)]


def questions_of(runs: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The open approvals of these runs, each with its run."""
    return [(run, wait) for run in runs for wait in run["waits"] if wait["kind"] == WaitKind.APPROVAL]


def _answer_to(run: dict[str, Any], wait: dict[str, Any]) -> Text:
    said = Text(f"{in_one_line(run['name'])}: {plain(wait['command'])}")
    if there := beside(run, wait):
        page = run["ui"] is not None and wait["decided_by"] is None
        # A terminal that knows links opens the whole address, also where it does not fit in one line.
        said.append("\n  ").append(plain(there), f"link {there}" if page else "")
    return _folding(said)


def _folding(text: Text) -> Text:
    text.no_wrap, text.overflow = False, "fold"
    return text


def runs_table(runs: list[dict[str, Any]], type_where: str = "") -> RenderableType:
    """Each run, and below how to answer what it asks."""
    answers = how_to_answer(runs, type_where)
    return Group(RunsTable(runs), *([Text(""), *answers] if answers else []))


def print_table(console: Console, table: RenderableType) -> None:
    """Into a pipe or a file it is as wide as it wants to be, so that each of its rows is one line. In a terminal what a
    column has no room for goes on in the next line."""
    if isinstance(table, Table):
        for column in table.columns:
            column.overflow = "fold"
    if console.is_terminal:
        console.print(table)
        return
    options = console.options.update(max_width=_WIDEST)
    options = options.update(width=Measurement.get(console, options, table).maximum)
    for line in console.render_lines(table, options, pad=False):
        console.print(Text("".join(segment.text for segment in line).rstrip()), soft_wrap=True)


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
    return run["ui"] or "" if wait["decided_by"] is None else EACH


def state_text(state: str) -> Text:
    colours = {RunState.PARKED: "yellow", RunState.COMPLETED: "green", RunState.FAILED: "red"}
    return Text(state, style=colours.get(RunState(state), ""))


def in_one_line(text: str) -> str:
    """Text from elsewhere, whole, in one line."""
    return plain(" ".join(text.split()))


def plain(text: str) -> str:
    """Text from elsewhere without control characters, which a terminal would obey."""
    return "".join(char for char in text if char.isprintable() or char == "\n")
