"""Notices: parties are told through Prefect's notification blocks, and a channel that is down delays nobody."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from prefect.blocks.abstract import NotificationBlock
from prefect.client.orchestration import PrefectClient
from prefect.context import SettingsContext

from standby import Approval, Policy, clock
from standby.keeper import Keeper
from standby.ledger.notices import SENDING
from standby.notices import NotificationChannels, Notifier, message
from tests.fundamentals.conftest import Desk
from tests.ledger import acts
from tests.support.waiting import wait_until

sent: list[tuple[str, str | None, str]] = []
down: set[str] = set()


class Pigeon(NotificationBlock):
    """A channel of this test: what it carries lands in ``sent``, unless its name is in ``down``."""

    _block_type_name: ClassVar[str] = "Pigeon"
    _block_type_slug: ClassVar[str] = "pigeon"
    to: str

    async def notify(self, body: str, subject: str | None = None) -> None:
        if self.to in down:
            await asyncio.sleep(0)
            raise ConnectionError("the pigeon did not fly")
        sent.append((self.to, subject, body))


@pytest.fixture
async def notifier(desk: Desk, prefect_settings: SettingsContext) -> AsyncIterator[Notifier]:
    sent.clear()
    down.clear()
    with prefect_settings.model_copy():
        for name in ("finance", "everybody"):
            await Pigeon(to=name).asave(name, overwrite=True)
        channels: Any = {"finance": ["pigeon/finance"], "*": ["pigeon/everybody"], "nobody": []}
        await NotificationChannels(channels=channels).asave("default", overwrite=True)
        notifier = Notifier(desk.ledger, lambda: PrefectClient(desk.url))
        yield notifier
        await notifier.close()
        await NotificationChannels.adelete("default")


async def opened(desk: Desk, run: str, party: str | None) -> Any:
    """A run that waits for this party; the wait."""
    wait = Approval(f"{run}?", party=party, show="**42 EUR**", policy=Policy(quorum=2))
    return (await acts.parked(desk.ledger, [wait.row("approval")], run=run)).waits[0]


async def all_done(desk: Desk, notifier: Notifier, waits: list[Any]) -> None:
    """Return when every notice of these waits was dealt with."""

    async def done() -> bool:
        await notifier.tick()
        notices = [notice for wait in waits for notice in await desk.ledger.notices.of_wait(wait.id)]
        return len(notices) == len(waits) and all(notice.done_at is not None for notice in notices)

    await wait_until(done, 30)


async def test_each_party_is_told_once_through_its_channel(desk: Desk, notifier: Notifier) -> None:
    asked = [await opened(desk, run, party) for run, party in (("a", "finance"), ("b", None), ("c", "law"))]
    silent = await opened(desk, "d", "nobody")

    await all_done(desk, notifier, [*asked, silent])
    assert sorted((to, subject) for to, subject, _ in sent) == [("everybody", "b?"), ("everybody", "c?"),
                                                                ("finance", "a?")]  # fmt: skip
    [notice] = await desk.ledger.notices.of_wait(silent.id)
    assert notice.note == "the party has no channel"
    [body] = [body for to, _, body in sent if to == "finance"]
    for part in ("**42 EUR**", "Asked: finance", "2 people have to approve", f"approve {asked[0].id[:8]}"):
        assert part in body


async def test_a_channel_that_is_down_delays_nobody_and_gets_it_later(desk: Desk, notifier: Notifier) -> None:
    down.add("finance")
    wait = await opened(desk, "a", "finance")
    await opened(desk, "b", None)

    async def b_is_told() -> bool:
        await notifier.tick()
        [notice] = await desk.ledger.notices.of_wait(wait.id)
        return [to for to, _, _ in sent] == ["everybody"] and notice.tries == 1

    await wait_until(b_is_told, 30)
    [notice] = await desk.ledger.notices.of_wait(wait.id)
    assert "the pigeon did not fly" in notice.note
    assert notice.next_try_at > notice.created_at
    assert notice.done_at is None


async def test_the_keeper_sends_them(desk: Desk, notifier: Notifier) -> None:
    await opened(desk, str(uuid4()), "finance")
    assert await Keeper(desk.ledger, lambda: PrefectClient(desk.url)).tick(), "one round, as the housekeeping flow does"
    assert [to for to, _, _ in sent] == ["finance"]


async def test_what_is_settled_meanwhile_is_not_asked(desk: Desk, notifier: Notifier) -> None:
    wait = await opened(desk, "a", "finance")
    await desk.ledger.runs.end("a", 1, "cancelled")  # type: ignore[arg-type]

    await all_done(desk, notifier, [wait])
    assert sent == []
    [notice] = await desk.ledger.notices.of_wait(wait.id)
    assert notice.note == "the wait is not open any more"


async def test_a_notice_is_sent_once_however_many_send(desk: Desk, notifier: Notifier) -> None:
    """Two senders saw the same notice due: one of them has it, also when the other comes after it was sent."""
    wait = await opened(desk, "a", "finance")
    [seen] = await desk.ledger.notices.due()
    others = [Notifier(desk.ledger, lambda: PrefectClient(desk.url)) for _ in range(3)]
    for one in others:
        await one.tick()
    for one in others:
        await one.finish()
    await all_done(desk, notifier, [wait])
    assert [to for to, _, _ in sent] == ["finance"]
    assert not await desk.ledger.notices.claim(seen)


async def test_a_notice_whose_sender_died_is_due_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await opened(desk, "a", "finance")
    [notice] = await desk.ledger.notices.due()
    assert await desk.ledger.notices.claim(notice)
    assert await desk.ledger.notices.due() == []
    later = clock.utcnow() + SENDING
    monkeypatch.setattr(clock, "_source", lambda: later)
    assert [again.id for again in await desk.ledger.notices.due()] == [notice.id]


async def test_what_is_told_names_how_to_answer(desk: Desk) -> None:
    wait = await opened(desk, "a", "finance")
    subject, body = message(wait, "escalated", "http://prefect.example")
    assert subject == "a?"
    assert body.startswith("An agent waits, nobody has answered, and now you are asked.")
    assert "http://prefect.example/runs/flow-run/a" in body
