"""Tells parties what is asked of them, through Prefect's own notification blocks.

What has to be told is in the ledger; each channel is sent it at least once. A channel that hangs or is down keeps
nothing else waiting: each notice is a task of its own, its channels are told side by side, each with room for so many
at a time, and those that failed are tried again, they alone, ever more slowly.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from time import monotonic
from typing import Any, ClassVar

from prefect.blocks.abstract import NotificationBlock, NotificationError
from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound
from pydantic import Field

from standby import settings
from standby.connect import Place
from standby.errors import LedgerUnavailable, NotAllowed, UnknownWait, UsageError
from standby.ledger import Ledger
from standby.ledger.notices import Parties
from standby.links import address_of, link_for
from standby.policy import Policy
from standby.states import NoticeKind, WaitState
from standby.waits import as_text, command_for

log = logging.getLogger("standby.notices")

CHANNELS_NAME = "default"
_CHANNELS = f"notification-channels/{CHANNELS_NAME}"
EVERYBODY = "*"

SEND_SECONDS = 30.0
"""How long the channels may take for one notice."""

EACH = 4
"""Notices on their way through one channel at the same time. The event loop has more threads, in which Prefect's own
channels are told, and names looked up."""

NO_CHANNEL = ""
"""Stands for the channels of a party that has none, for they have room for no more."""

KEPT_SECONDS = 15.0
"""How long the block is used before it is looked up again."""

EVIDENCE_CHARS = 2000

_APPRISE_STATUS = re.compile(r"\berror=([1-5][0-9]{2})\b")
"""As the library of Prefect's own notification blocks logs it."""


class NotificationChannels(Block):
    """Who is told of an open question, through which notification blocks."""

    _block_type_name: ClassVar[str] = "Notification Channels"
    _block_type_slug: ClassVar[str] = "notification-channels"

    channels: dict[str, list[str]] = Field(
        default_factory=dict,
        title="Channels",
        description='For each party the notification blocks that reach it, such as {"finance": '
        '["slack-webhook/finance"]}. The party * stands for every party that has none of its own.',
    )

    def of(self, party: str | None) -> list[str]:
        """The notification blocks, ``type/name``, for a party."""
        return self.channels.get(party or EVERYBODY, self.channels.get(EVERYBODY, []))

    def through(self, party: str | None) -> list[str]:
        """``of``, or ``NO_CHANNEL``."""
        return self.of(party) or [NO_CHANNEL]

    def own(self, party: str | None) -> list[str]:
        """Those that reach this party and nobody else."""
        return [] if party in (None, EVERYBODY) else self.channels.get(party, [])


class NotTaken(Exception):
    """Channels, by name, that did not take a notice, and why."""


class Notifier:
    """Sends what is due."""

    def __init__(self, ledger: Ledger, client: Callable[[], AbstractAsyncContextManager[PrefectClient]]) -> None:
        self._ledger, self._client = ledger, client
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._on_their_way: Counter[str] = Counter()  # through each channel
        self._channels: tuple[float, NotificationChannels] | None = None

    async def tick(self) -> None:
        """Start to send what is due as far as its channels have room, and wait for none of it."""
        times = Counter(self._on_their_way)
        parties = None
        while notices := await self._ledger.notices.due(sending=list(self._sending), parties=parties):
            channels = await self._known_channels()
            for notice in notices:
                if rooms := {slug for slug in channels.through(notice.party) if times[slug] < EACH}:
                    times.update(rooms)
                    self._on_their_way.update(rooms)
                    task = asyncio.create_task(self._send(notice, channels, rooms))
                    self._sending[notice.id] = task
                    task.add_done_callback(partial(self._sent, notice.id, rooms))
            full = {slug for slug, count in times.items() if count >= EACH}
            named = {party: not full.issuperset(channels.through(party)) for party in channels.channels}
            parties = Parties(named, others=not full.issuperset(channels.through(EVERYBODY)))

    def _sent(self, notice_id: str, rooms: set[str], _: asyncio.Task[None]) -> None:
        del self._sending[notice_id]
        self._give_back(rooms, set(rooms))

    def _give_back(self, rooms: set[str], some: set[str]) -> None:
        rooms -= some
        self._on_their_way.subtract(some)

    async def finish(self) -> None:
        """Return when what is being sent was sent, or was not taken."""
        await asyncio.gather(*self._sending.values(), return_exceptions=True)

    async def close(self) -> None:
        """Stop; what was not acknowledged is sent again by the next one."""
        sending = list(self._sending.values())
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)

    async def _send(self, notice: Any, channels: NotificationChannels, rooms: set[str]) -> None:
        try:
            if not await self._ledger.notices.claim(notice):
                return
            try:
                why_not = await self._try(notice, channels, rooms)
            except LedgerUnavailable:
                raise
            except Exception as error:  # whatever a channel's library raises
                log.warning("Notice of wait %s was not sent and is tried again: %s", notice.wait_id, said_of(error))
                await self._ledger.notices.failed(notice, said_of(error))
            else:
                await self._ledger.notices.done(notice.id, why_not)
        except LedgerUnavailable as error:
            log.warning("%s", error)

    async def _try(self, notice: Any, channels: NotificationChannels, rooms: set[str]) -> str | None:
        """Send it through every channel of its party that has not taken it; None, or why there was nothing to send.

        ``rooms``: the channels that have room for it, which each gives back. Raises ``NotTaken`` if a channel did not
        take it.
        """
        wait = await self._ledger.waits.get(notice.wait_id)
        if wait is None or wait.state != WaitState.OPEN:
            return "the wait is not open any more"
        if notice.personal and await self._ledger.waits.decided_by(wait.id, wait.opening, notice.party):
            return "this person has decided"
        async with asyncio.timeout(SEND_SECONDS), self._client() as client:
            own = channels.own(notice.party)
            # Who may decide, and is not the party, is told in person or not at all: everybody else knows by the party.
            blocks = own if notice.personal and notice.party != wait.party else channels.of(notice.party)
            if not blocks:
                return "the party has no channel"
            link = await self._link(wait, notice) if own else None
            subject, body = message(wait, notice.kind, Place("", str(client.api_url)).ui_url, link)
            taken: list[str] = json.loads(notice.sent_to or "[]")
            left = [slug for slug in dict.fromkeys(blocks) if slug not in taken]
            self._give_back(rooms, rooms.difference(left))
            turns = asyncio.Lock()

            async def tell(slug: str) -> None:
                if slug not in rooms:
                    raise NotTaken(f"{EACH} notices are on their way through it")
                try:
                    await send_through(slug, subject, body, client)
                finally:
                    self._give_back(rooms, {slug})
                async with turns:
                    taken.append(slug)
                    await self._ledger.notices.sent_to(notice.id, taken)

            told = await asyncio.gather(*map(tell, left), return_exceptions=True)
        failed = {slug: error for slug, error in zip(left, told, strict=True) if isinstance(error, BaseException)}
        for error in failed.values():
            if isinstance(error, LedgerUnavailable):
                raise error
        if failed:
            raise NotTaken("; ".join(f"{slug}: {said_of(error)}" for slug, error in failed.items()))
        return None

    async def _link(self, wait: Any, notice: Any) -> str | None:
        """A link for whom the notice is for; None for who may not have one, and where no gateway is known.

        A party of several is nobody in particular: where it matters who decides, only people get links.
        """
        gateway_url = settings.gateway_url()
        by_anybody = wait.policy is None or not Policy.model_validate_json(wait.policy).names_people
        if gateway_url is None or not (notice.personal or (by_anybody and notice.party == wait.party)):
            return None
        try:
            link = await link_for(self._ledger, wait, notice.party)
        except (NotAllowed, UnknownWait):
            return None
        return await address_of(self._ledger, link, gateway_url)

    async def _known_channels(self) -> NotificationChannels:
        if self._channels is None or monotonic() - self._channels[0] > KEPT_SECONDS:
            async with asyncio.timeout(SEND_SECONDS), self._client() as client:
                try:
                    found = await NotificationChannels.aload(CHANNELS_NAME, client=client)
                except ValueError:  # nobody has made the block
                    found = NotificationChannels()
            self._channels = (monotonic(), found)
        return self._channels[1]


async def send_through(slug: str, subject: str, body: str, client: PrefectClient) -> None:
    """Send a message through the notification block ``type/name``.

    Raises what its channel raises, and ``UsageError`` if there is no such block, or it notifies nobody.
    """
    import prefect.blocks.notifications  # noqa: F401  # its types are known by their names then

    kind, slash, name = slug.partition("/")
    if not (kind and slash and name):
        raise UsageError(f"{slug!r} names no notification block: write type/name, such as slack-webhook/finance, in "
                         f"{_CHANNELS}.")  # fmt: skip
    try:
        block: Any = await Block.aload(slug, client=client)
    except ValueError as error:
        if not isinstance(error.__cause__, ObjectNotFound):
            raise
        raise UsageError(f"There is no block {slug}: save it, or name another in {_CHANNELS}.") from None
    if not isinstance(block, NotificationBlock):
        raise UsageError(f"The block {slug} notifies nobody: name another in {_CHANNELS}.")
    # Raised then, and not only logged.
    with block.raise_on_failure():
        send = getattr(block, "anotify", block.notify)
        await send(body, subject)


def message(wait: Any, kind: str, ui_url: str | None, link: str | None = None) -> tuple[str, str]:
    """Subject and body (Markdown) of what a party is told about a wait (its ledger row); ``link``: theirs to answer."""
    opening = {
        NoticeKind.OPENED: "An agent waits for your answer.",
        NoticeKind.REMINDER: "An agent still waits for your answer.",
        NoticeKind.ESCALATED: "An agent waits, nobody has answered, and now you are asked.",
    }[NoticeKind(kind)]
    if kind == NoticeKind.OPENED and wait.refused:
        opening = "An agent asks you once more."
    parts = [opening, as_text(wait.reason)]
    if wait.refused:
        parts.append(f"The last answer was not accepted: {as_text(wait.refused)}")
    if wait.party:
        parts.append(f"Asked: {as_text(wait.party)}")
    if wait.policy is not None and (said := Policy.model_validate_json(wait.policy).said):
        parts.append(f"Decided by: {as_text(said)}")
    if wait.deadline is not None:
        parts.append(f"Until: {wait.deadline:%Y-%m-%d %H:%M} UTC")
    if wait.evidence:
        cut = len(wait.evidence) > EVIDENCE_CHARS
        parts.append(wait.evidence[:EVIDENCE_CHARS] + ("\n... (cut)" if cut else ""))
    if link is not None:
        parts.append(f"Answer here, once; whoever has this link answers for you, so keep it to yourself: <{link}>")
    if ui_url is not None:
        parts.append(f"Its run: {ui_url}/runs/flow-run/{wait.run_id}")
    if command := command_for(wait):
        parts.append(f"In a terminal: {command}")
    return " ".join(wait.reason.split())[:200], "\n\n".join(parts)


def said_of(error: BaseException) -> str:
    """Why a message was not sent, as it may be kept and shown: of what others raise the type and the HTTP status.

    What a channel's library says may quote the channel's address, which for a webhook is a secret.
    """
    if isinstance(error, NotTaken | UsageError):
        return str(error)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, NotificationError) and (noted := _APPRISE_STATUS.search(error.log)):
        status = int(noted[1])
    return f"{type(error).__name__}, HTTP status {status}" if isinstance(status, int) else type(error).__name__
