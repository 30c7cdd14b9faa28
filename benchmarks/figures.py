"""What a benchmark reports: figures, and what it could not measure; as a table, or as one JSON line each."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.table import Table


@dataclass(frozen=True, slots=True)
class Against:
    """The same figure of what Standby is compared with; the ratio is ours over theirs, none where theirs is 0.

    A figure that is compared with several is reported once for each.
    """

    name: str
    value: float
    ratio: float | None


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number.

    ``value`` is the median over blocks, ``min`` and ``max`` the lowest and highest block; ``n`` counts the single
    operations behind it. ``database`` is the ledger's. ``against`` was measured in the same run.
    """

    benchmark: str
    figure: str
    value: float
    unit: str
    n: int
    min: float
    max: float
    database: str
    against: Against | None = None

    def beside(self, name: str, value: float) -> Figure:
        return replace(self, against=Against(name, value, self.value / value if value else None))

    def as_json(self) -> str:
        return json.dumps(_rounded(asdict(self)))


@dataclass(frozen=True, slots=True)
class Skipped:
    """A database that could not be measured here, and why."""

    benchmark: str
    database: str
    skipped: str

    def as_json(self) -> str:
        return json.dumps(asdict(self))


def of_blocks(
    benchmark: str, figure: str, database: str, blocks: Sequence[float], *, n: int, unit: str = "ms"
) -> Figure:
    """A figure from the value of each block, in ``unit``."""
    return Figure(benchmark, figure, statistics.median(blocks), unit, n, min(blocks), max(blocks), database)


def from_json(line: str) -> Figure | Skipped:
    fields: dict[str, Any] = json.loads(line)
    if "skipped" in fields:
        return Skipped(**fields)
    peer = fields.pop("against")
    return Figure(**fields, against=Against(**peer) if peer else None)


def table(title: str, figures: Sequence[Figure]) -> Table:
    shown = Table(title=title, title_justify="left")
    for heading in ("figure", "ledger", "median", "min", "max", "n", "against"):
        shown.add_column(heading, justify="left" if heading in ("figure", "ledger", "against") else "right")
    rows: dict[tuple[str, str], list[Figure]] = {}
    for item in figures:
        rows.setdefault((item.figure, item.database), []).append(item)
    for (figure, database), [item, *more] in rows.items():
        shown.add_row(
            figure,
            database,
            f"{_shown(item.value)} {item.unit}".rstrip(),
            _shown(item.min),
            _shown(item.max),
            f"{item.n:,}",
            "\n".join(
                f"{peer.name}: {_shown(peer.value)} {item.unit}".rstrip()
                for peer in (compared.against for compared in (item, *more))
                if peer is not None
            ),
        )
    return shown


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:.3g}"


def _rounded(value: Any) -> Any:
    """Five significant digits: more is noise."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value
