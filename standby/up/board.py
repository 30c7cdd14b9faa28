"""What ``standby up`` shows of its runs while they go on, live or in lines; then the receipts."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from standby import doors, view
from standby.connect import Place
from standby.errors import AnswerRefused, NotAllowed
from standby.ledger import Ledger
from standby.policy import Policy
from standby.states import ENDED, Door, WaitKind
from standby.tables import asked, beside, in_one_line, plain, print_table, state_text
from standby.up.screen import Screen

REFRESH_SECONDS = 0.5


class Board:
    def __init__(self, ledger: Ledger, ui_url: str, api_url: str, console: Console) -> None:
        self._ledger, self._console = ledger, console
        self._place = Place(ledger.database.shown, api_url)
        self._told: set[tuple[str, str]] = set()
        self._alive: set[str] = set()
        self._refused: set[tuple[str, str]] = set()

    async def show(
        self, stop: asyncio.Event, *, run_ids: list[str] | None = None, auto_answer: str | None = None
    ) -> bool:
        """Show the runs until told to stop (False), or until all of ``run_ids`` have ended (True)."""
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while not stop.is_set():
                runs = await view.runs_view(self._ledger, self._place, ended=run_ids is not None)
                if run_ids is not None:
                    runs = [run for run in runs if run["run_id"] in run_ids]
                if self._console.is_terminal:
                    live.update(self._screen(runs, run_ids), refresh=True)
                else:
                    self._tell(runs, answerable=auto_answer is None)
                    await self._tell_ends(runs)
                if auto_answer is not None:
                    await self._answer(runs, approve=auto_answer == "approve")
                if run_ids is not None and len(runs) == len(run_ids) and all(run["state"] in ENDED for run in runs):
                    return True
                try:
                    async with asyncio.timeout(REFRESH_SECONDS):
                        await stop.wait()
                except TimeoutError:
                    continue
        return False

    async def _answer(self, runs: list[dict[str, Any]], *, approve: bool) -> None:
        """Answer every open approval, as people at the terminal would: as many as it takes."""
        for run in runs:
            for shown in run["waits"]:
                if shown["kind"] == WaitKind.APPROVAL:
                    await self._answer_one(run["name"], shown, approve)

    async def _answer_one(self, name: str, shown: dict[str, Any], approve: bool) -> None:
        wait: Any = await self._ledger.waits.get(shown["id"])
        policy = Policy.model_validate(shown["policy"] or {})
        for actor in _people(policy):
            if (wait.id, actor) in self._refused:
                continue  # and it would be again
            text = json.dumps({"approved": approve})
            try:
                made = await doors.answer(
                    self._ledger, wait, text, door=Door.TERMINAL, actor=actor, api_url=self._place.api_url
                )
            except (AnswerRefused, NotAllowed) as refused:
                self._refused.add((wait.id, actor))
                self._say(f"{name}: {refused}")
                continue
            by = f" ({actor})" if policy.names_people else ""
            self._say(f"{name}: answered {'approve' if approve else 'reject'} to: {shown['reason']}{by}")
            if not made.counted:
                return

    def _screen(self, runs: list[dict[str, Any]], run_ids: list[str] | None) -> RenderableType:
        shown = [run for run in runs if run_ids is not None or run["state"] not in ENDED]
        if shown:
            return Screen(shown, starting=max(0, len(run_ids or []) - len(runs)))
        return Text("No agent is running or waiting.", "dim")

    def _tell(self, runs: list[dict[str, Any]], *, answerable: bool) -> None:
        """Where there is no terminal: one line for each thing that changed."""
        for run in runs:
            if (wait := run["wait"]) is not None:
                line = f"{run['name']}: {run['state']}, waits for: {asked(wait)}"
                if wait["kind"] == WaitKind.APPROVAL and answerable:
                    line += f"\n  answer: {wait['command']}   {beside(run, wait)}"
                self._say_once(run["run_id"], line)
            elif run["state"] in ENDED:
                self._say_once(run["run_id"], _end_of(run["name"], run["state"], run["error"]))

    async def _tell_ends(self, runs: list[dict[str, Any]]) -> None:
        """Also of the runs that were among those still going at the last look and are not any more."""
        alive = {run["run_id"] for run in runs}
        for run_id in self._alive - alive:
            if (run := await self._ledger.runs.get(run_id)) is not None:
                self._say_once(run.id, _end_of(run.name, run.state, run.error))
        self._alive = alive

    def _say_once(self, run_id: str, line: str) -> None:
        if (run_id, line) not in self._told:
            self._told.add((run_id, line))
            self._say(line)

    def _say(self, text: str) -> None:
        self._console.print(Text(plain(text)))

    async def print_receipts(self, run_ids: list[str]) -> None:
        """What each run ended with."""
        table = Table(title="Receipts", title_justify="left", header_style="bold", box=None, pad_edge=False)
        for column in ("run", "ended", "result"):
            table.add_column(column, overflow="fold")
        for run_id in run_ids:
            run = await self._ledger.runs.get(run_id)
            if run is not None:
                result = json.loads(run.result) if run.result is not None else None
                table.add_row(
                    Text(in_one_line(run.name)),
                    state_text(run.state),
                    Text(in_one_line(run.error or _sentence(result))),
                )
        print_table(self._console, table)


def _people(policy: Policy) -> list[str]:
    """Who answers under ``--answer``: whom the policy names, else as many as it asks for."""
    if policy.approvers:
        return [name for name in policy.approvers if name not in policy.not_by]
    one = "standby up --answer"
    return [one] if policy.quorum == 1 else [f"{one} {number}" for number in range(1, policy.quorum + 1)]


def _end_of(name: str, state: str, error: str | None) -> str:
    return f"{name}: {state}: {error}" if error else f"{name}: {state}"


def _sentence(result: Any) -> str:
    """A result for people: its ``summary`` if it has one, else its fields."""
    if not isinstance(result, dict):
        return json.dumps(result)
    if isinstance(result.get("summary"), str):
        return str(result["summary"])
    return ", ".join(f"{name} {value}" for name, value in result.items() if value not in (None, "", [], {}))
