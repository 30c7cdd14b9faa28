"""What the live table of ``standby up`` shows of its runs in the height that the terminal has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from standby.states import ENDED
from standby.tables import RunsTable, how_to_answer, questions_of

ERROR_LINES = 2
"""Lines of an error, which is told whole at the end."""


class Screen:
    """The runs (``view.runs_view``), those that ask something first, and below how to answer.

    How to answer is what people need most. Where the height is not enough for all, first the runs that have ended
    become a number, then what is waited for is cut, then only some of the runs are shown.
    """

    def __init__(self, runs: list[dict[str, Any]], *, starting: int = 0) -> None:
        self._asking = [run for run in runs if questions_of([run])]
        self._going = self._asking + [run for run in runs if run["state"] not in ENDED and run not in self._asking]
        self._ended = [run for run in runs if run["state"] in ENDED]
        self._starting = starting

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = options.size.height
        answers = self._answers(console, options, height)
        left = height - _height(answers, console, options)
        yield self._table(console, options, left)
        yield answers

    def _answers(self, console: Console, options: ConsoleOptions, height: int) -> Group:
        """As many as there is room for, beside one line for the runs."""
        for shown in range(min(len(self._asking), height), -1, -1):  # each takes a line at least
            lines = how_to_answer(self._asking[:shown], " in another terminal")
            more = len(questions_of(self._asking[shown:]))
            if more:
                lines.append(
                    _dim(f"{more} more {'asks' if more == 1 else 'ask'} something: `standby ps` shows how to answer.")
                )
            answers = Group(*([Text(""), *lines] if lines else []))
            if _height(answers, console, options) < height:
                break
        return answers

    def _table(self, console: Console, options: ConsoleOptions, height: int) -> RenderableType:
        for table in self._tables(height):
            if _height(table, console, options) <= height:
                break
        return table

    def _tables(self, height: int) -> Iterator[Group]:
        """From the fullest to the shortest."""
        going = min(len(self._going), height)  # each takes a line at least
        if len(self._going) + len(self._ended) <= height:
            yield Group(RunsTable([*self._going, *self._ended], error_lines=ERROR_LINES), *self._notes())
        yield from (self._of(going, lines) for lines in (None, 2, 1))
        yield from (self._of(shown, 1) for shown in range(going - 1, -1, -1))

    def _of(self, shown: int, lines: int | None) -> Group:
        """So many of the runs that have not ended, and the numbers of the others."""
        table = [RunsTable(self._going[:shown], lines=lines)] if shown else []
        counts = Counter(run["state"] for run in self._ended)
        more = len(self._going) - shown
        said = [f"{more} more going"] if more else []
        said += [f"{count} {state}" for state, count in sorted(counts.items())]
        return Group(*table, *([_dim(f"{', '.join(said)}.")] if said else []), *self._notes())

    def _notes(self) -> list[Text]:
        number = self._starting
        return [_dim(f"{number} more {'is' if number == 1 else 'are'} starting.")] if number else []


def _dim(text: str) -> Text:
    return Text(text, "dim", no_wrap=False, overflow="fold")


def _height(what: RenderableType, console: Console, options: ConsoleOptions) -> int:
    return len(console.render_lines(what, options, pad=False))
