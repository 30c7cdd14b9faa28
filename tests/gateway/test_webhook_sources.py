"""Blocks are known without a call for each name: neither strangers nor a Prefect that hangs stop a known source."""

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from standby.gateway import webhook_source
from standby.gateway.webhook_source import SourcesUnknown, WebhookSource, WebhookSources
from tests.support.waiting import wait_until


def document(name: str, **data: Any) -> Any:
    """A block as Prefect's API has it."""
    return SimpleNamespace(name=name, data=data)


class Prefect:
    """A server with these blocks; what it does when it is asked is ``then``."""

    def __init__(self, *documents: Any) -> None:
        self.documents, self.asked = list(documents), 0
        self.then: Any = asyncio.sleep

    async def read_block_documents_by_type(self, slug: str) -> list[Any]:
        assert slug == "webhook-source"
        self.asked += 1
        await self.then(0)
        return list(self.documents)


async def hangs(_: float) -> None:
    await asyncio.Event().wait()


async def refuses(_: float) -> None:
    raise httpx.ConnectError("nobody listens")


BANK = document("bank", scheme="hmac", secrets=["s"])


@pytest.fixture
def prefect() -> Prefect:
    return Prefect(BANK)


@pytest.fixture
def sources(prefect: Prefect) -> WebhookSources:
    return WebhookSources(prefect)  # type: ignore[arg-type]


async def is_bank(sources: WebhookSources) -> bool:
    return isinstance(await sources.find("bank"), WebhookSource)


async def test_names_that_strangers_try_cost_one_call_and_no_known_source(
    prefect: Prefect, sources: WebhookSources, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await is_bank(sources)
    monkeypatch.setattr(webhook_source, "UNKNOWN_SECONDS", 0)
    go = asyncio.Event()
    prefect.then = lambda _: go.wait()
    strangers = [asyncio.create_task(sources.find(f"name {number}")) for number in range(2000)]
    await wait_until(lambda: prefect.asked == 2, 5)
    async with asyncio.timeout(1):
        assert await is_bank(sources), "while they are being looked for"
    go.set()
    assert set(await asyncio.gather(*strangers)) == {None}
    assert await is_bank(sources)
    assert prefect.asked == 2


@pytest.mark.parametrize("then", [hangs, refuses])
async def test_a_known_source_stays_while_prefect_cannot_be_asked(
    prefect: Prefect, sources: WebhookSources, monkeypatch: pytest.MonkeyPatch, then: Any
) -> None:
    """Of a name that is not known it is not said that it has no block."""

    def then_does(what: Any, seconds: float) -> None:
        monkeypatch.setattr(webhook_source, "LOOK_SECONDS", seconds)
        prefect.then = what

    then_does(then, 0.05)
    with pytest.raises(SourcesUnknown):
        await sources.find("bank")
    monkeypatch.setattr(webhook_source, "UNKNOWN_SECONDS", 0)
    then_does(asyncio.sleep, 30)
    assert await is_bank(sources)
    then_does(then, 0.05)
    monkeypatch.setattr(webhook_source, "KEPT_SECONDS", 0)
    async with asyncio.timeout(2):
        assert await is_bank(sources)
    with pytest.raises(SourcesUnknown):
        await sources.find("shop")
    then_does(asyncio.sleep, 30)
    assert await sources.find("shop") is None


async def test_who_goes_away_takes_the_look_from_nobody(prefect: Prefect, sources: WebhookSources) -> None:
    """A request that is over its time is cancelled while others wait for the same answer."""
    go = asyncio.Event()
    prefect.then = lambda _: go.wait()
    first, second = (asyncio.create_task(sources.find("bank")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    go.set()
    assert isinstance(await second, WebhookSource)


async def test_changed_new_and_deleted_blocks_are_seen(
    prefect: Prefect, sources: WebhookSources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that cannot be used stops no other."""
    assert await is_bank(sources)
    monkeypatch.setattr(webhook_source, "KEPT_SECONDS", 0)
    broken = document("broken", scheme="hmac", secrets=[])
    open_to_all = document("open", scheme="hmac", secrets=["s", ""])
    prefect.documents = [
        broken,
        open_to_all,
        document("bank", scheme="stripe", secrets=["s"]),
        document("shop", **BANK.data),
    ]
    bank = await sources.find("bank")
    assert bank is not None
    assert bank.scheme == "stripe"
    assert await sources.find("shop") is not None
    assert await sources.find("broken") is None
    assert await sources.find("open") is None
    prefect.documents.pop()
    assert await sources.find("shop") is None
