"""The invoice agent: from a UBL file to a paid and booked invoice, asking a person when it is out of policy."""

import asyncio
import sys
from datetime import timedelta
from pathlib import Path

from prefect.runtime import flow_run

from deployments.sandbox_bank.beside import bank_beside
from standby import Approval, Condition, Policy, agent, run_here, wait_for
from tasks.advise import advise
from tasks.apply_policy import apply_policy
from tasks.book import book
from tasks.check_arithmetic import check_arithmetic
from tasks.decline import decline
from tasks.errors import InvoiceError
from tasks.find_settlement import find_settlement
from tasks.match_order import match_order
from tasks.models import PaymentDecision, Receipt, Settlement
from tasks.pay import pay
from tasks.read_invoice import read_invoice
from tasks.register_invoice import register_invoice
from tasks.write_receipt import write_receipt


@agent(flow_run_name="{path.name}")
async def invoice_agent(path: Path) -> Receipt:
    """Pay one invoice, or book one credit note. Asks for approval when the payment policy does not cover it.

    Args:
        path: The invoice's file, where the worker can read it.
    """
    invoice = await read_invoice(path)
    await check_arithmetic(invoice)
    await register_invoice(invoice, str(flow_run.id))
    match = await apply_policy(invoice, await match_order(invoice))
    decision = PaymentDecision(approved=True)
    if not match.within_policy:
        match = await advise(invoice, match)
        decision = await wait_for(
            Approval(
                f"Pay {match.payable} {match.currency} to {match.supplier}?"
                if match.suggested_amount
                else f"Book {match.number} of {match.supplier}?",
                show=match.to_markdown(),
                form=PaymentDecision,
                party="accounts payable",
                policy=Policy(quorum=match.approvers),
                within=timedelta(days=3),
                otherwise=PaymentDecision(approved=False, comment="nobody answered in three days"),
                check=match.check_decision,
            )
        )
        if not decision.approved:
            return await write_receipt(await decline(invoice, decision))
    amount = match.suggested_amount if decision.amount is None else decision.amount
    if not amount:
        return await write_receipt(await book(invoice, match, decision=decision))
    payment = await pay(invoice, amount)
    settlement = await wait_for(
        Condition(
            "payment.settled",
            key=payment.id,
            of=Settlement,
            poll=find_settlement,  # should the bank's report stay away, or no gateway take it
            args={"payment_id": payment.id},
            at_most=timedelta(minutes=15),
            party="bank",
            within=timedelta(days=5),
        )
    )
    return await write_receipt(await book(invoice, match, payment, settlement, decision))


async def main(path: Path) -> None:
    """Run the agent here, without a deployment, with the sandbox bank beside it if no bank answers."""
    try:
        async with bank_beside():
            receipt: Receipt = await run_here(invoice_agent, path=path)
    except InvoiceError as error:
        sys.exit(str(error))
    print(receipt.model_dump_json(indent=2))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Usage: python flows/invoice_agent.py FILE")
    asyncio.run(main(Path(sys.argv[1]).absolute()))
