"""The terminal's commands around the gateway: ``standby gateway``, ``standby keys ...``, ``standby signals ...``."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Annotated

import typer
from rich.table import Table

from standby import clock, doors, settings, view
from standby.errors import UsageError
from standby.ports import require_free
from standby.states import Disposition, Role
from standby.tables import print_table
from standby.terminal import Json, escaped, name_of, open_ledger, out, perform, tell

GATEWAY_PORT = 4280
PORT_VARIABLE = "STANDBY_GATEWAY_PORT"

keys_app = typer.Typer(no_args_is_help=True, help="Keys of the gateway: who may send, see and answer.")
signals_app = typer.Typer(help="The signals that came, and what became of them.")


def gateway(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port to listen on.", envvar=PORT_VARIABLE)
    ] = GATEWAY_PORT,
) -> None:
    """The HTTP door: signals, webhooks and answers. Its pages are at /docs."""

    async def work() -> int:
        from standby.gateway.server import serve

        settings.gateway_url()  # refused now, not when a client asks for it
        async with open_ledger() as (ledger, place):
            require_free(host, port, f"Stop what listens there, or choose another: --port ({PORT_VARIABLE}).")
            out.print(f"Gateway on http://{host}:{port}, ledger {ledger.database.shown}. Ctrl-C stops.")
            await serve(ledger, place, host=host, port=port)
        return 0

    perform(work(), serves=True)


@keys_app.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="Who it is for. Stands in the audit.")],
    role: Annotated[Role, typer.Option(help="What it is for.")],
    party: Annotated[
        list[str] | None, typer.Option(help="An approver answers for this party only; may be given again.")
    ] = None,
    days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="Days until it expires; without it, never.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key. It is shown once."""

    async def work() -> int:
        from standby.gateway.keys import make_key

        name_of(name, "NAME")
        if party and role is not Role.APPROVER:
            raise UsageError(f"--party goes with --role approver: a key of the role {role} answers for no party.")
        expires_at = None if days is None else clock.utcnow() + timedelta(days=days)
        async with open_ledger() as (ledger, _):
            key, key_id = await make_key(ledger, name, role, parties=party, expires_at=expires_at)
        tell(
            as_json,
            {"id": key_id, "key": key, "name": name, "role": role},
            f"{key}\nThis is the only time it is shown. It lets {name} in as {role}.",
        )
        return 0

    perform(work(), as_json)


@keys_app.command("list")
def list_keys(as_json: Json = False) -> None:
    """The keys there are; not the keys themselves, which nobody has kept."""

    async def work() -> int:
        async with open_ledger() as (ledger, _):
            rows = await ledger.keys.all()
        now = clock.utcnow()
        found = [
            {
                "id": row.id,
                "name": row.name,
                "role": row.role,
                "parties": None if row.parties is None else json.loads(row.parties),
                "created_at": view.iso(row.created_at),
                "expires_at": view.iso(row.expires_at),
                "state": "revoked" if row.revoked_at else "expired" if row.expires_at and row.expires_at <= now
                else "good",
            }
            for row in rows
        ]  # fmt: skip
        if as_json:
            print(json.dumps(found, indent=2))
            return 0
        table = Table("id", "name", "role", "for", "state", box=None, pad_edge=False, header_style="bold")
        for key in found:
            parties = ", ".join(key["parties"]) if key["parties"] is not None else "everyone"
            table.add_row(key["id"][:8], escaped(key["name"]), key["role"], escaped(parties), key["state"])
        print_table(out, table if found else "There are no keys. `standby keys add NAME --role sender` makes one.")
        return 0

    perform(work(), as_json)


@keys_app.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(metavar="ID", help="The beginning of the key's id.")]) -> None:
    """Let nobody in with this key any more."""

    async def work() -> int:
        async with open_ledger() as (ledger, _):
            known = await ledger.keys.all()
            rows = [row for row in known if key_id and row.id.startswith(key_id)]
            if len(rows) > 1:
                raise UsageError(f"The ids of {len(rows)} keys begin with {key_id!r}. Give more of the one you mean.")
            if not rows:
                named = sorted(row.id[:8] for row in known if row.name == key_id and row.revoked_at is None)
                raise UsageError(
                    f"No key's id begins with {key_id!r}, and keys are revoked by their ids. "
                    + (f"Those of {key_id}: {', '.join(named)}." if named else "`standby keys list` shows them.")
                )
            revoked = await ledger.keys.revoke(rows[0].id)
        if not revoked:
            raise UsageError(f"The key {rows[0].id[:8]} of {rows[0].name} was revoked before.")
        out.print(escaped(f"The key of {rows[0].name} is revoked."))
        return 0

    perform(work())


@signals_app.callback(invoke_without_command=True)
def list_signals(
    context: typer.Context,
    dead: Annotated[bool, typer.Option("--dead", help="Only those that reached nobody.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 50,
    as_json: Json = False,
) -> None:
    """The signals that came last, and what became of each."""
    if context.invoked_subcommand is not None:
        return

    async def work() -> int:
        from standby.ledger.signals import DEAD

        async with open_ledger() as (ledger, _):
            rows = await ledger.signals.latest(DEAD if dead else None, limit)
        if as_json:
            print(json.dumps([view.signal_view(row) for row in rows], indent=2))
            return 0
        table = Table("id", "topic", "key", "from", "came", "became", "why", box=None, pad_edge=False,
                      header_style="bold")  # fmt: skip
        now = clock.utcnow()
        for row in rows:
            came = f"{view.age(max(0.0, (now - row.received_at).total_seconds()))} ago"
            table.add_row(row.id[:8], escaped(row.topic), escaped(row.correlation or ""), escaped(row.source), came,
                          row.disposition, escaped(row.note or ""))  # fmt: skip
        print_table(out, table if rows else "No such signal has come.")
        return 0

    perform(work(), as_json)


@signals_app.command("missed")
def missed(as_json: Json = False) -> None:
    """Of the conditions that came true, how many by a signal, and how many only because the source was asked."""

    async def work() -> int:
        async with open_ledger() as (ledger, _):
            rows = await ledger.signals.pushed_and_polled()
        if as_json:
            print(json.dumps([{"topic": topic, "pushed": pushed, "polled": polled} for topic, pushed, polled in rows]))
            return 0
        table = Table("topic", "pushed", "polled", box=None, pad_edge=False, header_style="bold")
        for topic, pushed, polled in rows:
            table.add_row(escaped(topic), str(pushed), str(polled))
        print_table(out, table if rows else "No condition has come true.")
        return 0

    perform(work(), as_json)


@signals_app.command("redrive")
def redrive(
    signal_id: Annotated[str, typer.Argument(metavar="ID", help="The beginning of a signal's id.")],
    as_json: Json = False,
) -> None:
    """Send a signal that came too late, fitted nothing or was refused on its way again."""

    async def work() -> int:
        async with open_ledger() as (ledger, place):
            rows = await ledger.signals.find(signal_id) if signal_id else []
            if len(rows) != 1:
                raise UsageError(f"{len(rows)} signals begin with {signal_id!r}. `standby signals` shows their ids.")
            made = await doors.redrive(ledger, rows[0].id, place.api_url)
        if made is None:
            raise UsageError(f"Signal {rows[0].id[:8]} is {rows[0].disposition}: only those that reached nobody are "
                             "sent again.")  # fmt: skip
        sentences = {
            Disposition.DELIVERED: f"Delivered to run {made.run_id}." if made.start is None else "It starts a run.",
            Disposition.BUFFERED: "No run waits for it: it is kept for seven days.",
            Disposition.REJECTED: f"Refused again. {made.said}",
        }
        tell(as_json, {"disposition": made.disposition, "run_id": made.run_id}, sentences[made.disposition])
        return 1 if made.disposition is Disposition.REJECTED else 0

    perform(work(), as_json)
