"""What the terminal's commands are tried on: a ledger alone, with runs that wait in it."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

from typer.testing import CliRunner

from standby.cli import app
from standby.ledger import Ledger
from standby.ledger.opening import WaitRow
from standby.waits import Approval, Signal
from tasks.models import PaymentDecision, Settlement
from tests.ledger import acts
from tests.system.project import Result

RUN = "0b4b3a8e-5a0c-4b42-9a86-0d6ff4a3a001"


OTHER = "0b4b3a8e-5a0c-4b42-9a86-0d6ff4a3a002"


THIRD = "0b4b3a8e-5a0c-4b42-9a86-0d6ff4a3a003"


PAY = Approval(
    "Pay 340.20 EUR to Kantine Morgenrot?",
    form=PaymentDecision,
    show="| due |\n|---|\n| 340.20 EUR |",
    party="accounts payable",
    within=timedelta(days=3),
    otherwise=PaymentDecision(approved=False, comment="nobody answered"),
)


LATER = "goes on when its Prefect server is up again, which cannot be reached now."


SETTLED = Signal("payment.settled", key="pay_1", of=Settlement, party="bank")


REPORT = json.dumps(
    {
        "payment_id": "pay_1",
        "status": "settled",
        "amount": "3.00",
        "currency": "EUR",
        "settled_at": "2026-03-01T12:00:00Z",
    }
)


async def standby(*arguments: str) -> Result:
    """A command, as `standby ARGUMENTS` in a shell."""
    done = await asyncio.to_thread(CliRunner(env={"COLUMNS": "200"}).invoke, app, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Result(done.exit_code, done.stdout, done.stderr)


async def parked(ledger: Ledger, *waits: Any, run: str = RUN, **how: Any) -> list[Any]:
    """A run parked at these waits; their rows."""
    rows: list[WaitRow] = [wait.row(f"w{n}" if n else wait.name) for n, wait in enumerate(waits)]
    return (await acts.parked(ledger, rows, run=run, **how)).waits
