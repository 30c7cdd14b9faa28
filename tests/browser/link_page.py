"""A gateway with one question on it, for a browser that comes by an approval link."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import uvicorn
from pydantic import BaseModel, Field

from standby import Approval, Policy
from standby.connect import Place
from standby.gateway.app import create_app
from standby.ledger import Ledger
from standby.links import address_of, link_for
from tests.gateway.conftest import nothing_to_receive
from tests.ledger import acts


class PaymentDecision(BaseModel):
    approved: bool
    amount: Decimal = Field(
        default=Decimal("1842.50"), gt=0, title="Amount in EUR", description="Change it for a part payment only."
    )
    account: Literal["4930 Office supplies", "6300 Consulting", "6815 Travel"] = Field(
        default="6300 Consulting", title="Account"
    )
    pay_on: date | None = Field(default=None, title="Pay on")
    urgent: bool = Field(default=False, title="Pay today, ahead of the next batch")
    comment: str = Field(default="", title="Comment")


EVIDENCE = """
**Vogel & Partner GmbH** sent invoice `VP-2026-118` for **1,842.50 EUR**; order `PO-7731` allows 1,700.00 EUR.

| Line | Ordered | Invoiced | Difference |
|---|--:|--:|--:|
| Audit, 10 hours | 1,500.00 | 1,500.00 | 0.00 |
| Travel | 200.00 | 342.50 | **+142.50** |
| **Total** | **1,700.00** | **1,842.50** | **+142.50** |
"""

QUESTION = Approval(
    "Pay invoice VP-2026-118 of Vogel & Partner, 142.50 EUR above its order?",
    form=PaymentDecision,
    show=EVIDENCE,
    party="accounts payable",
    policy=Policy(quorum=2, approvers=("ada", "bob", "carla")),
    within=timedelta(days=3, minutes=1),
    otherwise=PaymentDecision(approved=False, comment="no answer"),
)


class Asked(NamedTuple):
    ledger: Ledger
    wait: Any
    link: str


@asynccontextmanager
async def asked(ledger_url: str) -> AsyncIterator[Asked]:
    """The question on a gateway that listens on a port of its own, and ada's link to it."""
    ledger = await Ledger.connect(ledger_url)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        app = create_app(ledger, Place(ledger_url, None), nothing_to_receive)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            claimed = await ledger.runs.claim(
                "run", flow="invoice-agent", name="vogel-2026-118", deployment_id=None, holder=acts.ME, lease=acts.LEASE
            )
            [wait] = (await acts.open_group(ledger, [QUESTION.row("approval")], attempt=claimed.attempt)).waits
            gateway = f"http://127.0.0.1:{listening.getsockname()[1]}"
            yield Asked(ledger, wait, await address_of(ledger, await link_for(ledger, wait, "ada"), gateway))
        finally:
            server.should_exit = True
            await serving
            await ledger.close()
