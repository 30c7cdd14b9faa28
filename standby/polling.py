"""Asks the sources of conditions, for all runs together: the answer when the signal stays away."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import TypeAdapter

from standby.errors import AnswerRefused, LedgerUnavailable, UsageError
from standby.ledger import Ledger
from standby.ledger.settling import Settled
from standby.states import Door, Outcome
from standby.waits import checked_answer, imported

log = logging.getLogger("standby.polling")

POLL_SECONDS = 30.0
"""How long a source may take to answer."""

AT_ONCE = 50
"""Sources that are asked at the same time."""


async def poll(ledger: Ledger, wait: Any) -> Settled | None:
    """Ask the source of one condition (its ledger row), and settle it with what it says. None when it is not so yet.

    A source that cannot be asked, or says what does not fit, is asked again later; ``poll_note`` tells why.
    """
    spec = json.loads(wait.poll)
    try:
        async with asyncio.timeout(POLL_SECONDS):
            found = await _ask(spec["function"], spec["args"])
        if found is None:
            await ledger.polls.not_yet(wait)
            return None
        answer = checked_answer(wait, TypeAdapter(Any).dump_json(found).decode())
    except LedgerUnavailable:
        raise
    except AnswerRefused as refused:
        await ledger.polls.not_yet(wait, str(refused))
    except Exception as error:  # whatever the function raises
        log.warning("%s could not be asked for wait %s: %s", spec["function"], wait.id, error)
        await ledger.polls.not_yet(wait, f"{type(error).__name__}: {error}")
    else:
        return await ledger.waits.settle(
            wait.id, outcome=Outcome.ANSWERED, answer=answer, door=Door.POLL, actor=spec["function"]
        )
    return None


async def _ask(name: str, args: dict[str, Any]) -> Any:
    function = imported(name)
    if function is None:
        raise UsageError(f"{name} cannot be imported here. Start the keeper where the agents' code is.")
    if inspect.iscoroutinefunction(function):
        return await function(**args)
    found = await asyncio.to_thread(function, **args)
    return await found if inspect.isawaitable(found) else found


class Poller:
    """Polls what is due, each as a task of its own: a slow source keeps no other waiting. ``wake`` wakes a run."""

    def __init__(self, ledger: Ledger, wake: Callable[[Settled], Awaitable[None]]) -> None:
        self._ledger, self._wake = ledger, wake
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def tick(self) -> None:
        """Start to ask what is due, and wait for none of it."""
        for wait in await self._ledger.polls.due():
            if len(self._asking) >= AT_ONCE:
                return
            if wait.id not in self._asking:
                task = asyncio.create_task(self._poll(wait))
                self._asking[wait.id] = task
                task.add_done_callback(lambda _, key=wait.id: self._asking.pop(key))  # type: ignore[misc]

    async def finish(self) -> None:
        """Return when all that are being asked have answered, or ran out of time."""
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    async def close(self) -> None:
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def _poll(self, wait: Any) -> None:
        try:
            settled = await poll(self._ledger, wait)
            if settled is not None and settled.wake:
                await self._wake(settled)
        except LedgerUnavailable as error:
            log.warning("%s", error)
