"""Markdown for a terminal or a pipe, with nothing of it left out: people approve what they read here."""

from __future__ import annotations

from typing import ClassVar

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Markdown, MarkdownElement, TableElement
from rich.table import Table
from rich.text import Text

from standby.tables import plain

CELL = 8
"""Columns that a cell of a table has at least: a table of many goes on in the terminal's next line."""


class _WholeTable(TableElement):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        cells = len(self.header.row.cells) if self.header is not None and self.header.row is not None else 0
        wide = options.update(width=max(options.max_width, CELL * cells))
        for table in super().__rich_console__(console, wide):
            assert isinstance(table, Table)
            yield from console.render(table, wide)


class _Whole(Markdown):
    """Where a link leads is told, and what would be HTML or an image elsewhere is text."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {**Markdown.elements, "table_open": _WholeTable}

    def __init__(self, text: str) -> None:
        super().__init__(text, hyperlinks=False)
        reader = MarkdownIt(options_update={"html": False}).enable(["strikethrough", "table"]).disable("image")
        self.parsed = reader.parse(text)


def print_markdown(console: Console, text: str) -> None:
    """Text from elsewhere, as wide as the console is; into a pipe or a file without the blanks that fill lines up."""
    whole = _Whole(plain(text))
    if console.is_terminal:
        # With soft_wrap rich lets text run on, and cuts off what stands in a block.
        console.print(whole, soft_wrap=False, crop=False)
        return
    for line in "".join(segment.text for segment in console.render(whole)).splitlines():
        console.print(Text(line.rstrip()), soft_wrap=True)
