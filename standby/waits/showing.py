"""What people are shown of a wait: its evidence, its words as plain text, and the command that answers it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import TypeAdapter

from standby.policy import Policy
from standby.states import BY_SIGNAL, NOBODY_ANSWERS, WaitKind


def evidence_of(show: Any) -> str | None:
    """What is shown to the person who decides, as Markdown."""
    if show is None or isinstance(show, str):
        return show
    if callable(markdown := getattr(show, "_repr_markdown_", None)):
        return str(markdown())
    plain = TypeAdapter(Any).dump_python(show, mode="json")
    if not isinstance(plain, dict):
        return f"```json\n{json.dumps(plain, indent=2)}\n```"
    lines = ["| | |", "|---|---|"]
    for name, value in plain.items():
        shown = value if isinstance(value, str) else json.dumps(value)
        lines.append(f"| {as_text(name)} | {as_text(shown)} |")
    return "\n".join(lines)


_UNSEEN = re.compile("[\x01-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What steers a terminal, or turns the direction of what is read."""


def visible(text: str) -> str:
    """Text without what is not seen and changes what is: such characters are shown by their numbers."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text.replace("\r\n", "\n"))


_MARKUP = re.compile(r"([\\`*_\[\]<>|~&$#@]|:(?=//)|(?<=www)\.)", re.IGNORECASE)
"""What Markdown, or a renderer that makes links by itself, would act on."""


def as_text(text: str) -> str:
    """Text as one line of Markdown that shows it as it is: whoever wrote an invoice must not format the question."""
    return _MARKUP.sub(r"\\\1", visible(" ".join(text.split())))


def quoted(text: str) -> str:
    """Text of any length as Markdown that shows it as it is, line by line."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{visible(text)}\n{fence}"


WAITS_FOR = {
    WaitKind.APPROVAL: "an answer",
    WaitKind.SIGNAL: "a signal",
    WaitKind.CONDITION: "a condition, of which a signal tells",
    WaitKind.EVENT: "an event of Prefect",
    WaitKind.TIMER: "a time",
    WaitKind.AGENT: "an agent",
}
"""What a wait of each kind waits for, in words."""


def why_unanswered(wait: Any) -> str:
    """Why a wait is nobody's to answer, and what to do instead where somebody can; for who comes with a key."""
    said = f"Wait {wait.id} waits for {WAITS_FOR[WaitKind(wait.kind)]}, which nobody answers"
    if wait.kind not in BY_SIGNAL:
        return f"{said}."
    key = f' and "key": {json.dumps(wait.correlation)}' if wait.correlation is not None else ""
    return f"{said}. Send it with a sender's key: POST /signals/{quote(wait.topic, safe='')} with the payload{key}."


NEEDED = "needed_to_approve"
"""In the JSON Schema of a field that has a default: whether who approves has to say another value; of a
number perhaps which (``least.Least``)."""


def command_for(wait: Any) -> str | None:
    """What to type to answer the wait, with a word in capitals where something is to be filled in; None for one that
    nobody answers."""
    standby, short = program(), wait.id[:8]
    if wait.kind in NOBODY_ANSWERS:
        return None
    if wait.kind in BY_SIGNAL:
        # Both may have come from outside, and the line is there to be pasted into a shell.
        key = f" --key {shlex.quote(wait.correlation)}" if wait.correlation is not None else ""
        return f"{standby} signal {shlex.quote(wait.topic)}{key} 'JSON'"
    form = json.loads(wait.answer_schema or "{}")
    fields = form.get("properties", {})
    command = f"{standby} answer {short} 'JSON'"
    if "approved" in fields:
        needed = [name for name in fields if name in form.get("required", []) or fields[name].get(NEEDED)]
        command = f"{standby} approve {short}"
        command += "".join(f" --set {_to_fill_in(name, fields[name])}" for name in needed if name != "approved")
    # Several people may answer from one terminal, each under a name.
    named = wait.policy is not None and Policy.model_validate_json(wait.policy).names_people
    return f"{command} --as NAME" if named else command


def _to_fill_in(name: str, field: dict[str, Any]) -> str:
    return shlex.quote(f"{name}={'N' if field.get('type') in ('number', 'integer') else 'VALUE'}")


def program() -> str:
    """How to call ``standby`` from the working folder: its name if the shell finds it, else its path."""
    return "standby" if shutil.which("standby") else os.path.relpath(Path(sys.executable).parent / "standby")
