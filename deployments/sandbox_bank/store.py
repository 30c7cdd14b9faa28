"""The bank's database: its tables, and every statement on them.

One connection, one lock, and each transaction is BEGIN IMMEDIATE: what is read before a write cannot change
under it, not even through a second process on the file. Methods block (call them in a thread).
"""

import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import URL, Dialect, Engine, StaticPool, String, TypeDecorator, event
from sqlalchemy.orm import registry
from sqlmodel import Field, Session, SQLModel, col, create_engine, func, select

from deployments.sandbox_bank.wire import (
    Controls,
    Counts,
    LoggedRequest,
    PaymentOrder,
    PaymentStatus,
    PaymentView,
    ReportState,
    ReportView,
    Settled,
    SettlementReport,
    SettleMode,
    Webhook,
)


class Moment(TypeDecorator[datetime]):
    """An aware datetime as ISO text in UTC, always with microseconds, so that text order is time order."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone.")
        return value.astimezone(UTC).isoformat(timespec="microseconds")

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return None if value is None else datetime.fromisoformat(value)


class Money(TypeDecorator[Decimal]):
    """A Decimal as the text it was ordered with; SQLite has no exact number wide enough."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> str | None:
        return None if value is None else format(value, "f")

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


class Table(SQLModel, registry=registry()):
    """A registry of its own: in one interpreter with other SQLModel tables the bank creates only its own."""


class Payment(Table, table=True):
    id: str = Field(primary_key=True)
    idempotency_key: str = Field(unique=True)
    amount: Decimal = Field(sa_type=Money)
    currency: str
    creditor_name: str
    creditor_account: str | None
    reference: str
    status: str = Field(index=True)
    created_at: datetime = Field(sa_type=Moment)
    settled_at: datetime | None = Field(default=None, sa_type=Moment)

    def view(self) -> PaymentView:
        return PaymentView.model_validate(self, from_attributes=True)


class Report(Table, table=True):
    """Written in the transaction that settles its payment, with the body fixed there."""

    # Databases from before the bank had webhooks have a table `report` of another shape, which nobody reads any more.
    __tablename__: ClassVar[str] = "webhook_report"

    payment_id: str = Field(primary_key=True, foreign_key="payment.id")
    body: str
    state: str = Field(index=True)
    attempts: int = 0
    settled_at: datetime = Field(sa_type=Moment)
    next_at: datetime = Field(sa_type=Moment)
    refusal: str | None = None


class Request(Table, table=True):
    """Written on arrival, and again when it is answered: a request cut off by a kill still counts."""

    id: int | None = Field(default=None, primary_key=True)
    time: datetime = Field(sa_type=Moment)
    method: str
    path: str
    idempotency_key: str | None = Field(index=True)
    status: int | None = None


class Account(Table, table=True):
    """The one row of where reports go, and with what they are signed; not there until PUT /webhook."""

    id: int = Field(primary_key=True)
    webhook_url: str
    webhook_secret: str


class Setting(Table, table=True):
    """The one row of the sandbox's controls, as JSON."""

    id: int = Field(primary_key=True)
    controls: str


@dataclass(frozen=True)
class Accepted:
    payment: PaymentView
    created: bool
    forgotten: bool
    """The caller must not learn what happened."""


@dataclass(frozen=True)
class DueReport:
    payment_id: str
    body: str
    attempts: int
    settled_at: datetime
    url: str
    secret: str = field(repr=False)


class OrderConflictError(ValueError):
    """An idempotency key came again with another order."""

    def __init__(self, key: str, field: str, first: object, second: object) -> None:
        self.field = field
        super().__init__(
            f"Idempotency key {key!r} was first used with {field} {_said(first)}, now with {_said(second)}; "
            f"send the first order again, or use a new key."
        )


def _said(value: object) -> str:
    return "none" if value is None else repr(str(value))


class Store:
    """The bank's memory. Raises sqlalchemy's DatabaseError if the file is no database or is read-only."""

    def __init__(self, path: Path, *, settle_after: float | None = None) -> None:
        """`settle_after` (seconds) replaces the persisted value; None keeps it, 2.0 in a new database."""
        path.parent.mkdir(parents=True, exist_ok=True)
        # It keeps a secret: nobody else on this machine reads it, nor the files that SQLite puts beside it.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._lock = threading.Lock()
        self._engine = _engine(path)
        with self._transaction() as session:
            Table.metadata.create_all(session.connection())
            if session.get(Setting, 1) is None:
                session.add(Setting(id=1, controls=Controls().model_dump_json()))
            if settle_after is not None:
                _change(session, {"settle_after": settle_after})

    def close(self) -> None:
        with self._lock:
            self._engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[Session]:
        with self._lock, Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    # Payments

    def accept(self, key: str, order: PaymentOrder, now: datetime) -> Accepted:
        """Take an order, or find the payment its key already made. Raises OrderConflictError."""
        with self._transaction() as session:
            payment = session.exec(select(Payment).where(Payment.idempotency_key == key)).first()
            created = payment is None
            if payment is None:
                payment = Payment(
                    id=f"pay_{uuid.uuid4().hex}",
                    idempotency_key=key,
                    status=PaymentStatus.ACCEPTED,
                    created_at=now,
                    **order.model_dump(),
                )
                session.add(payment)
            else:
                for field in PaymentOrder.model_fields:
                    first, second = getattr(payment, field), getattr(order, field)
                    if first != second:
                        raise OrderConflictError(key, field, first, second)
            forgetful = _controls(session).forgetful
            if forgetful:
                _change(session, {"forgetful": forgetful - 1})
            return Accepted(payment.view(), created, forgotten=forgetful > 0)

    def payment(self, payment_id: str) -> PaymentView | None:
        with self._transaction() as session:
            payment = session.get(Payment, payment_id)
            return payment.view() if payment else None

    def payments_with_key(self, key: str) -> list[PaymentView]:
        with self._transaction() as session:
            return [p.view() for p in session.exec(select(Payment).where(Payment.idempotency_key == key))]

    # Settlement

    def report_to(self, webhook: Webhook) -> None:
        """Send reports there from now on, also those that are pending."""
        with self._transaction() as session:
            secret = webhook.secret.get_secret_value()
            session.merge(Account(id=1, webhook_url=webhook.url, webhook_secret=secret))

    def settle(self, payment_id: str, now: datetime) -> PaymentView | None:
        """Settle one payment, in either mode; a settled one stays as it is. None if there is none."""
        with self._transaction() as session:
            payment = session.get(Payment, payment_id)
            if payment is None:
                return None
            if payment.status == PaymentStatus.ACCEPTED:
                _settle(session, payment, now)
            return payment.view()

    def settle_due(self, now: datetime) -> None:
        """Settle what was accepted at least `settle_after` seconds ago; nothing in manual mode."""
        with self._transaction() as session:
            controls = _controls(session)
            if controls.settle == SettleMode.MANUAL:
                return
            before = now - timedelta(seconds=controls.settle_after)
            accepted = select(Payment).where(Payment.status == PaymentStatus.ACCEPTED)
            for payment in session.exec(accepted.where(col(Payment.created_at) <= before)).all():
                _settle(session, payment, now)

    def due_reports(self, now: datetime, *, limit: int, beside: set[str]) -> list[DueReport]:
        """Pending reports whose time has come, oldest first, without those `beside` (under way already)."""
        with self._transaction() as session:
            if not _controls(session).report:
                return []
            due = select(Report).where(Report.state == ReportState.PENDING, col(Report.next_at) <= now)
            due = due.where(col(Report.payment_id).not_in(beside)).order_by(col(Report.next_at)).limit(limit)
            reports = session.exec(due).all()
            if not reports:
                return []
            to = session.get_one(Account, 1)
            return [
                DueReport(r.payment_id, r.body, r.attempts, r.settled_at, to.webhook_url, to.webhook_secret)
                for r in reports
            ]

    def next_moment(self, *, beside: set[str]) -> datetime | None:
        """When there is something to settle or report next; None if nothing waits for a time."""
        with self._transaction() as session:
            controls = _controls(session)
            moments = []
            if controls.settle == SettleMode.AUTO:
                accepted = col(Payment.status) == PaymentStatus.ACCEPTED
                if oldest := session.exec(select(func.min(Payment.created_at)).where(accepted)).one():
                    moments.append(oldest + timedelta(seconds=controls.settle_after))
            if controls.report:
                pending = select(func.min(Report.next_at)).where(Report.state == ReportState.PENDING)
                if soonest := session.exec(pending.where(col(Report.payment_id).not_in(beside))).one():
                    moments.append(soonest)
            return min(moments, default=None)

    def record_attempt(self, payment_id: str, refusal: str | None, next_at: datetime | None) -> None:
        """Close one attempt: delivered without a refusal, else due at `next_at`, or given up if None."""
        with self._transaction() as session:
            report = session.get_one(Report, payment_id)
            report.attempts += 1
            report.refusal = refusal
            if refusal is None:
                report.state = ReportState.DELIVERED
            elif next_at is None:
                report.state = ReportState.GIVEN_UP
            else:
                report.next_at = next_at

    def reports(self) -> list[ReportView]:
        with self._transaction() as session:
            found = session.exec(select(Report).order_by(col(Report.settled_at)))
            return [ReportView.model_validate(r, from_attributes=True) for r in found]

    # The sandbox

    def arrive(self, method: str, path: str, key: str | None, now: datetime) -> tuple[int, Controls]:
        """Log a request and say how to treat it; the number is for `answered`."""
        with self._transaction() as session:
            request = Request(time=now, method=method, path=path, idempotency_key=key)
            session.add(request)
            session.flush()
            assert request.id is not None
            return request.id, _controls(session)

    def answered(self, request_id: int, status: int) -> None:
        with self._transaction() as session:
            session.get_one(Request, request_id).status = status

    def log(self) -> list[LoggedRequest]:
        with self._transaction() as session:
            found = session.exec(select(Request).order_by(col(Request.id)))
            return [LoggedRequest.model_validate(r, from_attributes=True) for r in found]

    def counts(self) -> Counts:
        with self._transaction() as session:
            payments = session.exec(select(func.count()).select_from(Payment)).one()
            orders = select(Request.idempotency_key, func.count()).where(
                Request.method == "POST", Request.path == "/payments"
            )
            by_key = session.exec(orders.group_by(col(Request.idempotency_key))).all()
            return Counts(payments=payments, requests_by_key={key: n for key, n in by_key if key is not None})

    def controls(self) -> Controls:
        with self._transaction() as session:
            return _controls(session)

    def change(self, changes: dict[str, Any]) -> Controls:
        with self._transaction() as session:
            return _change(session, changes)


def _engine(path: Path) -> Engine:
    # Not as text: a path may hold what a URL gives a meaning to.
    url = URL.create("sqlite", database=str(path))
    options = {"check_same_thread": False, "timeout": 10}
    # Errors name no values: one of them is a secret, and errors are logged.
    engine = create_engine(url, poolclass=StaticPool, connect_args=options, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        # The driver's own BEGIN is deferred and comes late; None leaves transactions to the listener below.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")
        # FULL: an answered payment survives a power cut too, for an fsync per commit.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def _began(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _controls(session: Session) -> Controls:
    return Controls.model_validate_json(session.get_one(Setting, 1).controls)


def _change(session: Session, changes: dict[str, Any]) -> Controls:
    controls = _controls(session).model_copy(update=changes)
    session.get_one(Setting, 1).controls = controls.model_dump_json()
    return controls


def _settle(session: Session, payment: Payment, now: datetime) -> None:
    payment.status, payment.settled_at = PaymentStatus.SETTLED, now
    if session.get(Account, 1) is None:
        return  # nobody has asked for reports
    told = Settled(
        payment_id=payment.id,
        status=PaymentStatus.SETTLED,
        amount=payment.amount,
        currency=payment.currency,
        settled_at=now,
        reference=payment.reference,
    )
    session.add(
        Report(
            payment_id=payment.id,
            body=SettlementReport(timestamp=now, data=told).model_dump_json(),
            state=ReportState.PENDING if _controls(session).report else ReportState.WITHHELD,
            settled_at=now,
            next_at=now,
        )
    )
