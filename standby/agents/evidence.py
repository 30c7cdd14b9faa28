"""The calls that people are asked about, as Markdown that shows words of the model and obeys none. Pure.

Pages and notices cut what is long. So that no call, and no argument, is hidden behind another one that was made long,
the first ``SEEN`` characters have something of each, and say how much was cut; what had no room there follows whole.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

from standby.waits import as_text, quoted

SEEN = 90_000
"""Characters within which something of every call stands: fewer than a link's page shows."""

MOST_IN_ONE = 50
"""Calls that one form asks about: more would not be seen on one page."""

_ARGUMENTS = 50_000
"""Characters of ``SEEN`` that the arguments of all calls share; the rest is for the words around them."""

_LEVELS = 3
"""Lists and objects inside each other that are cut part by part; what is deeper is cut as text."""

_NAME, _ENTRY, _LEAST = 60, 40, 10
"""Characters of a name, and least ones for an entry of a list or an object, and for an argument."""

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
    """The arguments in so many characters: what is long in each is cut before one is left out."""
    most = len(arguments)
    while True:
        longest = room
        while longest > most * _LEAST:
            if len(shown := _quoted(_parts(arguments, longest, most, _LEVELS))) <= room:
                return shown
            longest = longest * 2 // 3
        if most <= 1:
            return _quoted(_parts(arguments, longest, most, 0))
        most = min(most * 2 // 3, room // _LEAST)


def _shortened(value: Any, room: int, levels: int) -> Any:
    """A JSON value in about so many characters. What is cut says how much there is of it."""
    text = _text(value)
    if len(text) <= room:
        return value
    if levels and isinstance(value, dict):
        return _parts(value, room, room // _ENTRY, levels - 1)
    if levels and isinstance(value, list):
        first = value[: room // _ENTRY]
        share = _share([len(_text(item)) for item in first], room)
        shown = [_shortened(item, share, levels - 1) for item in first]
        return shown if len(first) == len(value) else [*shown, f"... ({len(value):,} in all)"]
    return f"{text[:room]} ... ({len(text):,} characters)"


def _parts(value: dict[str, Any], room: int, most: int, levels: int) -> dict[str, Any]:
    """The first ``most`` entries, which share the room: what is short leaves more of it to what is long."""
    first = list(islice(value.items(), most))
    share = _share([min(len(name), _NAME) + len(_text(item)) for name, item in first], room)
    shown: dict[str, Any] = {}
    for name, item in first:
        named = name if len(name) <= _NAME else f"{name[:_NAME]} ... ({len(name):,} characters)"
        while named in shown or (named != name and named in value):
            named += " "  # two long names may begin alike
        shown[named] = _shortened(item, max(share - min(len(name), _NAME), 0), levels)
    return shown if len(first) == len(value) else {**shown, "...": f"({len(value):,} in all)"}


def _share(sizes: Sequence[int], room: int) -> int:
    """The most that each may have of the room, where some need less."""
    for at, size in enumerate(smallest := sorted(sizes)):
        if size * (len(smallest) - at) > room:
            return room // (len(smallest) - at)
        room -= size
    return room


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(text: str, longest: int) -> str:
    # An escape that is cut in two must not escape what follows.
    return text if len(text) <= longest else f"{text[:longest].rstrip(chr(92))} ..."
