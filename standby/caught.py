"""Errors of steps that the agent has evidently dealt with: part of its path, and raised again by a replay."""

from __future__ import annotations

import asyncio
import sys
from contextvars import ContextVar
from typing import Any

from standby.branches import is_of, living_ancestor, moment
from standby.parts import current_part
from standby.places import Place


class Failure:
    """A step that raised (``text`` is its ``error`` as JSON), or was cut off by a cancellation (None); or a wait whose
    answers, ``text``, are an error.

    Made in the task that had called it, and known to all tasks that this one begins from here on. ``intended``: the
    step has an intent, which stays when its failure does not. ``recording``: of the value of a step that was cut off,
    which goes on.
    """

    def __init__(
        self,
        place: Place,
        text: str | None,
        error: Exception | None = None,
        *,
        of_wait: bool = False,
        intended: bool = False,
        recording: asyncio.Future[None] | None = None,
    ) -> None:
        self.place, self.text, self.error = place, text, error
        self.of_wait, self.intended, self.recording = of_wait, intended, recording
        self.recorded = False
        self.passed = False  # somebody to whom it has come has gone on
        self.stays = False  # and had it in hand: it is part of the path, whatever ends the run
        self._task = asyncio.current_task()
        self._part = current_part.get()
        self.at = moment()
        _behind.set(frozenset({self, *(one for one in _behind.get() if not (one.recorded and one.stays))}))

    @property
    def behind(self) -> bool:
        """Whether who acts here is the task in which it happened, or one that this has begun since."""
        return self in _behind.get()

    @property
    def caught(self) -> bool:
        """Whether the agent has evidently dealt with it, seen from where it goes on to new work.

        That is the task in which it happened, one that this has begun since, or any when that task has ended and
        somebody has looked how. Who has looked may be a ``gather`` whose agent still has the error in its hands.
        """
        if self.behind:
            return True
        if self._task is None or not self._task.done():
            return False
        if not self._task.cancelled():
            # With an error that nobody has asked the task for, it may yet be what ends the run.
            return not self._task._log_traceback
        if self.text is not None or self.place.position is not None:
            return True
        if "/" in self.place.key:
            # A part that was itself cut off, as a tool beside one that has to ask, is gone through again.
            return self._part is not None and self._part.is_around(current_part.get())
        # What goes on beside it knows nothing of the cut, which may be the end of the attempt.
        return self._has_come_here

    @property
    def _has_come_here(self) -> bool:
        """The end of a task comes to the one that has begun it."""
        assert self._task is not None
        ancestor = living_ancestor(self._task)
        return ancestor is not None and is_of(ancestor, self.at)

    @property
    def passed_here(self) -> bool:
        """Whether who acts here has come past it, and is no branch beside that knows nothing of it."""
        if self.behind:
            return True
        if self._task is None or not self.caught:
            return False
        return not (self._task.cancelled() or self._task.exception()) or self._has_come_here


class Failures:
    """Of one attempt: those that are not recorded, and those that are and may yet turn out to have ended the run."""

    def __init__(self) -> None:
        self.unrecorded: list[Failure] = []
        self._recorded: list[Failure] = []

    @property
    def known(self) -> list[Failure]:
        """Those that may be what ends the run."""
        return [*self.unrecorded, *self._recorded]

    def add(self, failure: Failure) -> None:
        """It is recorded if the agent goes on. One that ends the run is not: a retry of the run then tries the step, or
        waits, again."""
        self.unrecorded.append(failure)

    def add_recorded(self, failure: Failure) -> None:
        """An earlier attempt has recorded it, and this one comes by."""
        failure.recorded = True
        self._recorded.append(failure)

    def go_on(self) -> None:
        """Whoever acts here goes on to something, new or not: what it has come past has not ended the run."""
        if not self.unrecorded and not self._recorded:
            return
        handled = _errors_in(sys.exception(), causes=True)
        for failure in (*self.unrecorded, *self._recorded):
            failure.passed = failure.passed or failure.passed_here
            failure.stays = failure.stays or failure.behind or id(failure.error) in handled
        self._recorded = [failure for failure in self._recorded if not failure.stays]

    def were_recorded(self, failure: Failure) -> None:
        if failure not in self.unrecorded:
            return  # forgotten meanwhile: the step is called again
        failure.recorded = True
        self.unrecorded.remove(failure)
        if not failure.stays and not failure.of_wait:
            self._recorded.append(failure)

    def forget(self, prefix: str) -> None:
        """Those of steps and waits whose keys begin so."""
        self.unrecorded = [failure for failure in self.unrecorded if not failure.place.key.startswith(prefix)]
        self._recorded = [failure for failure in self._recorded if not failure.place.key.startswith(prefix)]

    def ended_by(self, error: BaseException) -> list[Failure]:
        """Those recorded that were on their way to end the run, which ``error`` now does."""
        ends, had = _errors_in(error, causes=False), _errors_in(error, causes=True)
        found = [
            failure
            for failure in self._recorded
            if id(failure.error) in ends or (not failure.passed and id(failure.error) in had)
        ]
        since = min((failure.at for failure in found), default=None)
        if since is None:
            return []
        # They have cut these off, and a retry might not.
        return found + [failure for failure in self._recorded if failure.text is None and failure.at > since]


def _errors_in(error: BaseException | None, *, causes: bool) -> dict[int, BaseException]:
    """The error and those in it, if it is a group, by their ids; with ``causes`` also what they were raised from or
    while handling."""
    found: dict[int, BaseException] = {}
    left = [error]
    while left:
        one = left.pop()
        if one is None or id(one) in found:
            continue
        found[id(one)] = one
        if isinstance(one, BaseExceptionGroup):
            left += one.exceptions
        if causes:
            left += [one.__cause__, one.__context__]
    return found


_behind: ContextVar[frozenset[Any]] = ContextVar("standby_failures_behind", default=frozenset())
"""The failures that whoever acts here has come past."""
