"""Asks the sources of conditions, for all runs together: the answer when the signal stays away."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from standby.errors import AnswerRefused, LedgerUnavailable, NotStorable, UsageError
from standby.ledger import Ledger
from standby.ledger.settling import Settled
from standby.states import Door, Outcome
from standby.threads import in_own_thread
from standby.values import Codec
from standby.waits import checked_answer, imported

log = logging.getLogger("standby.polling")

POLL_SECONDS = 30.0
"""How long a source may take to answer."""

EACH = 50
"""How often one source is asked at the same time. One that hangs takes no other's room."""

MOST = 500
"""How often all sources together are asked at the same time, those that hang included."""

_in_threads: dict[str, str] = {}
"""The sources that are not async and have not returned yet, by the wait they are asked for. Nothing can end them."""

_anything: Codec[Any] = Codec(lambda: Any)


async def poll(ledger: Ledger, wait: Any) -> Settled | None:
    """Ask the source of one condition (its ledger row), and settle it with what it says. None when it is not so yet.

    A source that cannot be asked, or says what does not fit, is asked again later; ``poll_note`` tells why.
    """
    spec = json.loads(wait.poll)
    try:
        async with asyncio.timeout(POLL_SECONDS) as limit:
            found = await _ask(wait.id, spec["function"], spec["args"])
        if found is None:
            await ledger.polls.not_yet(wait)
            return None
        answer = checked_answer(wait, _anything.encode(found, "what the source says")[0])
    except LedgerUnavailable:
        raise
    except (AnswerRefused, NotStorable) as refused:
        await ledger.polls.not_yet(wait, str(refused))
    except Exception as error:  # whatever the function raises
        late = f"it has not answered within {POLL_SECONDS:g} seconds"
        why = late if limit.expired() else f"{type(error).__name__}: {error}"
        log.warning("%s could not be asked for wait %s: %s", spec["function"], wait.id, why)
        await ledger.polls.not_yet(wait, why)
    else:
        return await ledger.waits.settle(
            wait.id, outcome=Outcome.ANSWERED, answer=answer, door=Door.POLL, actor=spec["function"]
        )
    return None


async def _ask(wait_id: str, name: str, args: dict[str, Any]) -> Any:
    function = imported(name)
    if function is None:
        raise UsageError(f"{name} cannot be imported here. Start the keeper where the agents' code is.")
    if inspect.iscoroutinefunction(function):
        return await function(**args)
    asked = in_own_thread(function, **args)
    _in_threads[wait_id] = name
    asked.add_done_callback(lambda _: _in_threads.pop(wait_id, None))
    found = await asyncio.wrap_future(asked)
    return await found if inspect.isawaitable(found) else found


class Poller:
    """Polls what is due, of one run or of all, each as a task of its own: a slow source keeps no other waiting.

    One that has not returned is not asked again for the same wait until it does. ``wake`` wakes a run.
    """

    def __init__(
        self, ledger: Ledger, wake: Callable[[Settled], Awaitable[None]], *, run_id: str | None = None
    ) -> None:
        self._ledger, self._wake, self._run_id = ledger, wake, run_id
        self._asking: dict[str, tuple[str, asyncio.Task[None]]] = {}  # wait: its source

    async def tick(self) -> None:
        """Start to ask what is due, and wait for none of it."""
        asked = _in_threads | {wait: source for wait, (source, _) in self._asking.items()}
        times = Counter(asked.values())
        while due := await self._ledger.polls.due(
            self._run_id, asked=list(asked), busy=[source for source, count in times.items() if count >= EACH]
        ):
            for wait in due:
                if len(asked) >= MOST:
                    return
                source = json.loads(wait.poll)["function"]
                if times[source] < EACH:
                    asked[wait.id] = source
                    times[source] += 1
                    task = asyncio.create_task(self._poll(wait))
                    self._asking[wait.id] = source, task
                    task.add_done_callback(partial(self._asked, wait.id))

    def _asked(self, wait_id: str, _: asyncio.Task[None]) -> None:
        del self._asking[wait_id]

    async def finish(self) -> None:
        """Return when all that are being asked have answered, or ran out of time."""
        await asyncio.gather(*self._tasks(), return_exceptions=True)

    async def close(self) -> None:
        asking = self._tasks()
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [task for _, task in self._asking.values()]

    async def _poll(self, wait: Any) -> None:
        try:
            settled = await poll(self._ledger, wait)
            if settled is not None and settled.wake:
                await self._wake(settled)
        except LedgerUnavailable as error:
            log.warning("%s", error)
