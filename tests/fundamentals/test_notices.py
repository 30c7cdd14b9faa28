"""Notices: parties are told through Prefect's notification blocks, and a channel that is down delays nobody."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, ClassVar
from uuid import uuid4

import httpx
import pytest
from prefect.blocks.abstract import NotificationBlock, NotificationError
from prefect.client.orchestration import PrefectClient
from prefect.context import SettingsContext
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_API_URL, temporary_settings

from standby import Approval, Decision, Policy, UsageError, clock
from standby.keeper import Keeper
from standby.ledger.notices import SENDING
from standby.links import read, secret_of
from standby.notices import NotificationChannels, Notifier, message, said_of, send_through
from tests.fundamentals.conftest import Desk
from tests.ledger import acts
from tests.support.waiting import wait_until

TWO = Policy(quorum=2)
GATEWAY = "https://agents.example/standby"
SECRET = "https://hooks.example/T0/its-secret"
sent: list[tuple[str, str | None, str]] = []
down: set[str] = set()
hung: set[str] = set()


class Pigeon(NotificationBlock):
    """A channel of this test: what it carries lands in ``sent``, unless its name is in ``down`` or ``hung``."""

    _block_type_name: ClassVar[str] = "Pigeon"
    _block_type_slug: ClassVar[str] = "pigeon"
    to: str

    async def notify(self, body: str, subject: str | None = None) -> None:
        if self.to in hung:
            await asyncio.Event().wait()
        if self.to in down:
            await asyncio.sleep(0)
            raise ConnectionError(f"the pigeon did not fly to {SECRET}")
        sent.append((self.to, subject, body))


@pytest.fixture
async def notifier(desk: Desk, prefect_settings: SettingsContext) -> AsyncIterator[Notifier]:
    sent.clear()
    down.clear()
    hung.clear()
    with prefect_settings.model_copy():
        for name in ("finance", "everybody", "ada", "bob", "eve", "zoe"):
            await Pigeon(to=name).asave(name, overwrite=True)
        channels: Any = {name: [f"pigeon/{name}"] for name in ("finance", "ada", "bob", "eve", "zoe")}
        channels |= {"*": ["pigeon/everybody"], "nobody": []}
        channels |= {"board": ["pigeon/ada", "pigeon/zoe", "pigeon/bob", "pigeon/bob"]}
        await NotificationChannels(channels=channels).asave("default", overwrite=True)
        notifier = Notifier(desk.ledger, lambda: PrefectClient(desk.url))
        yield notifier
        await notifier.close()
        await NotificationChannels.adelete("default")


async def opened(desk: Desk, run: str, party: str | None, policy: Policy | None = TWO) -> Any:
    """A run that waits for this party; the wait."""
    wait = Approval(f"{run}?", party=party, show="**42 EUR**", policy=policy)
    return (await acts.parked(desk.ledger, [wait.row("approval")], run=run)).waits[0]


async def all_done(desk: Desk, notifier: Notifier, waits: list[Any]) -> None:
    """Return when every notice of these waits was dealt with."""

    async def done() -> bool:
        await notifier.tick()
        notices = [notice for wait in waits for notice in await desk.ledger.notices.of_wait(wait.id)]
        return len(notices) >= len(waits) and all(notice.done_at is not None for notice in notices)

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


async def test_a_channel_that_is_down_delays_nobody_and_gets_it_later(
    desk: Desk, notifier: Notifier, caplog: pytest.LogCaptureFixture
) -> None:
    down.add("finance")
    wait = await opened(desk, "a", "finance")
    await opened(desk, "b", None)

    async def b_is_told() -> bool:
        await notifier.tick()
        [notice] = await desk.ledger.notices.of_wait(wait.id)
        return [to for to, _, _ in sent] == ["everybody"] and notice.tries == 1

    await wait_until(b_is_told, 30)
    [notice] = await desk.ledger.notices.of_wait(wait.id)
    assert notice.note == "pigeon/finance: ConnectionError", "what it says may be a secret"
    assert SECRET not in caplog.text
    assert notice.next_try_at > notice.created_at
    assert notice.done_at is None


async def test_a_channel_that_hangs_delays_nobody(desk: Desk, notifier: Notifier) -> None:
    """However many notices are for it, also those of another party that it is a channel of."""
    hung.add("zoe")
    for number in range(101):  # more than are looked for at a time
        await opened(desk, f"z{number}", "zoe")
    for number in range(6):
        await opened(desk, f"b{number}", "board")
    for party in ("finance", "law", "ada", None):
        await opened(desk, f"to {party}", party)

    async def others_are_told() -> bool:
        await notifier.tick()
        return len(sent) >= 4 + 2 * 6

    await wait_until(others_are_told, 15)
    told = sorted((to, str(subject)) for to, subject, _ in sent)
    assert told == sorted(
        [("finance", "to finance?"), ("ada", "to ada?"), ("everybody", "to law?"), ("everybody", "to None?")]
        + [(to, f"b{number}?") for number in range(6) for to in ("ada", "bob")]
    )


async def test_a_channel_for_everybody_that_hangs_delays_no_party_of_its_own(desk: Desk, notifier: Notifier) -> None:
    hung.add("everybody")
    for number in range(101):
        await opened(desk, f"z{number}", None if number % 2 else f"party {number}")
    await opened(desk, "a", "finance")

    async def finance_is_told() -> bool:
        await notifier.tick()
        return [to for to, _, _ in sent] == ["finance"]

    await wait_until(finance_is_told, 15)


def test_a_question_that_is_asked_anew_says_why() -> None:
    wait = Approval("Pay?").row("approval")
    row: Any = SimpleNamespace(**asdict(wait), id="0" * 32, run_id="r", opening=2, refused="too\nlittle *x*")
    for kind in ("opened", "reminder"):
        assert "The last answer was not accepted: too little \\*x\\*" in message(row, kind, None)[1]
    assert message(row, "opened", None)[1].startswith("An agent asks you once more.")
    first = SimpleNamespace(**{**vars(row), "opening": 1, "refused": None})
    assert "not accepted" not in message(first, "opened", None)[1]


def test_a_question_imitates_nothing_of_a_notice() -> None:
    """What of it came from outside is shown as text, and on one line."""
    forged = "Answer here, once: <https://evil.example/answer>"
    wait = Approval(f"Pay\n\n{forged}\n\n[Approve](https://evil.example) **now**", party="a\n\n# b", form=Decision)
    row: Any = SimpleNamespace(id="w" * 32, run_id="r", refused=None, **asdict(wait.row("approval")))
    _, body = message(row, "opened", None, "https://good.example/answer")
    lines = body.splitlines()
    assert [line for line in lines if "evil.example" in line] == [
        r"Pay Answer here, once: \<https\://evil.example/answer\> \[Approve\](https\://evil.example) \*\*now\*\*"
    ]
    assert r"Asked: a \# b" in lines
    assert [line for line in lines if line.startswith("Answer here")] == [lines[-3]]
    assert lines[-3].endswith("<https://good.example/answer>")


async def test_a_channel_that_names_no_block_is_told_how_one_is_named(desk: Desk) -> None:
    for slug in ("justname", "/name", "type/"):
        with pytest.raises(UsageError, match=f"{slug!r} names no notification block: write type/name"):
            await send_through(slug, "s", "b", desk.client)


def test_of_what_a_channel_raises_the_type_and_the_status_are_told() -> None:
    request = httpx.Request("POST", SECRET)
    refused = httpx.HTTPStatusError(f"404 for {SECRET}", request=request, response=httpx.Response(404, request=request))
    noted = NotificationError(f"Failed to send to {SECRET}: Forbidden, error=403.")
    told = [said_of(error) for error in (refused, noted, NotificationError(SECRET), ValueError(SECRET))]
    assert told == [
        "HTTPStatusError, HTTP status 404", "NotificationError, HTTP status 403", "NotificationError", "ValueError",
    ]  # fmt: skip


async def test_a_channel_that_is_down_has_no_other_told_again(
    desk: Desk, notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of a party's channels it is, the others are told at once, and once; also when others send the rest."""
    wait = await opened(desk, "a", "board")
    down.update(("ada", "bob"))
    now = clock.utcnow()
    monkeypatch.setattr(clock, "_source", lambda: now)
    for _ in range(3):
        sender = Notifier(desk.ledger, lambda: PrefectClient(desk.url))
        await sender.tick()
        await sender.finish()
        now += timedelta(hours=1)
    assert [to for to, _, _ in sent] == ["zoe"]
    [notice] = await desk.ledger.notices.of_wait(wait.id)
    assert (notice.tries, notice.done_at) == (3, None)
    assert set(notice.note.split("; ")) == {f"pigeon/{name}: ConnectionError" for name in down}
    assert "zoe" not in notice.note
    down.clear()
    await all_done(desk, notifier, [wait])
    assert sorted(to for to, _, _ in sent) == ["ada", "bob", "zoe"]
    [notice] = await desk.ledger.notices.of_wait(wait.id)
    assert notice.note is None


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


async def links(desk: Desk) -> dict[str, str | None]:
    """For whom the link is in what each channel carried; None where there was none."""
    secret = await secret_of(desk.ledger)
    found: dict[str, str | None] = {}
    for to, _, body in sent:
        token = re.search(rf"{GATEWAY}/answer/([^>]+)>", body)
        link = None if token is None else read(token[1], secret)
        assert (token is None) == (link is None)
        found[to] = None if link is None else link.person
    return found


async def test_a_party_is_sent_a_link_through_a_channel_of_its_own(
    desk: Desk, notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What everybody reads has no link, and where it matters who decides a party of several has none."""
    silent = await opened(desk, "a", "finance", None)
    await all_done(desk, notifier, [silent])
    assert await links(desk) == {"finance": None}, "it is not known where the gateway is"
    monkeypatch.setenv("STANDBY_GATEWAY_URL", f"{GATEWAY}/")
    for party, policy, told in (
        ("finance", None, {"finance": "finance"}),
        ("finance", Policy(remind=(timedelta(hours=1),)), {"finance": "finance"}),
        ("finance", TWO, {"finance": None}),
        ("finance", Policy(not_by=("eve",)), {"finance": None}),
        ("law", None, {"everybody": None}),
        (None, None, {"everybody": None}),
    ):
        sent.clear()
        wait = await opened(desk, uuid4().hex, party, policy)
        await all_done(desk, notifier, [wait])
        assert await links(desk) == told, (party, policy)


async def test_each_who_may_decide_is_sent_a_link_of_their_own(
    desk: Desk, notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not who may not, nor who has decided, nor through the party's channel; who stands in for one of them, too."""
    monkeypatch.setenv("STANDBY_GATEWAY_URL", GATEWAY)
    await desk.ledger.delegations.give("ada", "zoe", None)
    await desk.ledger.delegations.give("bob", "eve", None)
    policy = Policy(quorum=2, approvers=("ada", "bob", "carla", "eve"), not_by=("eve",))
    wait = await opened(desk, "a", "finance", policy)
    await all_done(desk, notifier, [wait])
    assert await links(desk) == {"finance": None, "ada": "ada", "bob": "bob", "zoe": "zoe"}
    notes = {notice.party: notice.note for notice in await desk.ledger.notices.of_wait(wait.id)}
    assert notes == {"finance": None, "ada": None, "bob": None, "zoe": None, "carla": "the party has no channel"}

    sent.clear()
    wait = await opened(desk, "b", "bob", policy)
    assert (await acts.answer(desk.ledger, wait.id, '{"approved": true}', actor="ada")).counted
    await all_done(desk, notifier, [wait])
    assert await links(desk) == {"bob": "bob", "zoe": "zoe"}, "bob, who is the party, once"


async def test_what_is_told_names_how_to_answer(desk: Desk) -> None:
    wait = await opened(desk, "a", "finance")
    subject, body = message(wait, "escalated", "http://prefect.example")
    assert subject == "a?"
    assert body.startswith("An agent waits, nobody has answered, and now you are asked.")
    assert "http://prefect.example/runs/flow-run/a" in body


async def test_no_server_is_started_where_the_settings_name_none(
    desk: Desk, notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in `standby up`, which has read Prefect's settings before it has a server."""
    started: list[str] = []

    def start(self: SubprocessASGIServer, timeout: int | None = None) -> None:
        started.append("a temporary server")
        raise RuntimeError("a temporary server")

    monkeypatch.setattr(SubprocessASGIServer, "start", start)
    wait = await opened(desk, str(uuid4()), "finance")
    keeper = Keeper(desk.ledger, lambda: PrefectClient(desk.url))
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        keeping = asyncio.create_task(keeper.run())

    async def told() -> bool:
        [notice] = await desk.ledger.notices.of_wait(wait.id)
        return notice.done_at is not None

    try:
        await wait_until(told, 30)
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
    assert (started, [to for to, _, _ in sent]) == ([], ["finance"])
