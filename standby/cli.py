"""The terminal: ``standby up | ps | show | approve | reject | answer | links | signal | doctor | keeper``, and more."""

from __future__ import annotations

import getpass
import json
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer
from rich.table import Table

from standby import doors, topics, view
from standby.agents.transcript import as_markdown
from standby.cancelling import cancelled
from standby.cli_answers import answer, approve, links, reject
from standby.cli_costs import costs
from standby.cli_delegations import delegations_app
from standby.cli_gateway import GATEWAY_PORT, PORT_VARIABLE, gateway, keys_app, signals_app
from standby.cli_host import host
from standby.connect import answers, open_prefect
from standby.errors import UnknownRun, UsageError
from standby.ledger import Ledger
from standby.states import ENDED, Disposition, RunState, Verdict
from standby.tables import ITS_TURN, asked, plain, print_table, questions_of, runs_table
from standby.terminal import Json, err, escaped, name_of, no_answer, open_ledger, out, own_words, perform, tell
from standby.waits.showing import program

if TYPE_CHECKING:
    from standby.ledger.signals import Delivery
    from standby.starts import ToStart

PREFECT_PORT = 4200

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="AI agents that wait: see them, answer them, run them.",
)
RunTarget = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's or its wait's id (its beginning will do), or a run's name.")
]

app.add_typer(keys_app, name="keys")
app.add_typer(signals_app, name="signals")
app.add_typer(delegations_app, name="delegations")
for answering in (approve, reject, answer, links):
    app.command()(answering)
app.command()(gateway)
app.command()(host)
app.command()(costs)


@app.command()
def ps(
    all: Annotated[bool, typer.Option("--all", "-a", help="Also runs that have ended.")] = False, as_json: Json = False
) -> None:
    """Who is waiting, for what, since when."""

    async def work() -> int:
        async with open_ledger() as (ledger, place):
            runs = await view.runs_view(ledger, place, ended=all)
        if as_json:
            print(json.dumps(runs, indent=2))
        elif runs:
            away = bool(questions_of(runs)) and place.api_url is not None and not await answers(place.api_url)
            print_table(out, runs_table([{**run, "ui": None} for run in runs] if away else runs))
            if away:
                out.print(escaped(f"Prefect at {place.api_url} does not answer, so there are no pages to answer on."))
        else:
            out.print("No agent is running or waiting here.")
        return 0

    perform(work(), as_json)


@app.command()
def show(run: RunTarget, as_json: Json = False) -> None:
    """One run: what its agents thought and did, its checkpoints, its waits, and who decided what."""

    async def work() -> int:
        async with open_ledger() as (ledger, place):
            row = await _one_run(ledger, run)
            found = await view.run_view(ledger, place, row)
        if as_json:
            print(json.dumps(found, indent=2))
        else:
            _print_run(found)
        return 0

    perform(work(), as_json)


@app.command()
def cancel(run: RunTarget, as_json: Json = False) -> None:
    """Cancel a run, also one that was deleted in Prefect: its waits are closed, and it does nothing more."""

    async def work() -> int:
        async with open_ledger() as (ledger, place):
            row = await _one_run(ledger, run)
            with own_words():
                said = await cancelled(ledger, row, getpass.getuser(), place.api_url)
        tell(as_json, {"cancelled": True, "run_id": row.id, "said": said}, f"Run {row.name} {said}.")
        return 0

    perform(work(), as_json)


@app.command()
def signal(
    topic: str,
    payload: Annotated[str, typer.Argument(metavar="[JSON]")] = "null",
    key: Annotated[
        str | None, typer.Option(help="The correlation key, such as an order number; of agent.stop the run.")
    ] = None,
    delivery: Annotated[
        str | None, typer.Option("--id", help="Delivery id: the same one again changes nothing.")
    ] = None,
    source: Annotated[str, typer.Option(help="Who sends it.")] = "terminal",
    start: Annotated[
        str | None, typer.Option(help="flow/deployment of the agent to start if no living run has the topic and key.")
    ] = None,
    payload_as: Annotated[str | None, typer.Option(help="With --start: the parameter that is the payload.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="With --start: a parameter, name=value. The value is JSON, or text."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Send a signal to the run that waits for this topic and key, or keep it for the one that will.

    With --start, begin that run if there is none.
    """

    async def work() -> int:
        names = {"The topic": topic, "--key": key, "--id": delivery, "--source": source}
        for what, name in names.items():
            if name is not None:
                name_of(name, what)
        async with open_ledger() as (ledger, place):
            meant = key if topic != topics.STOP else await _to_stop(ledger, key, (source, delivery))
            with own_words():
                made = await doors.signal(
                    ledger, topic=topic, key=meant, payload=payload, source=source, delivery_id=delivery,
                    api_url=place.api_url, start=_to_start(start, payload_as),
                )  # fmt: skip
        started = f"Run {made.run_id} is started with it." if made.run_id else "A run will be started with it."
        sentences = {
            Disposition.DELIVERED: f"Delivered to run {made.run_id}.",
            Disposition.BUFFERED: f"No run waits for it yet, {_under(key)}: it is kept for seven days."
            if topic != topics.STOP
            else f"The agent stops before its next model request; until then this is kept, {_under(meant)}.",
            Disposition.DUPLICATE: f"This delivery was taken before{_became(made)}; nothing changed."
            if made.first is not Disposition.REJECTED
            else f"This delivery was refused before: {made.said}. Send it under a new --id.",
            Disposition.LATE: "Too late: its wait was settled or closed, or its run has ended.",
            Disposition.REJECTED: f"Refused, the run is still waiting. {made.said}",
        }
        tell(
            as_json,
            {"disposition": made.disposition, "signal_id": made.signal_id,
             "wait_id": made.wait_id, "run_id": made.run_id, "starts": made.start is not None,
             "first": made.first, "problems": made.problems},
            started if made.start is not None and made.first is None else sentences[made.disposition],
        )  # fmt: skip
        not_done = (Disposition.REJECTED, Disposition.LATE)
        return 1 if made.disposition in not_done or made.first is Disposition.REJECTED else 0

    perform(work(), as_json)


@app.command()
def doctor(
    all: Annotated[bool, typer.Option("--all", "-a", help="Ask Prefect about all runs that ever ended.")] = False,
    as_json: Json = False,
) -> None:
    """Look for what must not be: in the ledger, and between it and Prefect. Exit code 1 if anything is found.

    Of the runs that have ended it asks Prefect about those of the last day, and those whose end Prefect has not been
    seen to know."""

    async def work() -> int:
        from contextlib import AsyncExitStack

        import httpx

        from standby.doctor import audit

        async with open_ledger() as (ledger, place), AsyncExitStack() as stack:
            client = await stack.enter_async_context(open_prefect(place.api_url)) if place.api_url else None
            try:
                findings = await audit(ledger, client, all_ends=all)
            except httpx.HTTPError as error:
                raise ConnectionError(no_answer(error)) from error
        if as_json:
            print(json.dumps([finding._asdict() for finding in findings], indent=2))
        elif findings:
            for finding in findings:
                whose = f"Run {finding.run_id} " if finding.run_id else ""
                out.print(f"{whose}{escaped(finding.problem)}. {escaped(finding.remedy)}")
        else:
            out.print("All is well.")
        return 1 if findings else 0

    perform(work(), as_json)


@app.command()
def keeper() -> None:
    """Keep watch beside stock workers: fire deadlines, rescue runs whose process died, wake what was missed."""

    async def work() -> int:
        import logging

        from standby.keeper import Keeper

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        logging.getLogger("httpx").setLevel(logging.WARNING)
        async with open_ledger() as (ledger, place):
            if place.api_url is None:
                raise ConnectionError("No Prefect server is known. Set PREFECT_API_URL, or start `standby up`.")
            api_url = place.api_url
            out.print(f"Keeping watch over {ledger.database.shown} and {api_url}. Ctrl-C stops.")
            await Keeper(ledger, lambda: open_prefect(api_url)).run()
        return 0

    perform(work(), serves=True)


@app.command()
def up(
    port: Annotated[int, typer.Option(help="Port of the Prefect server.", min=1, max=65535)] = PREFECT_PORT,
    gateway_port: Annotated[
        int, typer.Option(help="Port of the gateway.", envvar=PORT_VARIABLE, min=1, max=65535)
    ] = GATEWAY_PORT,
    demo: Annotated[bool, typer.Option(help="Start the project's demo, and stop when it is done.")] = False,
    answer: Annotated[str | None, typer.Option(help="With --demo: answer every question, approve or reject.")] = None,
    by_make: Annotated[bool, typer.Option(hidden=True, help="It was `make run` that was typed.")] = False,
) -> None:
    """Start everything on this machine: Prefect server, ledger, worker, keeper, gateway, the project's processes."""
    if answer not in (None, "approve", "reject"):
        err.print(f"[red]--answer is approve or reject, not {escaped(repr(answer))}.[/red]")
        raise typer.Exit(2)
    if answer is not None and not demo:
        err.print("[red]--answer goes with --demo: without it, questions are answered one by one.[/red]")
        raise typer.Exit(2)
    from standby.up.stack import Typed, run_stack

    if by_make:
        again = "make run" if port == PREFECT_PORT else f"make run PORT={port}"
        typed = Typed(again, "make run PORT={}", PORT_VARIABLE + "={} make run")
    else:
        again = f"{program()} up{' --demo' if demo else ''}"
        again += f" --port {port}" if port != PREFECT_PORT else ""
        told = gateway_port == GATEWAY_PORT or PORT_VARIABLE in os.environ
        again += "" if told else f" --gateway-port {gateway_port}"
        typed = Typed(again, "standby up --port {}", "standby up --gateway-port {}")
    perform(run_stack(port=port, gateway_port=gateway_port, demo=demo, auto_answer=answer, typed=typed))


def _became(made: Delivery) -> str:
    """What became of the first signal of a delivery, as the end of a sentence."""
    if made.first is Disposition.DELIVERED and made.run_id is not None:
        return f", and was delivered to run {made.run_id}"
    return {
        Disposition.BUFFERED: ", and is kept",
        Disposition.LATE: ", and was too late",
        Disposition.UNMATCHED: ", and no run asked for it",
    }.get(made.first or Disposition.DUPLICATE, "")


def _under(key: str | None) -> str:
    return "without a key" if key is None else f"under the key {key}"


def _to_start(deployment: str | None, payload_as: str | None) -> ToStart | None:
    if deployment is None:
        if payload_as is not None:
            raise UsageError("--payload-as goes with --start.")
        return None
    from pydantic import ValidationError

    from standby.starts import ToStart

    try:
        return ToStart(deployment=deployment, payload_as=payload_as)
    except ValidationError:
        raise UsageError(f"--start is flow/deployment, not {deployment!r}.") from None


async def _one_run(ledger: Ledger, target: str) -> Any:
    if not target:
        raise UnknownRun("''")
    found = {run.id: run for run in await ledger.runs.find(target)}
    for wait in await ledger.waits.find(target):
        if wait.run_id not in found and (run := await ledger.runs.get(wait.run_id)) is not None:
            found[run.id] = run
    if not found:
        raise UnknownRun(target)
    if len(found) > 1:
        listed = ", ".join(f"{run.id} ({run.name})" for run in found.values())
        raise UnknownRun(target, f"it could be any of {listed}")
    return found.popitem()[1]


async def _to_stop(ledger: Ledger, target: str | None, delivery: tuple[str, str | None]) -> str:
    """The id of the run whose agents are to stop. Nobody takes a stop for a run that is over, or for none; but one that
    was sent before (``delivery``, its source and id) is known to have been. A run may have yet to begin."""
    if target is None:
        raise UsageError(
            "A stop needs the run that it stops: --key with its id (the beginning will do) or its name. `standby ps` "
            "lists them."
        )
    try:
        run = await _one_run(ledger, target)
    except UnknownRun:
        with suppress(ValueError):
            return str(UUID(target))
        raise
    if RunState(run.state) in ENDED and not await ledger.signals.is_taken(*delivery):
        raise UsageError(
            f"Run {run.name} has ended: it is {run.state}, and nothing is left to stop. `standby ps` lists the runs "
            "that have not."
        )
    return str(run.id)


def _print_run(run: dict[str, Any]) -> None:
    from standby.markdown import print_markdown

    state = f"[bold]{run['state']}[/bold]{f', waits for {ITS_TURN}' if run['state'] == RunState.READY else ''}"
    out.print(f"[bold]{escaped(run['flow'])}[/bold] {escaped(run['name'])}  {run['run_id']}  {state}")
    if run["ui"]:
        out.print(run["ui"])
    if run["error"]:
        out.print(f"[red]{escaped(run['error'])}[/red]")
    if run["result"] is not None:
        out.print_json(plain(json.dumps(run["result"], ensure_ascii=False)))
    steps = Table("checkpoint", "kind", "state", box=None, pad_edge=False, header_style="bold")
    for entry in run["checkpoints"]:
        steps.add_row(escaped(entry["key"]), entry["kind"], entry["state"])
    print_table(out, steps)
    for thread in run["agents"]:
        print_markdown(out, as_markdown(thread))
    for wait in run["waits"]:
        deadline = f", until {view.moment(wait['deadline'])}" if wait["deadline"] else ""
        out.print(f"\n[bold]{escaped(asked(wait))}[/bold]  {wait['state']}, {view.age(wait['age_seconds'])}{deadline}")
        if wait["refused"]:
            out.print(f"[red]The last answer was refused: {escaped(wait['refused'])}[/red]")
        if wait["evidence"]:
            print_markdown(out, wait["evidence"])
        if wait["state"] == "open" and wait["command"]:
            fields = ", ".join(wait["form"].get("properties", {}))
            out.print(escaped(f"{wait['command']}    fields: {fields}" if fields else wait["command"]))
    for decision in run["decisions"]:
        who = f"{decision['actor']} ({decision['door']})" if decision["actor"] else decision["door"]
        said = f"{decision['verdict']}  {escaped(decision['key'] or '')}  {escaped(who)}"
        why = f": {decision['note']}" if decision["note"] and decision["verdict"] == Verdict.REFUSED else ""
        out.print(f"{view.moment(decision['at'])}  {said}  {escaped(json.dumps(decision['answer']) + why)}")


def main() -> None:
    try:
        app()
    except BrokenPipeError:
        sys.exit(141)
