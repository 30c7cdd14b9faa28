"""The terminal's ``standby costs``: what waiting has cost, and what other ways to hold the runs would have cost."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.table import Table

from standby import clock, settings, view
from standby.costs import costs_view
from standby.tables import print_table
from standby.terminal import Json, escaped, open_ledger, out, perform

WAYS = ("pause", "suspend", "warm 5 s", "warm 1 min", "warm 15 min", "warm for ever", "learnt", "foreseen")


def costs(
    days: Annotated[int, typer.Option(help="Waits that opened in the last so many days.", min=1)] = 30,
    as_json: Json = False,
) -> None:
    """What waiting has cost, by agent and kind of wait, and what holding the runs in other ways would have cost."""

    async def work() -> int:
        prices = settings.prices()
        now = clock.utcnow()
        async with open_ledger() as (ledger, _):
            found = costs_view(await ledger.holds.waited(now - timedelta(days=days)), prices, now)
        if as_json:
            print(json.dumps(found, indent=2))
        elif found:
            print_table(out, _table(found))
            print_table(out, _ways(found))
            out.print(
                f"In the currency of the prices: {prices.gib_hour:g} for a GiB held for an hour, {prices.cpu_second:g} "
                f"for a CPU second, {prices.waiting_second:g} for a second that somebody waits. The second table takes "
                f"{settings.PAUSED_GIB * 2**10:g} MiB for a paused process and {settings.WARM_GIB * 2**20:g} KiB "
                "for a warm run, and nothing in the way of any: the cost above has whatever a run waited for after its "
                "answer, also a paused pool, a full host or a Prefect server that was away. Warm is only what shares a "
                "host's process."
            )
        else:
            out.print(f"No agent has waited here in the last {days} days.")
        return 0

    perform(work(), as_json)


def _table(found: list[dict[str, Any]]) -> Table:
    table = _headed("agent", "kind", "waits", "p50", "p90", "held", "GiB hours", "wake p50", "cost")
    for one in found:
        held = ", ".join(f"{count} {hold.replace('_', ' ')}" for hold, count in one["held"].items())
        table.add_row(
            escaped(one["agent"]),
            one["kind"],
            f"{one['waits']} ({one['open']} open)" if one["open"] else str(one["waits"]),
            _span(one["p50_seconds"]),
            _span(one["p90_seconds"]),
            held,
            _number(one["gib_hours"]),
            _span(one["wake_p50_seconds"]),
            _number(one["cost"]),
        )
    return table


def _ways(found: list[dict[str, Any]]) -> Table:
    title = "\nWould have cost (compare these with each other, not with the cost above)"
    table = _headed("agent", "kind", *WAYS, title=title)
    for one in found:
        cells = [_number(one["would_cost"][way]) for way in WAYS]
        table.add_row(escaped(one["agent"]), one["kind"], *cells)
    return table


def _headed(*headings: str, title: str | None = None) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("agent", "kind", "held") else "right")
    return table


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.3g}"


def _span(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.2g} s" if seconds < 10 else view.age(seconds)
