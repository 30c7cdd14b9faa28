"""Types that cross a checkpoint. Beside the agents and not in them: an agent's file is loaded under another name."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from pydantic import BaseModel


class Order(BaseModel):
    number: str
    amount: int


class Verdict(BaseModel):
    approved: bool
    comment: str = ""


class Payment(BaseModel):
    order: str
    amount: int


class Settlement(BaseModel):
    bank: str


class Receipt(BaseModel):
    order: Order
    verdict: Verdict
    payment: Payment | None
    settlement: Settlement | None
    entry: str


class Addend(BaseModel):
    number: int


class Odd(BaseModel):
    text: str
    integer: int
    fraction: float
    money: Decimal
    at: datetime
    by_number: dict[int, tuple[str, bytes]]
    nothing: str | None


ODD = Odd(
    text='"quoted"\\ \x00 \x1f \u2028 é 漢 🧾',
    integer=2**80 + 1,
    fraction=0.1 + 0.2,
    money=Decimal("1.10"),
    at=datetime(2026, 3, 29, 1, 30, tzinfo=UTC),
    by_number={1: ("a", b"\x01")},
    nothing=None,
)
"""Characters that JSON, a database or a page may trip over; numbers that a float does not hold."""
