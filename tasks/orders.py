"""The books' database: purchase orders, what is registered against them, and bookings.

One transaction at a time, on both databases: SQLite takes the write lock when a transaction begins, PostgreSQL one
advisory lock. So what is read before a write cannot change under it, and each transaction here is short.
"""

import unicodedata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import Dialect, String, TypeDecorator, UniqueConstraint, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import registry
from sqlalchemy.pool import NullPool
from sqlmodel import Field, SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

from tasks.errors import BooksError

BUSY_SECONDS = 30
"""How long a transaction waits for another process's on SQLite."""
_LOCK = 0x626F6F6B73  # "books"; any number does, as long as it is the same everywhere
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}


class Money(TypeDecorator[Decimal]):
    """A Decimal as text; SQLite has no exact number wide enough."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> str | None:
        return None if value is None else format(value, "f")

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


class Moment(TypeDecorator[datetime]):
    """An aware datetime as ISO text in UTC."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        return None if value is None else value.astimezone(UTC).isoformat(timespec="microseconds")

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return None if value is None else datetime.fromisoformat(value)


class Table(SQLModel, registry=registry()):
    """A registry of its own: the books create their tables and no others."""


class PurchaseOrder(Table, table=True):
    __tablename__ = "purchase_order"

    id: str = Field(primary_key=True)
    supplier_id: str = Field(index=True)
    supplier_name: str
    supplier_account: str | None = None
    currency: str
    account: str | None = None
    """The expense account to book on."""


class OrderLine(Table, table=True):
    __tablename__ = "order_line"

    order_id: str = Field(primary_key=True, foreign_key="purchase_order.id")
    line_id: str = Field(primary_key=True)
    item_id: str | None = None
    description: str
    quantity: Decimal = Field(sa_type=Money)
    unit: str
    unit_price: Decimal = Field(sa_type=Money)

    @property
    def total(self) -> Decimal:
        return self.quantity * self.unit_price


class SeenInvoice(Table, table=True):
    """A document some run works on or has finished: open -> booked | declined; a declined one may be opened again."""

    __tablename__ = "seen_invoice"

    supplier_id: str = Field(primary_key=True)
    kind: str = Field(primary_key=True)
    number_key: str = Field(primary_key=True)
    number: str
    file: str
    run_id: str
    status: str = "open"
    order_id: str | None = Field(default=None, index=True)
    """The order it claims a part of, once it is matched."""
    claims: Decimal = Field(sa_type=Money)
    """Its amount without VAT; 0 for credit notes and negative invoices."""
    registered_at: datetime = Field(sa_type=Moment)


class Booking(Table, table=True):
    """One document's entry in the ledger; its postings add up to zero."""

    __tablename__ = "booking"
    __table_args__ = (UniqueConstraint("supplier_id", "kind", "number_key"),)

    id: int | None = Field(default=None, primary_key=True)
    idempotency_key: str = Field(unique=True)
    supplier_id: str
    kind: str
    number_key: str
    number: str
    currency: str
    order_id: str | None = None
    payment_id: str | None = None
    booked_at: datetime = Field(sa_type=Moment)


class Posting(Table, table=True):
    __tablename__ = "posting"

    id: int | None = Field(default=None, primary_key=True)
    booking_id: int = Field(foreign_key="booking.id", index=True)
    account: str
    amount: Decimal = Field(sa_type=Money)
    """Positive is debit, negative is credit."""


def identifier(text: str) -> str:
    """Two spellings of one number or id become the same: full-width forms, capitals and spaces do not count."""
    return "".join(unicodedata.normalize("NFKC", text).upper().split())


@asynccontextmanager
async def open_books(database_url: str) -> AsyncIterator[AsyncSession]:
    """One transaction on the books, committed when the block ends and undone when it raises. Creates missing tables.

    ``database_url`` is ``sqlite:///path`` or ``postgresql://...``. Raises BooksError when the database cannot be used.
    """
    url = _url(database_url)
    engine = _engine(url)
    try:
        if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
            connection = await session.connection()
            if url.get_backend_name() == "postgresql":
                await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            await connection.run_sync(Table.metadata.create_all)
            yield session
    except (OSError, OperationalError, InterfaceError) as error:
        shown, reason = url.render_as_string(hide_password=True), getattr(error, "orig", None) or error
        raise BooksError(
            f"The books at {shown} cannot be used: {reason}. "
            "Check the database in the block books, that it runs, and that its disk has room."
        ) from error
    finally:
        await engine.dispose()


def _url(database_url: str) -> URL:
    try:
        url = make_url(database_url)
        return url.set(drivername=_DRIVERS[url.get_backend_name()])
    except (ArgumentError, KeyError):
        backend = database_url.partition(":")[0][:40]
        raise BooksError(
            f"The books' database address ({backend}:...) is neither sqlite:///path nor postgresql://... "
            "Correct it in the block books."
        ) from None


def _engine(url: URL) -> AsyncEngine:
    if url.get_backend_name() != "sqlite":
        return create_async_engine(url, poolclass=NullPool)
    engine = create_async_engine(url, poolclass=NullPool, connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine.sync_engine, "connect")
    def _leave_begin_to_us(connection: Any, _record: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine.sync_engine, "begin")
    def _take_the_write_lock(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
