"""What an attempt finds written of its run, and where in it the agent's code is.

Keys. A step's key is its name, with ``#2``, ``#3`` ... for later occurrences, or an explicit one. Steps and waits that
are called in the agent's own asyncio task also have a position, counted when they are called. On a replay the journal
must hold the same key at the same position; anything else is a ``JournalMismatch`` before the step acts. Calls from
other asyncio tasks (racing branches) have no stable order: they need explicit keys and are found by key alone. What is
called in a ``part`` of the run, such as a tool of a model, has keys below the part's, counted there, and no position.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import cached_property
from typing import TypeVar

from standby.caught import Failures
from standby.errors import JournalMismatch, UsageError
from standby.ledger.checkpoints import Entry
from standby.ledger.text import digest_of
from standby.parts import counted, current_part
from standby.places import Place
from standby.states import CheckpointKind, CheckpointState

E = TypeVar("E", bound=BaseException)

CUT_OFF = '"cut off"'
"""What stands in the journal for a step that a cancellation cut off, and that the agent did without."""

_CUT_OFF_DIGEST = digest_of(CUT_OFF)


class Journal:
    """``entries``: what the ledger has of the run when the attempt begins. Made in the agent's own asyncio task."""

    def __init__(self, run_id: str, entries: list[Entry]) -> None:
        self.id = run_id
        self.journal = {entry.key: entry for entry in entries}
        self._at = {entry.position: entry.key for entry in entries if entry.position is not None}
        self._unmet_branches = {entry.key for entry in entries if entry.position is None and not _may_stay_away(entry)}
        self._meet("")
        self._used: set[str] = set()
        self._questions: dict[str, list[str]] = {}
        for entry in entries:
            self._ask_with(entry.key)
        self.failures = Failures()
        self._occurrences: Counter[str] = Counter()
        self._next = 0
        self._task = asyncio.current_task()
        self.at = ""  # key of the step or wait that was asked for last
        self._stopped_by: BaseException | None = None

    @cached_property
    def _branches_met(self) -> asyncio.Event:
        return asyncio.Event()  # few need it, and it takes a kilobyte of each run that is parked warm

    @cached_property
    def _own_met(self) -> asyncio.Event:
        """The agent's own task has come by all that it has done before."""
        return asyncio.Event()

    def again(self, prefix: str, journal: list[Entry]) -> None:
        """What has keys below ``prefix`` is gone through again in this attempt, from ``journal``, as it is by now."""
        for key in [key for key in self._used if key.startswith(prefix)]:
            self._used.discard(key)
        self.failures.forget(prefix)
        for entry in journal:
            if entry.key.startswith(prefix):
                self.journal[entry.key] = entry
                self._ask_with(entry.key)

    def _ask_with(self, key: str) -> None:
        """Questions whether a `once` step happened hang on their step and have no place of their own."""
        step, mark, _ = key.partition("?")
        if mark and key not in self._questions.setdefault(step, []):
            self._questions[step].append(key)

    def must_stop(self, error: E) -> E:
        """Remember an error after which the run must do nothing more. Returns it, to be raised."""
        self._stopped_by = error
        return error

    def _mismatch(self, detail: str) -> JournalMismatch:
        return self.must_stop(JournalMismatch(self.id, detail))

    def place(self, name: str, key: str | None = None, kind: CheckpointKind = CheckpointKind.STEP) -> Place:
        """Give the next step or wait its key and position. Raises ``JournalMismatch`` if the journal differs here.

        After an error that says the run must stop, it is raised again: an agent that caught it does not go on.
        """
        if self._stopped_by is not None:
            raise self._stopped_by
        self.failures.go_on()
        inside = current_part.get()
        in_own_task = self.in_own_task and inside is None
        if inside is not None:
            inside.check()
            key = f"{inside.key}/{key or counted(name, inside.occurrences)}"
        if key is None:
            if not in_own_task:
                raise UsageError(
                    f"{name!r} was called in an asyncio task beside the agent's own, where the order of calls can "
                    f"change from one attempt to the next. Give it a key: {name}.with_options(key=...)."
                )
            key = counted(name, self._occurrences)
        if key in self._used:
            raise UsageError(f"The key {key!r} is used twice in this run. Explicit keys must differ.")
        self._used.add(key)
        self.at = key
        self._meet(key)
        for question in self._questions.get(key, ()):
            self._used.add(question)
            self._meet(question)
        known = self.journal.get(key)
        if known is not None and known.kind != kind:
            raise self._mismatch(f"the journal has {key!r} as a {known.kind}, the code asks for a {kind}")
        if not in_own_task:
            if known is not None and known.position is not None:
                raise self._mismatch(f"{key!r} has moved into a racing branch")
            return Place(key, None)
        position, self._next = self._next, self._next + 1
        if not self._own_left:
            self._own_met.set()
        recorded = self._at.get(position)
        if recorded is not None and recorded != key:
            raise self._mismatch(f"the journal has {recorded!r} as step {position + 1}, the code asks for {key!r}")
        if known is not None and known.position != position:
            where = "in a racing branch" if known.position is None else f"as step {known.position + 1}"
            raise self._mismatch(f"the journal has {key!r} {where}, the code asks for it as {position + 1}")
        return Place(key, position)

    def take_over(self, prefix: str) -> dict[str, Entry]:
        """All entries whose keys begin with ``prefix``, by the rest of the key: whoever asks answers for them.

        Those that a ``part`` below wrote (there is another ``/`` in the rest) must still be asked for.
        """
        taken = {key.removeprefix(prefix): entry for key, entry in self.journal.items() if key.startswith(prefix)}
        for rest in taken:
            if "/" not in rest:
                self.pass_by(prefix + rest)
        return taken

    def pass_by(self, key: str) -> None:
        """An entry of the journal that need not be asked for."""
        self._used.add(key)
        self._meet(key)

    def set_aside(self, key: str) -> None:
        """An entry of the journal that is asked for after what comes now, or is then passed by."""
        self._meet(key)

    def unmet(self, prefix: str) -> list[Entry]:
        """The entries whose keys begin with ``prefix`` and that nobody has asked for yet."""
        return [entry for key, entry in self.journal.items() if key.startswith(prefix) and key not in self._used]

    @property
    def _own_left(self) -> bool:
        """Whether the agent's own task has yet to come by something that it has done before."""
        return bool(self._at) and self._next <= max(self._at)

    def _meet(self, key: str) -> None:
        self._unmet_branches.discard(key)
        if not self._unmet_branches:
            self._branches_met.set()

    def check_all_met(self) -> None:
        """At the end of the run: every checkpoint must have been asked for."""
        if self._stopped_by is not None:
            raise self._stopped_by
        unmet = [key for key, entry in self.journal.items() if key not in self._used and not _may_stay_away(entry)]
        if unmet:
            raise self._mismatch(f"the code ends without asking for {unmet}")

    @property
    def in_own_task(self) -> bool:
        """Whether the caller is in the agent's own asyncio task, not in a racing branch."""
        return asyncio.current_task() is self._task


def _may_stay_away(entry: Entry) -> bool:
    """A branch that lost a race may lose it earlier on a replay, before it comes to where it was cut off."""
    cut_off = entry.state == CheckpointState.FAILED and entry.digest == _CUT_OFF_DIGEST
    return cut_off and entry.position is None
