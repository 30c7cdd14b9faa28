"""The books' database and the purchase order file."""

import asyncio
import threading
from decimal import Decimal
from pathlib import Path

import pytest
from sqlmodel import col, select

from tasks.errors import BadOrderFile, BooksError
from tasks.match_order import match
from tasks.order_file import read_orders, seed_orders
from tasks.orders import OrderLine, PurchaseOrder, identifier, open_books
from tests.invoices.documents import IN_POLICY, ORDERS, document

HEADER, FIRST, *_ = ORDERS.read_text(encoding="utf-8").splitlines()


def test_the_sample_orders_are_read_exactly() -> None:
    orders, lines = read_orders(ORDERS)
    assert [order.id for order in orders] == ["PO-2026-0041", "PO-2026-0042", "PO-2026-0043", "PO-2026-0044"]
    assert orders[0].supplier_account == "DE09999000110000527001"
    assert lines[1].unit_price == Decimal("0.04896")
    assert lines[1].total == Decimal("244.80")


@pytest.mark.parametrize(
    ("text", "line", "column", "reason"),
    [
        ("order_id,supplier_id\n", 1, "supplier_name", "the column is missing"),
        ("", 1, "order_id", "the column is missing"),
        (f"{HEADER}\n{FIRST.replace('23.50', 'NaN')}\n", 2, "unit_price", "'NaN' is not a number"),
        (f"{HEADER}\n{FIRST.replace(',20,', ',twenty,')}\n", 2, "quantity", "'twenty' is not a number"),
        (f"{HEADER}\n{FIRST.replace(',20,', ',-1,')}\n", 2, "quantity", "'-1' is not a number of at least 0"),
        (f"{HEADER}\n{FIRST.replace('PO-2026-0041', '')}\n", 2, "order_id", "it is empty"),
        (f"{HEADER}\n{FIRST}\n{FIRST}\n", 3, "line_id", "order PO-2026-0041 has it twice"),
        (f"{HEADER}\n{FIRST}\n{FIRST.replace('EUR', 'SEK')}\n", 3, "currency", "differs from the other rows of order"),
        (f"{HEADER}\nPO-1\n", 2, "supplier_id", "it is empty"),
    ],
)
def test_a_bad_order_file_is_named_by_line_and_column(
    tmp_path: Path, text: str, line: int, column: str, reason: str
) -> None:
    path = tmp_path / "orders.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadOrderFile) as caught:
        read_orders(path)
    assert f"orders.csv, line {line}, column {column}: " in str(caught.value)
    assert reason in str(caught.value)


async def test_an_order_file_that_is_not_there_or_not_text_is_named(books_url: str, tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes(f"{HEADER}\n".encode() + b"\xfc")
    for name, reason in (("gone.csv", "No such file"), ("latin.csv", "not UTF-8")):
        with pytest.raises(BooksError, match=f"{name}.*{reason}"):
            await match(document(IN_POLICY), books_url, tmp_path / name)


async def test_seeding_twice_adds_nothing_and_changes_nothing(any_books_url: str) -> None:
    async with open_books(any_books_url) as session:
        assert await seed_orders(session, ORDERS) == 4
        order = await session.get(PurchaseOrder, "PO-2026-0041")
        assert order is not None
        order.account = "9999"
    async with open_books(any_books_url) as session:
        assert await seed_orders(session, ORDERS) == 0
        order = await session.get(PurchaseOrder, "PO-2026-0041")
        assert order is not None
        assert order.account == "9999"
        prices = list(await session.exec(select(col(OrderLine.unit_price)).where(OrderLine.order_id == order.id)))
        assert sorted(prices) == [Decimal("0.04896"), Decimal("23.50")]


async def test_what_fails_in_the_books_leaves_nothing(any_books_url: str) -> None:
    async def fail() -> None:
        async with open_books(any_books_url) as session:
            await seed_orders(session, ORDERS)
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    async with open_books(any_books_url) as session:
        assert list(await session.exec(select(PurchaseOrder))) == []


async def test_many_at_once_seed_once(any_books_url: str) -> None:
    async def seed() -> int:
        async with open_books(any_books_url) as session:
            return await seed_orders(session, ORDERS)

    assert sorted(await asyncio.gather(*(seed() for _ in range(8)))) == [0, 0, 0, 0, 0, 0, 0, 4]


@pytest.mark.parametrize("url", ["mysql://root:hunter2@localhost/books", "books.db", ""])
async def test_an_address_of_another_kind_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(BooksError, match="neither sqlite:///path nor postgresql://") as caught:
        async with open_books(url):
            pass
    assert "hunter2" not in str(caught.value)


async def test_a_database_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for url in (f"sqlite:///{tmp_path}", f"sqlite:///{tmp_path}/file/books.db"):
        with pytest.raises(BooksError, match=f"The books at .*{tmp_path}.* cannot be used") as caught:
            async with open_books(url):
                pass
        assert "block books" in str(caught.value)
    # aiosqlite ends the thread of a connection that failed by itself, and reports that to the loop.
    for thread in threading.enumerate():
        if "_connection_worker_thread" in thread.name:
            await asyncio.to_thread(thread.join, 5)


async def test_a_postgresql_that_is_away_is_named_without_its_password() -> None:
    with pytest.raises(
        BooksError, match=r"postgresql\+asyncpg://me:\*\*\*@127\.0\.0\.1:1/books cannot be used"
    ) as caught:
        async with open_books("postgresql://me:hunter2@127.0.0.1:1/books"):
            pass
    assert "hunter2" not in str(caught.value)


def test_spelling_does_not_make_another_identifier() -> None:
    assert identifier(" po-2026 0041\t") == identifier("PO-20260041") == identifier("ＰＯ-20260041")
