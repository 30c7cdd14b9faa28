"""Tool: send a message to a party, through the notification blocks that reach it.

Who is reached through what is the block ``notification-channels/default``, which also says who is told of questions.
"""

import asyncio

from prefect import get_client
from pydantic import BaseModel

from blocks.loading import load_or_default
from standby.notices import CHANNELS_NAME, EVERYBODY, NotificationChannels, said_of, send_through
from tasks.errors import ToolFailed, ToolRefused

LONGEST_SUBJECT = 200
LONGEST_BODY = 20_000


async def why_unreached(party: str) -> str | None:
    """Why nobody could send the party a message now; None where it has a channel of its own."""
    known = await load_or_default(NotificationChannels, CHANNELS_NAME)
    if known.own(party):
        return None
    return (
        f"Not sent to {party!r}: this party has no channel in the block notification-channels/{CHANNELS_NAME}. "
        "Name one there."
    )


class Sent(BaseModel):
    """A message that was taken. ``through``: the notification blocks, ``type/name``."""

    to: str
    through: list[str]


async def send_message(to: str, subject: str, body: str, *, seconds: float = 30.0) -> Sent:
    """Send ``body`` (Markdown) to the party ``to`` through each of its own channels.

    Each send is another message: there is nobody to ask whether it was sent before. ``seconds``: for all channels.
    Raises ToolRefused if the party has no channel of its own, or the text is empty or too long: nothing was sent.
    ToolFailed if a channel did not take it; the others may have.
    """
    subject = " ".join(subject.split())
    if not subject or len(subject) > LONGEST_SUBJECT:
        raise ToolRefused(f"message to {to}", f"a subject has 1 to {LONGEST_SUBJECT} characters")
    if not body.strip() or len(body) > LONGEST_BODY:
        raise ToolRefused(f"message to {to}", f"a message has 1 to {LONGEST_BODY} characters")
    known = await load_or_default(NotificationChannels, CHANNELS_NAME)
    through = known.own(to)
    if not through:
        parties = ", ".join(sorted(known.channels.keys() - {EVERYBODY})) or "none"
        raise ToolRefused(f"message to {to}", "this party has no channel", f"Parties with one: {parties}.")
    async with get_client() as client:
        try:
            async with asyncio.timeout(seconds):
                for slug in through:
                    await send_through(slug, subject, body, client)
        except TimeoutError:
            raise ToolFailed(f"message to {to}", f"{slug} did not take it within {seconds:g} seconds") from None
        except Exception as error:  # whatever a channel's library raises
            raise ToolFailed(f"message to {to}", f"{slug} did not take it ({said_of(error)})") from None
    return Sent(to=to, through=through)
