"""Invoices beside their purchase orders: which order is found, what differs, and who else claims it."""

import asyncio
from decimal import Decimal

import pytest

from tasks.decline import mark_declined
from tasks.match_order import match, match_order
from tasks.models import Invoice, Match
from tasks.register_invoice import register
from tests.invoices.documents import (
    CREDIT_NOTE,
    IN_POLICY,
    NO_ORDER,
    ORDERS,
    OVER_LIMIT,
    PRICE_DIFFERS,
    document,
    invoice,
)

D = Decimal


async def matched(document: Invoice, books_url: str) -> Match:
    return await match(document, books_url, ORDERS)


def told(match: Match) -> list[tuple[str, str, str, str]]:
    return [(each.kind, each.where, each.ordered, each.invoiced) for each in match.differences]


async def test_an_invoice_that_fits_its_order_has_no_difference(books_url: str) -> None:
    found = await matched(document(IN_POLICY), books_url)
    assert (found.order_id, found.matched_by, found.order_account) == ("PO-2026-0041", "reference", "4930")
    assert (found.order_total, found.differences) == (D("714.80"), [])
    assert not found.within_policy, "matching alone allows nothing"


async def test_the_step_uses_the_default_books() -> None:
    assert (await match_order(document(IN_POLICY))).order_id == "PO-2026-0041"


async def test_a_higher_price_and_total_are_named_with_their_percentage(books_url: str) -> None:
    found = await matched(document(PRICE_DIFFERS), books_url)
    assert told(found) == [
        ("price", "line 1 price", "58 EUR", "64 EUR"),
        ("total", "order total without VAT", "696.00 EUR", "768.00 EUR"),
    ]
    assert [each.over_percent for each in found.differences] == [D("10.34"), D("10.34")]


async def test_a_discounted_total_below_the_order_is_fine(books_url: str) -> None:
    assert (await matched(document(OVER_LIMIT), books_url)).differences == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"supplier__identifiers": ["DE1"], "supplier__id": "DE1"}, ("supplier", "supplier", "DE900000527", "DE1")),
        (
            {"payment_account": "DE00999000110000527001"},
            ("account", "account to pay to", "DE09999000110000527001", "DE00999000110000527001"),
        ),
        ({"currency": "SEK"}, ("currency", "currency", "EUR", "SEK")),
        ({"lines__0__unit": "BX"}, ("unit", "line 1 unit", "C62", "BX")),
        ({"lines__0__item_id": "XX-1"}, ("line", "line 1 item", "PL-8025", "XX-1")),
        (
            {"lines__0__order_line": "9", "lines__0__item_id": "XX-1", "lines__0__name": "Gift card"},
            ("line", "line 1", "not in the order", "Gift card"),
        ),
        (
            {"lines__0__quantity": D(21), "lines__0__net": D("493.50")},
            ("quantity", "order line 1 quantity", "20", "21"),
        ),
        ({"lines__0__net": D("470.03")}, ("price", "line 1 price", "23.5 EUR", "23.5015 EUR")),
        ({"lines__0__net": D("400.00")}, ("price", "line 1 price", "23.5 EUR", "20 EUR")),
        (
            {"totals__tax_exclusive": D("714.83")},
            ("total", "order total without VAT", "714.80 EUR", "714.83 EUR"),
        ),
        ({"order_reference": "PO-9"}, ("order", "order reference", "no such order", "PO-9")),
    ],
)
async def test_each_difference_is_named(
    books_url: str, change: dict[str, object], expected: tuple[str, str, str, str]
) -> None:
    assert told(await matched(invoice(IN_POLICY, **change), books_url)) == [expected]


async def test_lines_are_found_by_item_or_by_name_when_they_refer_to_no_order_line(books_url: str) -> None:
    by_item = invoice(IN_POLICY, lines__0__order_line=None, lines__0__name="?")
    by_name = invoice(IN_POLICY, lines__0__order_line=None, lines__0__item_id=None)
    for each in (by_item, by_name):
        assert (await matched(each, books_url)).differences == []


async def test_lines_of_one_order_line_are_added_up(books_url: str) -> None:
    read = document(IN_POLICY)
    half = read.lines[0].model_copy(update={"quantity": D(10), "net": D("235.00")})
    both = read.model_copy(update={"lines": [half, half, read.lines[1]]})
    assert (await matched(both, books_url)).differences == []
    thrice = read.model_copy(update={"lines": [half, half, half, read.lines[1]]})
    assert told(await matched(thrice, books_url)) == [("quantity", "order line 1 quantity", "20", "30")]


async def test_a_part_of_the_order_is_no_difference(books_url: str) -> None:
    part = invoice(IN_POLICY, lines__0__quantity=D(5), lines__0__net=D("117.50"), totals__tax_exclusive=D("362.30"))
    assert (await matched(part, books_url)).differences == []


async def test_an_order_is_found_by_supplier_and_amount_when_none_is_named(books_url: str) -> None:
    found = await matched(invoice(IN_POLICY, order_reference=None), books_url)
    assert (found.order_id, found.matched_by) == ("PO-2026-0041", "amount")


@pytest.mark.parametrize("change", [{"totals__tax_exclusive": D("700.00")}, {"supplier__identifiers": ["DE1"]}])
async def test_another_amount_or_supplier_finds_no_order(books_url: str, change: dict[str, object]) -> None:
    found = await matched(invoice(IN_POLICY, order_reference=None, **change), books_url)
    assert (found.order_id, found.matched_by, found.differences) == (None, None, [])


async def test_nothing_is_found_for_what_nobody_ordered(books_url: str) -> None:
    assert (await matched(document(NO_ORDER), books_url)).order_id is None


async def test_a_second_invoice_for_the_same_goods_is_over_the_order(any_books_url: str) -> None:
    first, second = document(IN_POLICY), invoice(IN_POLICY, number="RE-26-1188")
    for each, run in ((first, "run-1"), (second, "run-2")):
        await register(each, run, any_books_url)
    assert (await matched(first, any_books_url)).differences == []
    found = await matched(second, any_books_url)
    assert found.claimed_before == D("714.80")
    assert told(found) == [("total", "order total without VAT", "714.80 EUR", "1,429.60 EUR")]
    assert found.differences[0].over_percent == D("100.00")
    unnamed = await matched(invoice(IN_POLICY, number="RE-26-1189", order_reference=None), any_books_url)
    assert unnamed.order_id is None, "the order has nothing left to claim"


async def test_matching_again_does_not_count_its_own_claim(books_url: str) -> None:
    await register(document(IN_POLICY), "run-1", books_url)
    for _ in range(2):
        assert (await matched(document(IN_POLICY), books_url)).differences == []


async def test_of_two_at_once_only_one_fits(any_books_url: str) -> None:
    both = [document(IN_POLICY), invoice(IN_POLICY, number="RE-26-1188")]
    for number, each in enumerate(both):
        await register(each, f"run-{number}", any_books_url)
    found = await asyncio.gather(*(matched(each, any_books_url) for each in both))
    assert sorted(len(each.differences) for each in found) == [0, 1]


async def test_a_declined_invoice_claims_nothing(books_url: str) -> None:
    first, second = document(IN_POLICY), invoice(IN_POLICY, number="RE-26-1188")
    await register(first, "run-1", books_url)
    await matched(first, books_url)
    await mark_declined(first, books_url)
    assert (await matched(second, books_url)).differences == []


async def test_a_credit_note_matches_its_order_and_gives_nothing_back_to_it(books_url: str) -> None:
    note = document(CREDIT_NOTE)
    await register(note, "run-1", books_url)
    found = await matched(note, books_url)
    assert (found.order_id, found.differences) == ("PO-2026-0041", [])
    assert (await matched(document(IN_POLICY), books_url)).claimed_before == 0


async def test_a_credit_note_without_a_reference_takes_the_order_of_what_it_credits(books_url: str) -> None:
    note = invoice(CREDIT_NOTE, order_reference=None)
    assert (await matched(note, books_url)).order_id is None
    await register(document(IN_POLICY), "run-1", books_url)
    await matched(document(IN_POLICY), books_url)
    found = await matched(note, books_url)
    assert (found.order_id, found.matched_by) == ("PO-2026-0041", "credited invoice")


async def test_a_reference_is_found_whatever_its_spelling(books_url: str) -> None:
    assert (await matched(invoice(IN_POLICY, order_reference="po-2026-00 41"), books_url)).order_id == "PO-2026-0041"
