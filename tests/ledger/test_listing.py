"""Open waits, page by page: each once, what people are asked first."""

from __future__ import annotations

from typing import Any

from standby.ledger import Ledger
from standby.states import WaitKind
from tests.ledger.acts import answer, approval, parked, signal


async def walked(ledger: Ledger, limit: int, **which: Any) -> list[list[str]]:
    """The runs that wait, by page."""
    pages, after = [], None
    while True:
        page = await ledger.listing.page(limit, after=after, **which)
        assert page is not None
        pages.append([wait.run_id for wait in page.waits])
        if (after := page.after) is None:
            return pages


async def test_pages_have_all_that_is_waited_for_with_the_questions_first(ledger: Ledger) -> None:
    for run in ("a", "b", "c"):
        await parked(ledger, [signal(correlation=run)], run=run)
    asked = [(await parked(ledger, [approval(party=party)], run=run)).waits[0]
             for run, party in (("d", "finance"), ("e", "law"))]  # fmt: skip
    assert await walked(ledger, 2) == [["d", "e"], ["a", "b"], ["c"]]
    assert await walked(ledger, 5) == [["d", "e", "a", "b", "c"]]
    assert await walked(ledger, 9, kinds=[WaitKind.SIGNAL]) == [["a", "b", "c"]]
    assert await walked(ledger, 1, kinds=[WaitKind.SIGNAL, WaitKind.APPROVAL], party="law") == [["e"]]
    assert await ledger.listing.page(1, after="no such wait") is None
    await answer(ledger, asked[0].id)
    after = await ledger.listing.page(9, after=asked[0].id)
    assert after is not None
    assert [wait.run_id for wait in after.waits] == ["e", "a", "b", "c"], "one that is settled by now keeps its place"
