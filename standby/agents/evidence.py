"""The calls that people are asked about, as Markdown that shows words of the model and obeys none. Pure.

Pages and notices cut what is long. So that no call, and no argument, is hidden behind another one that was made long,
the first ``SEEN`` characters have something of each; what had no room there follows whole.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from standby.waits import as_text, quoted

SEEN = 90_000
"""Characters within which something of every call stands: fewer than a link's page shows."""

MOST_IN_ONE = 50
"""Calls that one form asks about: more would not be seen on one page."""

_ARGUMENTS = 50_000
"""Characters of ``SEEN`` that the arguments of all calls share; the rest is for the words around them."""

_WORDS, _GOAL = 600, 4_000
"""Characters of the reason why a call is asked about, and of the goal, where there is not room for all."""


class ToShow(NamedTuple):
    """One call. ``arguments``: as the tool will see them, as JSON values. ``why``: it is asked about."""

    tool: str
    arguments: dict[str, Any]
    why: str


def evidence_about(goal: str, calls: Sequence[ToShow]) -> str:
    """What people are shown of these calls, at most ``MOST_IN_ONE``."""
    said = [f"Goal: {as_text(goal)}"] if goal else []
    whole = [f"{_title(number, one)}\n\n{_quoted(one.arguments)}\n\n{as_text(one.why)}" for number, one in _all(calls)]
    text = "\n\n".join([*said, *whole])
    if len(text) <= SEEN:
        return text
    parts = [_cut(words, _GOAL) for words in said]
    rest = []
    for (number, one), all_of_it in zip(_all(calls), whole, strict=True):
        seen = _within(one.arguments, _ARGUMENTS // len(calls))
        note = (
            "" if seen == _quoted(one.arguments) and len(as_text(one.why)) <= _WORDS else ", of which the rest is below"
        )
        parts.append(f"{_title(number, one)}{note}\n\n{seen}\n\n{_cut(as_text(one.why), _WORDS)}")
        if note:
            rest.append(all_of_it)
    return "\n\n".join([*parts, "---\n\nWhole:", *rest])


def _all(calls: Sequence[ToShow]) -> list[tuple[int, ToShow]]:
    return list(enumerate(calls, start=1))


def _title(number: int, one: ToShow) -> str:
    return f"**{number}. {as_text(one.tool)}**"


def _quoted(arguments: Any) -> str:
    return quoted(json.dumps(arguments, indent=2, ensure_ascii=False))


def _within(arguments: dict[str, Any], room: int) -> str:
    """The arguments in so many characters: long texts among them are cut before an argument is left out."""
    longest = room
    while longest > 10:
        if len(shown := _quoted(_shortened(arguments, longest))) <= room:
            return shown
        longest //= 2
    text = json.dumps(_shortened(arguments, longest), indent=2, ensure_ascii=False)
    while len(shown := quoted(f"{text[:room]} ... (cut)")) > room and room > 10:
        text = text[: len(text[:room]) // 2]
    return shown


def _shortened(value: Any, longest: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= longest else f"{value[:longest]} ... ({len(value):,} characters)"
    if isinstance(value, dict):
        return {name: _shortened(item, longest) for name, item in value.items()}
    if isinstance(value, list):
        first = [_shortened(item, longest) for item in value[:longest]]
        return first if len(value) <= longest else [*first, f"... ({len(value):,} in all)"]
    return value


def _cut(text: str, longest: int) -> str:
    # An escape that is cut in two must not escape what follows.
    return text if len(text) <= longest else f"{text[:longest].rstrip(chr(92))} ..."
