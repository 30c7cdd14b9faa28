"""Nothing is processed twice: the second run of the same document is told about the first."""

import asyncio
from decimal import Decimal

import pytest

from tasks.book import Accounts, enter
from tasks.decline import decline, mark_declined
from tasks.errors import DuplicateInvoice
from tasks.models import PaymentDecision
from tasks.register_invoice import register, register_invoice
from tests.invoices.documents import CREDIT_NOTE, IN_POLICY, document, invoice


async def test_the_same_run_may_register_again(books_url: str) -> None:
    read = document(IN_POLICY)
    assert [await register(read, "run-1", books_url) for _ in range(3)] == [True, False, False]


async def test_another_run_is_told_the_file_the_number_and_the_earlier_run() -> None:
    await register_invoice(document(IN_POLICY), "run-1")
    again = document(IN_POLICY).model_copy(update={"source": "copy.xml"})
    with pytest.raises(DuplicateInvoice) as caught:
        await register_invoice(again, "run-2")
    assert str(caught.value) == (
        "copy.xml: cbc:ID: 'RE-26-1187' of Papierhof Lindner OHG was already registered from 01-in-policy.xml by run "
        "run-1. Look at that run; nothing was paid or booked for this file."
    )
    assert (caught.value.earlier_file, caught.value.earlier_run) == ("01-in-policy.xml", "run-1")


@pytest.mark.parametrize("number", ["re-26-1187", "RE-26 - 1187", "ＲＥ-26-1187"])
async def test_another_spelling_of_the_number_is_the_same_document(any_books_url: str, number: str) -> None:
    await register(document(IN_POLICY), "run-1", any_books_url)
    with pytest.raises(DuplicateInvoice):
        await register(invoice(IN_POLICY, number=number), "run-2", any_books_url)


async def test_other_suppliers_numbers_and_kinds_are_other_documents(books_url: str) -> None:
    others = [
        document(IN_POLICY),
        invoice(IN_POLICY, number="RE-26-1188"),
        invoice(IN_POLICY, supplier__id="DE1"),
        invoice(CREDIT_NOTE, number="RE-26-1187"),
    ]
    assert [await register(each, f"run-{n}", books_url) for n, each in enumerate(others)] == [True] * 4


async def test_of_many_runs_at_once_one_wins(any_books_url: str) -> None:
    async def attempt(run: int) -> bool:
        try:
            return await register(document(IN_POLICY), f"run-{run}", any_books_url)
        except DuplicateInvoice:
            return False

    assert sorted(await asyncio.gather(*(attempt(run) for run in range(8)))) == [False] * 7 + [True]


async def test_a_declined_document_may_come_again(books_url: str) -> None:
    read = document(IN_POLICY)
    await register(read, "run-1", books_url)
    receipt = await decline(read, PaymentDecision(approved=False, comment="no answer"))
    assert (receipt.outcome, receipt.comment, receipt.amount) == ("declined", "no answer", Decimal(0))
    assert await register(read, "run-2", books_url)
    with pytest.raises(DuplicateInvoice, match="by run run-2"):
        await register(read, "run-3", books_url)


async def test_a_booked_document_cannot_be_declined_any_more(books_url: str) -> None:
    read = document(IN_POLICY)
    await register(read, "run-1", books_url)
    await enter(read, None, None, read.amount_due, Accounts("4000", "2640", "2440", "1930"), "key", books_url)
    await mark_declined(read, books_url)
    with pytest.raises(DuplicateInvoice):
        await register(read, "run-2", books_url)


async def test_declining_what_was_never_registered_changes_nothing(books_url: str) -> None:
    await mark_declined(document(IN_POLICY), books_url)
    assert await register(document(IN_POLICY), "run-1", books_url)
