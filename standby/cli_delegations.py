"""The terminal's commands about who decides in whose place: ``standby delegations ...``."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Annotated

import typer
from rich.table import Table

from standby import clock, view
from standby.errors import UsageError
from standby.tables import print_table
from standby.terminal import Json, escaped, name_of, open_ledger, out, perform

delegations_app = typer.Typer(help="Who decides in whose place, where a policy names who may.")


@delegations_app.callback(invoke_without_command=True)
def list_delegations(context: typer.Context, as_json: Json = False) -> None:
    """The delegations there are."""
    if context.invoked_subcommand is not None:
        return

    async def work() -> int:
        async with open_ledger() as (ledger, _):
            rows = await ledger.delegations.all()
        now = clock.utcnow()
        found = [
            {"from": row.giver, "to": row.taker, "until": view.iso(row.until),
             "in_force": row.until is None or row.until > now}
            for row in rows
        ]  # fmt: skip
        if as_json:
            print(json.dumps(found, indent=2))
            return 0
        table = Table("from", "to", "until", box=None, pad_edge=False, header_style="bold")
        for one in found:
            until = one["until"] or "it is ended"
            table.add_row(escaped(one["from"]), escaped(one["to"]), until if one["in_force"] else f"{until} (over)")
        print_table(out, table if found else "Nobody decides in the place of another.")
        return 0

    perform(work(), as_json)


@delegations_app.command("add")
def add(
    giver: Annotated[str, typer.Argument(metavar="FROM", help="Who is away.")],
    taker: Annotated[str, typer.Argument(metavar="TO", help="Who decides in their place.")],
    days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="Days until it ends; without it, when it is ended.")
    ] = None,
) -> None:
    """Let somebody decide in the place of another. An earlier delegation of theirs ends."""

    async def work() -> int:
        name_of(giver, "FROM")
        name_of(taker, "TO")
        if giver == taker:
            raise UsageError(f"{giver!r} cannot delegate to {taker!r}: give two different names.")
        until = None if days is None else clock.utcnow() + timedelta(days=days)
        async with open_ledger() as (ledger, _):
            await ledger.delegations.give(giver, taker, until)
        limit = "" if until is None else f" until {view.iso(until)}"
        out.print(escaped(f"{taker} decides in the place of {giver}{limit}."))
        return 0

    perform(work())


@delegations_app.command("end")
def end(giver: Annotated[str, typer.Argument(metavar="FROM", help="Who is back.")]) -> None:
    """Nobody decides in their place any more."""

    async def work() -> int:
        async with open_ledger() as (ledger, _):
            ended = await ledger.delegations.end(giver)
        if not ended:
            raise UsageError(f"{giver} has delegated to nobody. `standby delegations` lists who has.")
        out.print(escaped(f"{giver} decides alone again."))
        return 0

    perform(work())
