"""What the terminal prints is whole, and nothing in it is obeyed."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import select
from pathlib import Path

import pytest
from pydantic import BaseModel
from sqlalchemy import update

from standby.ledger import Ledger
from standby.ledger.tables import Run, table_of
from standby.states import Need, RunState
from standby.waits import Approval, Signal, quoted
from tests.ledger import acts
from tests.support.forks import Fork, Forks
from tests.system.terminal.bench import OTHER, RUN, THIRD, parked, standby

NASTY = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eyap\r\x08[red]bold[/red]"
"""Sets the window's title, clears the screen, turns the text around, and is markup to the library that prints it."""


FORBIDDEN = ["\x1b]", "\x07", "\x1b[2J", "\x9b", "\u202e", "\x08"]


@pytest.mark.parametrize(
    "command",
    [
        ["ps", "--all"],
        ["ps", "--json"],
        ["show", RUN],
        ["show", RUN, "--json"],
        ["show", OTHER],
        ["show", THIRD],
        ["approve", RUN],
        ["approve", NASTY],
        ["doctor"],
    ],
)
async def test_what_came_from_elsewhere_is_not_obeyed_by_the_terminal(
    ledger: Ledger, forks: Forks, command: list[str]
) -> None:
    class Odd(BaseModel):
        nasty: str = NASTY

    approval = Approval(f"Pay {NASTY}?", show=f"Evidence {NASTY}", party=NASTY)
    signal = Signal(f"topic {NASTY}", key=NASTY)
    form = Approval("Fields", form=Odd, show={NASTY: NASTY})
    await parked(ledger, approval, signal, form, need=Need.ALL)
    await ledger.database.write(update(table_of(Run)).where(table_of(Run).c.id == RUN).values(name=NASTY))
    await acts.claim(ledger, OTHER)
    await ledger.runs.end(OTHER, 1, RunState.FAILED, error=NASTY)
    await acts.claim(ledger, THIRD)
    await ledger.runs.end(THIRD, 1, RunState.COMPLETED, result=json.dumps({NASTY: NASTY}))
    said = await asyncio.to_thread(on_a_terminal, forks, command)
    assert "owned" in said or (command == ["doctor"] and "All is well." in said)
    assert [mark for mark in FORBIDDEN if mark in said] == [], repr(said)


def on_a_terminal(forks: Forks, command: list[str]) -> str:
    """What a real process writes to a terminal."""
    ours, its = pty.openpty()
    process, written = Fork(), b""
    forks.start(process, ["standby", *command], env=os.environ, cwd=Path.cwd(), log=Path(os.ttyname(its)))
    # Read while it writes, for a terminal holds little; and what is left when it has ended.
    ended = False
    while not ended:
        ended = not process.running
        while select.select([ours], [], [], 0 if ended else 0.05)[0]:
            written += os.read(ours, 65536)
    os.close(its)
    os.close(ours)
    return written.decode()


WORDS = " ".join(f"w{number}" for number in range(120))


LONG = "".join(f"w{number}" for number in range(120))


ROW = "|".join(f"w{number}" for number in range(120))


@pytest.mark.parametrize(
    "shown",
    [
        quoted(WORDS),
        quoted(LONG),
        f"> {WORDS}",
        f"> {LONG}",
        f"- {WORDS}\n- {LONG}",
        f"| a | b |\n|---|---|\n| {LONG} | {WORDS} |",
        f"|{ROW}|\n{'|---' * 120}|\n|{ROW}|",
        f"# {LONG}",
        f"<div>{WORDS}</div>",
        f"[where](https://example.org/{LONG})",
        f"![what](https://example.org/{LONG})",
    ],
    ids=["block", "unbroken", "quote", "unbroken quote", "list", "table", "many columns", "title", "html", "link",
         "image"],
)  # fmt: skip
async def test_nothing_that_a_person_is_to_see_is_cut_off(ledger: Ledger, forks: Forks, shown: str) -> None:
    """In a terminal, and in a pipe."""
    await parked(ledger, Approval("Go on?", show=shown))
    for said in (await asyncio.to_thread(on_a_terminal, forks, ["show", RUN]), (await standby("show", RUN)).out):
        whole = re.sub(r"\x1b\[[0-9;]*m|\s|▌", "", said)
        assert [word for word in WORDS.split() if word not in whole] == []


async def test_a_long_key_of_a_checkpoint_is_shown_whole(ledger: Ledger, forks: Forks) -> None:
    await acts.parked(ledger, [Approval("Go on?").row(LONG[:250])], run=RUN)
    said = await asyncio.to_thread(on_a_terminal, forks, ["show", RUN])
    assert LONG[:250] in re.sub(r"\s", "", said.partition("Go on?")[0].replace("wait", "").replace("intended", ""))


async def test_into_a_pipe_no_line_is_filled_up_with_blanks(ledger: Ledger) -> None:
    await parked(ledger, Approval("Go on?", show=quoted('{\n  "to": "ada"\n}')))
    lines = (await standby("show", RUN)).out.splitlines()
    assert [line for line in lines if '"to": "ada"' in line] != []
    assert [line for line in lines if line != line.rstrip()] == []


async def test_a_long_error_does_not_widen_the_list_of_runs_and_is_whole_where_one_is_shown(ledger: Ledger) -> None:
    await acts.claim(ledger, RUN)
    assert await ledger.runs.end(RUN, 1, RunState.FAILED, error=f"ModelHTTPError: {LONG} {WORDS} end")
    listed = (await standby("ps", "--all")).out
    assert f"ModelHTTPError: {LONG} w0 w1" in listed
    assert max(map(len, listed.splitlines())) < 700
    assert "w119 end" in (await standby("show", RUN)).out
