"""Names an agent that keeps the event loop for itself: while it does, no other agent of the host gets on.

A thread looks, for the loop cannot.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading
import traceback
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from standby.host.guest import Guest
    from standby.host.host import Host

log = logging.getLogger("standby.host")

BEAT_SECONDS = 0.2
"""How often the loop says that it goes round."""

HOG_SECONDS = 1.0
"""From this time on the loop was kept for too long."""


class Watch:
    def __init__(self, host: Host) -> None:
        self._host = host
        self._beat = monotonic()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.current_thread()
        self._over = threading.Event()

    async def run(self) -> None:
        """Watch until cancelled."""
        context = contextvars.copy_context()
        watcher = threading.Thread(target=context.run, args=(self._watch,), name="standby-watch", daemon=True)
        self._beat = monotonic()
        watcher.start()
        try:
            while True:
                self._beat = monotonic()
                await asyncio.sleep(BEAT_SECONDS)
        finally:
            self._over.set()

    def _watch(self) -> None:
        said = 0.0
        while not self._over.wait(BEAT_SECONDS):
            beat = self._beat
            if monotonic() - beat > HOG_SECONDS and beat != said:
                said = beat
                log.warning("%s", self.who(monotonic() - beat))

    def who(self, seconds: float) -> str:
        """Who keeps the loop, in a sentence."""
        task = asyncio.current_task(self._loop)
        guest = next((one for one in list(self._host.guests.values()) if one.task is task), None)
        where = _where(self._thread.ident)
        if guest is None:
            name = task.get_name() if task is not None else "something"
            return f"The host has stood still for {seconds:.1f} s: {name}, at {where}."
        return (
            f"Run {guest.name} ({guest.id}) keeps the host for itself since {seconds:.1f} s{_step(guest)}, at {where}. "
            "All other agents wait for it: let what takes long be a step that is not async, which runs in a thread, or "
            "give its deployment isolation: process."
        )


def _step(guest: Guest) -> str:
    return f" in or after {guest.run.at!r}" if guest.run is not None and guest.run.at else ""


def _where(thread: int | None) -> str:
    frame = sys._current_frames().get(thread or 0)
    if frame is None:
        return "an unknown place"
    last = traceback.extract_stack(frame)[-1]
    return f"{last.filename}:{last.lineno}"
