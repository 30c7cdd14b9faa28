"""Whether the process of an attempt ends, or its event loop: what is cut off then, the agent has not cut off."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Ending:
    """Of one attempt outside of a host.

    By SIGINT; or by the end of its event loop, which cancels all tasks: so it does when Prefect's engine hears SIGTERM,
    after a second Ctrl-C, and when what ``asyncio.run`` was given is done.
    """

    def __init__(self, with_all: asyncio.Task[None]) -> None:
        self._with_all = with_all
        self.interrupted = False

    @property
    def has_begun(self) -> bool:
        # In the moment in which it is asked for: an agent that is cancelled with all may be the first to hear of it.
        return self.interrupted or self._with_all.cancelling() > 0 or self._with_all.done()


class _Interrupts:
    """Hears SIGINT beside the handler that is there, while there is an attempt to tell.

    Not SIGTERM: Prefect's engine looks whether its own handler is in place before it lets itself be cancelled by it.
    """

    def __init__(self) -> None:
        self._told: set[Ending] = set()
        self._ours: object = None
        self._before: object = None

    def tell(self, ending: Ending) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # no signal ends what runs there
        self._told.add(ending)
        if len(self._told) > 1:
            return
        before = signal.getsignal(signal.SIGINT)
        if not callable(before):
            return  # it is ignored, or ends the process at once

        def hear(number: int, frame: FrameType | None) -> None:
            for one in self._told:
                one.interrupted = True
            before(number, frame)

        signal.signal(signal.SIGINT, hear)
        self._ours, self._before = hear, before

    def tell_no_more(self, ending: Ending) -> None:
        self._told.discard(ending)
        if self._told or self._ours is None:
            return
        if signal.getsignal(signal.SIGINT) is self._ours:  # else somebody has put another in its place
            signal.signal(signal.SIGINT, self._before)  # type: ignore[arg-type]
        self._ours = self._before = None


_interrupts = _Interrupts()


@contextmanager
def noticed() -> Iterator[Ending]:
    """While an attempt is at work: notice when its process ends."""
    with_all = asyncio.create_task(_for_ever(), name="standby-ending")
    ending = Ending(with_all)
    _interrupts.tell(ending)
    try:
        yield ending
    finally:
        _interrupts.tell_no_more(ending)
        with_all.cancel()


async def _for_ever() -> None:
    await asyncio.Event().wait()
