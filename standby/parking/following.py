"""Prefect follows the ledger: what a host changes in Prefect, in order for each run, at the rate the server bears.

A server that is too busy (429, 503; on SQLite "database is locked") or away is asked again, with jitter and ever more
slowly, and by fewer at once. While this process lives it is behind at worst, and ``lag`` says by how much; only a
change that the server cannot take (another 5xx) is given up after ``TRIES``. If the process dies the keeper brings
Prefect in line with the ledger.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from json import JSONDecodeError
from random import uniform
from time import monotonic
from typing import Any

import httpx
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from standby.errors import LedgerUnavailable

log = logging.getLogger("standby.parking")

AT_ONCE = 8
"""How many changes are sent at the same time at most; a server that complains is sent fewer."""

BACKOFF_SECONDS = (0.03, 5.0)
"""How long the first try after a failed one waits, and the longest; doubled in between, and spread by half."""

PUT_OFF_SECONDS = 4.0
"""How long at most Prefect is told nothing because runs are on their way to their next line: less than a keeper
elsewhere waits before it tells of a run's end."""

LOOK_SECONDS = 0.1
"""How often it is looked whether that is over."""

LATE_SECONDS = 30.0
"""From this lag on the host takes up nothing new until Prefect has caught up."""


TRIES = 12
"""How often a change is sent that the server answers with an error of its own, or refuses, within half a minute."""

AWAY = (408, 429, 502, 503, 504)
"""Answers of a server that is too busy or away, whatever it was asked. A page where its JSON should be is another."""


def is_busy(error: Exception) -> bool:
    """Whether the same call may succeed later."""
    return is_away(error) or (isinstance(error, PrefectHTTPStatusError) and error.response.status_code >= 500)


def is_away(error: Exception) -> bool:
    """Whether the server, or the ledger, is away or too busy, so that it says nothing about this call."""
    if isinstance(error, PrefectHTTPStatusError):
        return error.response.status_code in AWAY
    return isinstance(error, httpx.RequestError | JSONDecodeError | LedgerUnavailable)


class Gate:
    """Lets through as many calls at once as the server bears: one more after each success, half after a complaint."""

    def __init__(self, most: int = AT_ONCE) -> None:
        self._most, self._width, self._inside = float(most), float(most), 0
        self._queue: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        if self._inside >= int(self._width) or self._queue:
            turn = asyncio.get_running_loop().create_future()
            self._queue.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._leave()
                raise
        else:
            self._inside += 1

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and is_busy(error):
            self._width = max(1.0, self._width / 2)
        else:
            self._width = min(self._most, self._width + 1 / self._width)
        self._leave()

    def _leave(self) -> None:
        self._inside -= 1
        while self._queue and self._inside < int(self._width):
            turn = self._queue.popleft()
            if not turn.done():
                self._inside += 1
                turn.set_result(None)


@dataclass(eq=False)
class _Change:
    what: Callable[[], Awaitable[Any]]
    done: asyncio.Future[Any]
    parks: bool = False
    surely: bool = False
    since: float = field(default_factory=monotonic)
    refused: float | None = None  # since when


class Following:
    """Belongs to the event loop it was made in. While ``busy()`` there is more urgent work than to tell Prefect."""

    def __init__(self, busy: Callable[[], bool] = lambda: False) -> None:
        self._busy = busy
        self._gate = Gate()
        self._runs: dict[str, deque[_Change]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sending: set[_Change] = set()
        self._taken = 0.0  # when the server last took a change
        self._storm_goes_on: asyncio.Task[None] | None = None
        # Prefect's client would wait for seconds before it asks a second time.
        self._context = contextvars.copy_context()
        self._settings = temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0})  # kept: the context is never left
        self._context.run(self._settings.__enter__)

    @property
    def behind(self) -> int:
        """How many changes Prefect does not know of yet."""
        return sum(map(len, self._runs.values()))

    def tells_of(self, run_id: str) -> bool:
        """Whether Prefect is still to be told something of this run."""
        return bool(self._runs.get(run_id))

    @property
    def lag(self) -> float:
        """Seconds since the oldest change that Prefect does not know of yet; 0 when there is none."""
        return max((monotonic() - changes[0].since for changes in self._runs.values() if changes), default=0.0)

    def later(
        self, run_id: str, what: Callable[[], Awaitable[Any]], *, parks: bool = False, surely: bool = False
    ) -> asyncio.Future[Any]:
        """Do it after all that is to be done for this run before. The result is that of the call, when it was answered.

        ``parks``: it shows the run as parked, and is not done at all if the run goes on before its turn comes
        (``goes_on``). ``surely``: what the server refuses is sent again, too, for one answer may be a proxy's.
        """
        change = _Change(what, asyncio.get_running_loop().create_future(), parks, surely)
        changes = self._runs.setdefault(run_id, deque())
        changes.append(change)
        if len(changes) == 1:
            # Not this context: it is one attempt's, and its settings and client are not for others.
            task = asyncio.get_running_loop().create_task(self._follow(run_id, changes), context=self._context.copy())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return change.done

    def goes_on(self, run_id: str) -> bool:
        """The run goes on. True when Prefect was not yet told that it had parked, and need not be told of either."""
        changes = self._runs.get(run_id)
        if not changes or not changes[-1].parks or changes[-1] in self._sending:
            return False
        changes.pop().done.cancel()
        return True

    @property
    def is_late(self) -> bool:
        """Whether Prefect is too far behind. A run whose change alone is refused, while others are taken, is not it."""
        now = monotonic()
        return any(
            now - changes[0].since > LATE_SECONDS and (changes[0].refused is None or self._taken < changes[0].refused)
            for changes in self._runs.values()
            if changes
        )

    async def caught_up(self) -> None:
        """Return when Prefect is not too far behind to take up more."""
        while self.is_late:
            await asyncio.wait([changes[0].done for changes in self._runs.values() if changes], timeout=1.0)

    async def drained(self, run_id: str | None = None) -> None:
        """Return when Prefect knows all, of this run or of all."""
        while waiting := [
            change.done
            for one, changes in self._runs.items()
            for change in changes
            if run_id in (None, one) and not change.done.done()
        ]:
            await asyncio.wait(waiting)
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Give up what is left; the keeper does it."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._context.run(self._settings.__exit__, None, None, None)

    async def _follow(self, run_id: str, changes: deque[_Change]) -> None:
        try:
            while changes:
                change = changes[0]
                if not change.done.done():
                    self._sending.add(change)
                    await self._do(run_id, change)
                    self._sending.discard(change)
                changes.popleft()
        finally:
            self._sending.difference_update(changes)
            for change in changes:
                change.done.cancel()
            self._runs.pop(run_id, None)

    def _storm(self) -> asyncio.Task[None] | None:
        """What ends when the more urgent work does; None when there is none. One looks for all that wait for it."""
        if self._storm_goes_on is None and self._busy():

            async def until_calm() -> None:
                while self._busy():  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_SECONDS)
                self._storm_goes_on = None

            task = asyncio.get_running_loop().create_task(until_calm(), context=self._context.copy())
            self._storm_goes_on = task
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return self._storm_goes_on

    async def _do(self, run_id: str, change: _Change) -> None:
        while (left := change.since + PUT_OFF_SECONDS - monotonic()) > 0 and (storm := self._storm()) is not None:
            await asyncio.wait([storm], timeout=left)
        pause, tries = BACKOFF_SECONDS[0], TRIES
        while True:
            try:
                async with self._gate:
                    result = await change.what()
            except Exception as error:
                tries -= not is_away(error)
                if (change.surely or is_busy(error)) and tries:
                    change.refused = change.refused or monotonic()
                    if pause >= 1:
                        log.warning("Prefect is behind with run %s and is told again: %s", run_id, error)
                    await asyncio.sleep(uniform(pause / 2, pause))
                    pause = min(pause * 2, BACKOFF_SECONDS[1])
                    continue
                if not tries:
                    log.error("Prefect cannot be told of run %s, and is not told again: %s", run_id, error)
                if not change.done.done():
                    change.done.set_exception(error)
                    change.done.exception()  # nobody may ask for it
                return
            except asyncio.CancelledError:
                raise
            except BaseException as stop:  # Prefect's Abort and Pause
                if not change.done.done():
                    change.done.set_exception(stop)
                    change.done.exception()
                return
            self._taken = monotonic()
            if not change.done.done():
                change.done.set_result(result)
            return
