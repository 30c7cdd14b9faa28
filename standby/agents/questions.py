"""What people were asked about an agent's calls, and who said what: from the waits of its run and the decisions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from standby.agents.forms import Said, form_of, said_of
from standby.states import Door, Verdict, WaitKind, WaitState

_OF_A_TURN = re.compile(r"(?P<turn>.+/\d+)\.(?P<what>asks|more|results)(\.[^/]+)?")
"""The key of what is asked or waited for between the calls of an answer, as ``Thread`` has it."""

_NUMBERED = 5
"""Parts of a call as a wait showed it. Those of before calls were numbered have one less."""

_NAMELESS: dict[str, str] = {Door.PREFECT: "somebody in Prefect", Door.DEADLINE: "the deadline"}


def somebody(actors: Iterable[str | None], door: str | None) -> str:
    """Who decided something: by their names, else by the door through which they did."""
    names = ", ".join(dict.fromkeys(actor for actor in actors if actor))
    return names or _NAMELESS.get(door or "", f"somebody by {door}")


class Refusal(NamedTuple):
    by: str
    reason: str


class _About(NamedTuple):
    """A wait, and which of the calls that it showed it is, from 0; ``tools``: of all of these."""

    wait: Any
    at: int
    tools: list[str]

    def said(self, answer: str | None) -> Said | None:
        """What an answer says about the call; None if it does not fit the form."""
        with suppress(ValueError):
            return said_of(form_of(self.tools).model_validate_json(answer or ""), len(self.tools))[self.at]
        return None

    def refused_by(self, answer: str | None) -> bool:
        return (said := self.said(answer)) is not None and not said.approved


class Questions:
    """``turn`` is the key of a turn, such as ``thinker/1``; ``ordinal`` the number of a call in its answer, from 1."""

    def __init__(self, waits: Iterable[Any] = (), decisions: Iterable[Any] = ()) -> None:
        self._about: dict[tuple[str, int], list[_About]] = {}
        self._results: dict[tuple[str, int], list[Any]] = {}
        self._more: set[str] = set()  # turns in which more is asked for
        self._within: dict[str, list[Any]] = {}  # the approvals that a tool waits for itself, by its call
        self._open: dict[str, Any] = {}  # what is waited for below a key, at whatever depth
        self._decisions: dict[str, list[Any]] = {}
        for decision in decisions:
            if decision.verdict in (Verdict.WON, Verdict.COUNTED):
                self._decisions.setdefault(decision.wait_id, []).append(decision)
        for wait in waits:
            self._sort(wait)

    def _sort(self, wait: Any) -> None:
        above = wait.group_key.split("/")[:-1]
        if wait.state == WaitState.OPEN:
            for depth in range(1, len(above) + 1):
                self._open["/".join(above[:depth])] = wait
        found = _OF_A_TURN.fullmatch(wait.group_key)
        number = wait.key.rpartition("/")[2]
        if found is None:
            if wait.kind == WaitKind.APPROVAL:
                self._within.setdefault("/".join(above), []).append(wait)
        elif found["what"] == "asks":
            calls = _shown(wait.fresh)
            for at, shown in enumerate(calls):
                about = _About(wait, at, [call[-4] for call in calls])
                self._about.setdefault((found["turn"], shown[0]), []).append(about)
        elif found["what"] == "more":
            if wait.state == WaitState.OPEN:
                self._more.add(found["turn"])
        elif number.isdecimal():
            self._results.setdefault((found["turn"], int(number)), []).append(wait)

    def waits_for(self, turn: str, ordinal: int, keys: Sequence[str]) -> str | None:
        """What a call with these keys waits for, in words; None if it is for nothing."""
        if any(one.wait.state == WaitState.OPEN for one in self._about.get((turn, ordinal), ())):
            return "waits for approval"
        results = (one for one in self._results.get((turn, ordinal), ()) if one.state == WaitState.OPEN)
        if (result := next(results, None)) is not None:
            return "waits for an answer" if result.kind == WaitKind.APPROVAL else "waits for its result"
        if (within := next((self._open[key] for key in keys if key in self._open), None)) is not None:
            return "waits for an answer" if within.kind == WaitKind.APPROVAL else "waits"
        return "waits for more budget" if turn in self._more else None

    def refusal(self, turn: str, ordinal: int) -> Refusal | None:
        """Who refused a call when they were last asked about it, and why; None if nobody did."""
        settled = [one for one in self._about.get((turn, ordinal), ()) if one.wait.state == WaitState.SETTLED]
        if not settled:
            return None
        last = settled[-1]
        said = last.said(last.wait.answer)
        if said is None or said.approved:
            return None
        return Refusal(self._decided(last.wait, last.refused_by), said.reason)

    def answered_by(self, turn: str, ordinal: int, keys: Sequence[str]) -> str | None:
        """Who answered what the tool itself has asked, or what stands for its result; None if nobody was asked."""
        asked = [one for key in keys for one in self._within.get(key, ())]
        asked += [one for one in self._results.get((turn, ordinal), ()) if one.kind == WaitKind.APPROVAL]
        who = [self._decided(wait, lambda _: True) for wait in asked if wait.state == WaitState.SETTLED]
        return ", ".join(dict.fromkeys(who)) or None

    def _decided(self, wait: Any, counts: Callable[[str | None], bool]) -> str:
        """Who gave the wait its answer, by answers that count for it."""
        mine = [one for one in self._decisions.get(wait.id, ()) if one.opening == wait.opening]
        mine = [one for one in mine if counts(one.answer)] or mine
        return somebody([one.actor for one in mine], mine[-1].door if mine else None)


def _is_numbered(call: Any) -> bool:
    """One that a person has changed, and that is asked about again, says so after its number."""
    return isinstance(call, list) and len(call) == _NUMBERED + (call[1:2] == ["changed"])


def _shown(fresh: str | None) -> list[list[Any]]:
    """The calls that a wait showed, if they have numbers."""
    with suppress(ValueError):  # of a wait of a tool's own, which may be called so
        shown = json.loads(fresh or "[]")
        if isinstance(shown, list) and all(map(_is_numbered, shown)):
            return shown
    return []
