"""What the bank does by itself: settles payments when their time has come, reports each until it is heard.

A report is a Standard Webhook, sent at least once: a crash between the receiver's yes and our note of it sends the same
bytes again, under the same `webhook-id`.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import httpx
from standardwebhooks.webhooks import Webhook as Signer

from deployments.sandbox_bank.store import DueReport, Store

GIVE_UP_AFTER = timedelta(hours=24)
"""Counted from settlement; after a longer downtime every report still gets one attempt."""
FIRST_RETRY, LONGEST_RETRY = 0.25, 15.0
"""Seconds. The pause doubles from the first to the longest."""
ANSWER_WITHIN = 10.0
"""Seconds a receiver has for one report."""
AT_ONCE = 32
"""Reports under way at the same time; one slow receiver holds up nobody else's."""
LONGEST_SLEEP = 30.0
"""Seconds; how late the loop can be if somebody sets the system's clock forward."""
AFTER_FAILURE = 1.0
"""Seconds before the loop goes on after an error of its own, such as a full disk."""

logger = logging.getLogger(__name__)


def retry_pause(attempts: int) -> float:
    """Seconds to wait after `attempts` failed ones; random, so that reports due together drift apart."""
    pause = min(LONGEST_RETRY, FIRST_RETRY * 2.0 ** min(attempts - 1, 10))
    return pause * random.uniform(0.75, 1.0)


def refusal_of(response: httpx.Response) -> str | None:
    """Why an answer does not count as heard; None if it does."""
    return None if response.is_success else f"HTTP {response.status_code}"


def signed(report: DueReport, now: datetime) -> dict[str, str]:
    """The headers of one attempt. The signature is of this moment, the id is the report's own."""
    report_id = f"evt_{report.payment_id}"
    return {
        "content-type": "application/json",
        "webhook-id": report_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Signer(report.secret).sign(report_id, now, report.body),
    }


class SettlementDesk:
    """The loop. It sleeps until the database's next moment; `poke` wakes it when that may have changed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._poked = asyncio.Event()
        self._reporting: dict[str, asyncio.Task[None]] = {}

    def poke(self) -> None:
        self._poked.set()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        # trust_env off: a proxy or .netrc of the shell that started the bank is not the receiver's business.
        async with httpx.AsyncClient(timeout=ANSWER_WITHIN, trust_env=False) as client:
            loop = asyncio.create_task(self._run(client))
            try:
                yield
            finally:
                tasks = [loop, *self._reporting.values()]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, client: httpx.AsyncClient) -> None:
        while True:
            self._poked.clear()
            try:
                wait = await self._round(client)
            except Exception:
                # The loop must outlive anything: without it the bank would look healthy and settle nothing.
                logger.exception("Settlement stumbled; it goes on in %s s.", AFTER_FAILURE)
                await asyncio.sleep(AFTER_FAILURE)
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._poked.wait(), wait)

    async def _round(self, client: httpx.AsyncClient) -> float:
        """Do what is due; return the seconds until something else is."""
        await asyncio.to_thread(self._store.settle_due, datetime.now(UTC))
        room = AT_ONCE - len(self._reporting)
        if room > 0:
            due = await asyncio.to_thread(
                self._store.due_reports, datetime.now(UTC), limit=room, beside=set(self._reporting)
            )
            for report in due:
                self._reporting[report.payment_id] = asyncio.create_task(self._report(client, report))
        next_moment = await asyncio.to_thread(self._store.next_moment, beside=set(self._reporting))
        if next_moment is None:
            return LONGEST_SLEEP
        wait = min(LONGEST_SLEEP, max(0.0, (next_moment - datetime.now(UTC)).total_seconds()))
        # Without room a report that is due waits for a finished one, which pokes; don't spin on it meanwhile.
        return wait if len(self._reporting) < AT_ONCE else max(wait, 0.05)

    async def _report(self, client: httpx.AsyncClient, report: DueReport) -> None:
        try:
            refusal = await self._send(client, report)
            now = datetime.now(UTC)
            again = now + timedelta(seconds=retry_pause(report.attempts + 1))
            given_up = now - report.settled_at >= GIVE_UP_AFTER
            await asyncio.to_thread(self._store.record_attempt, report.payment_id, refusal, None if given_up else again)
        except Exception:
            logger.exception("The report of %s was sent but not noted; it will be sent again.", report.payment_id)
            await asyncio.sleep(AFTER_FAILURE)
        finally:
            del self._reporting[report.payment_id]
            self.poke()

    async def _send(self, client: httpx.AsyncClient, report: DueReport) -> str | None:
        try:
            headers = signed(report, datetime.now(UTC))
            async with asyncio.timeout(ANSWER_WITHIN):
                response = await client.post(report.url, content=report.body, headers=headers)
            return refusal_of(response)
        except Exception as error:
            # Whatever an address makes of the client is one more failed attempt, not the bank's trouble.
            return f"{type(error).__name__}: {error}"[:300]
