"""Errors of steps that the agent has evidently dealt with: part of its path, and raised again by a replay."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

from standby.parts import current_part
from standby.places import Place


class Failure:
    """A step that raised (``text`` is the error as JSON), or was cut off by a cancellation (None); or a wait whose
    answers, ``text``, are an error.

    Made in the task that had called it, and known to all tasks that this one begins from here on. ``recording``: of
    the value of a step that was cut off, which goes on.
    """

    def __init__(
        self,
        place: Place,
        text: str | None,
        *,
        of_wait: bool = False,
        recording: asyncio.Future[None] | None = None,
    ) -> None:
        self.place, self.text, self.of_wait, self.recording = place, text, of_wait, recording
        self.over = False  # recorded
        self._task = asyncio.current_task()
        self._part = current_part.get()
        _behind.set(frozenset({self, *(failure for failure in _behind.get() if not failure.over)}))

    @property
    def caught(self) -> bool:
        """Whether the agent has evidently dealt with it, seen from where it goes on to new work.

        That is the task in which it happened, one that this has begun since, or any when that task has ended and
        somebody has looked how.
        """
        if self in _behind.get():
            return True
        if self._task is None or not self._task.done():
            return False
        if self._task.cancelled():
            # A part that was itself cut off, as a tool beside one that has to ask, is gone through again.
            return self.text is not None or self._part is None or self._part.is_around(current_part.get())
        # With an error that nobody has asked the task for, it may yet be what ends the run.
        return not self._task._log_traceback


_behind: ContextVar[frozenset[Any]] = ContextVar("standby_failures_behind", default=frozenset())
"""The failures that whoever acts here has come past."""
