"""Tells the clients of A2A tasks where their tasks are, at the addresses they have named.

Who is to be told is in the ledger. Each is told what is so now, at least once; what came and went between two looks
(a second each, for every thousand tasks) nobody is told. An address that is slow or down keeps no other waiting.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from urllib.parse import urlsplit

import httpx

from standby import settings
from standby.addresses import NotPublic, PublicOnly, looked_up
from standby.agent_tasks import may_see, task
from standby.callers import caller_of, delegates, why_no_more
from standby.errors import LedgerUnavailable
from standby.ledger import Ledger

log = logging.getLogger("standby.pushes")

SEND_SECONDS = 15.0
"""How long a client may take."""

AT_ONCE = 20
"""Pushes on their way at the same time."""

LONGEST = 2000
"""Characters of an address, and of each thing that is sent along."""


async def check(url: str, **sent_along: str | None) -> list[tuple[str, str]]:
    """What is wrong with where a client wants to be told: ``(field, reason)``."""
    problems = []
    try:
        parsed = urlsplit(url)
        host, port = parsed.hostname, parsed.port or (443 if parsed.scheme == "https" else 80)
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        return [("url", "it is no address")]
    if parsed.scheme not in ("http", "https") or not host or parsed.username or len(url) > LONGEST:
        problems.append(("url", f"it has to be http:// or https://, a host, no user, and {LONGEST} characters at most"))
    else:
        try:
            await looked_up(host, port, settings.push_hosts())
        except NotPublic as refused:
            problems.append(("url", f"{refused}; STANDBY_PUSH_HOSTS names those that may be used all the same"))
    for name, value in sent_along.items():
        if value and not (value.isascii() and value.isprintable() and len(value) <= LONGEST):
            problems.append((name, f"it has to be printable ASCII, and {LONGEST} characters at most"))
    return problems


class Pusher:
    """Sends what is due."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._sending: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._after: str | None = None  # whose turn it is: that of the tasks behind this one

    async def tick(self) -> None:
        """Start to send what is due, and wait for none of it."""
        due, after = await self._ledger.pushes.due(self._after)
        for push in due:
            if len(self._sending) >= AT_ONCE:
                return  # and the same ones have their turn once more
            name = (push.task_id, push.config_id)
            if name not in self._sending:
                sending = asyncio.create_task(self._send(push))
                self._sending[name] = sending
                sending.add_done_callback(lambda _, name=name: self._sending.pop(name))  # type: ignore[misc]
        self._after = after

    async def finish(self) -> None:
        """Return when what is being sent was sent, or was not taken."""
        await asyncio.gather(*self._sending.values(), return_exceptions=True)

    async def close(self) -> None:
        """Stop; what was not acknowledged is sent again by the next one."""
        sending = list(self._sending.values())
        for one in sending:
            one.cancel()
        await asyncio.gather(*sending, return_exceptions=True)

    async def _send(self, push: Any) -> None:
        try:
            if not await self._ledger.pushes.claim(push):
                return
            key, found = await self._ledger.keys.get(push.key_id), await self._ledger.tasks.find(push.task_id)
            if key is None or why_no_more(key) is not None:
                await self._ledger.pushes.give_up(push, "the client's key is good no more")
                return
            caller = caller_of(key)
            if found is None or not may_see(caller, found):
                await self._ledger.pushes.give_up(push, "the client does not see the task any more")
                return
            try:
                await self._tell(push, task(found, caller, await delegates(self._ledger)))
            except LedgerUnavailable:
                raise
            except Exception as error:
                why = _said_of(error)
                log.warning("The client of task %s was not told and is later: %s", push.task_id, why)
                await self._ledger.pushes.failed(push, why)
            else:
                await self._ledger.pushes.told(push)
        except LedgerUnavailable as error:
            log.warning("%s", error)

    async def _tell(self, push: Any, shown: dict[str, Any]) -> None:
        headers = {"X-A2A-Notification-Token": push.token} if push.token else {}
        if push.scheme and push.credentials:
            headers["Authorization"] = f"{push.scheme} {push.credentials}"
        async with (
            asyncio.timeout(SEND_SECONDS),
            # Its own limits of 5 seconds would not let a client have the time it is promised.
            httpx.AsyncClient(transport=PublicOnly(settings.push_hosts()), trust_env=False, timeout=None) as client,
            client.stream(
                "POST", push.url, json={"task": shown}, headers=headers
            ) as response,  # what it says is not read
        ):
            if not response.is_success:
                response.raise_for_status()


def _said_of(error: Exception) -> str:
    """Why a client was not told, as it is kept: the type and the HTTP status. The rest may quote its address, which may
    hold a secret of the client's, or what an address inside says."""
    name = type(error).__name__
    return f"{name}, HTTP status {error.response.status_code}" if isinstance(error, httpx.HTTPStatusError) else name
