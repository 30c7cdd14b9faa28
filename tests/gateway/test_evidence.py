"""Evidence is shown as Markdown, and costs nobody else their time."""

from __future__ import annotations

import asyncio
import threading
from html import escape
from time import process_time

import pytest

from standby import Approval
from standby.gateway import pages
from standby.links import address_of, link_for
from tests.gateway.conftest import Gate
from tests.ledger.acts import parked
from tests.support.waiting import wait_until

SLOW = {
    "brackets": "[" * 100_000,
    "labels": "[x\n" * 30_000,
    "columns": "|" + "a|" * 2000 + "\n|" + "-|" * 2000 + "\n" + "|\n" * 40_000,
    "quotes": "> " * 15 + "<a>\n" + "a\n" * 45_000,
}


async def page_of(door: Gate, evidence: str) -> str:
    """The address of a page that shows it."""
    [wait] = (await parked(door.ledger, [Approval("Pay?", show=evidence).row("approval")])).waits
    return await address_of(door.ledger, await link_for(door.ledger, wait, "ada"), "")


@pytest.mark.parametrize("kind", SLOW)
async def test_what_is_made_to_be_slow_is_shown_as_the_text_that_it_is(
    door: Gate, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(pages, "RENDER_SECONDS", 0.2)  # the fastest machine takes some times that for each of them
    path = await page_of(door, SLOW[kind])
    before = process_time()
    page = await door.client.get(path)
    assert process_time() - before < pages.RENDER_SECONDS + 1
    assert f"<pre>{escape(SLOW[kind])}</pre>" in page.text


async def test_ordinary_evidence_is_markdown_however_long(door: Gate) -> None:
    row = "| Installation, two days | 1,240.00 | 4930 |\n"
    part = "**Known** since 2019, see [the order](https://orders.example/1).\n\n"
    page = await door.client.get(await page_of(door, part * 600 + "| item | EUR | account |\n|-|-:|-|\n" + row * 1200))
    assert (page.text.count("<strong>Known</strong>"), page.text.count("<td class")) == (600, 1200)
    assert "(cut)" not in page.text


async def test_others_are_answered_while_evidence_is_rendered(door: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    path = await page_of(door, "it *is* so")
    begun, go_on = threading.Event(), threading.Event()
    plain = pages._rendered

    def slow(markdown: str) -> str:
        begun.set()
        go_on.wait(10)
        return plain(markdown)

    monkeypatch.setattr(pages, "_rendered", slow)
    showing = asyncio.create_task(door.client.get(path))
    await wait_until(begun.is_set, 10)
    assert (await door.client.get("/health")).status_code == 200
    assert not showing.done()
    go_on.set()
    assert "it <em>is</em> so" in (await showing).text
