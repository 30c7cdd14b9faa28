"""Step: what the payment policy says about a matched document. Whatever it does not allow is put before a person."""

import re
from decimal import Decimal

from blocks.loading import load_or_default
from blocks.model_endpoint import ModelEndpoint
from blocks.payment_policy import PaymentPolicy
from standby import step
from tasks.markdown import money
from tasks.models import Difference, Invoice, Match
from tasks.orders import identifier

COLLECTED = {"10": "cash", "48": "card", "49": "direct debit", "54": "card", "55": "card", "59": "direct debit"}
"""UNCL 4461 codes of payments that nobody has to order: paying these would pay twice."""
_IBAN = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}")


def judge(invoice: Invoice, match: Match, policy: PaymentPolicy) -> Match:
    """The match with its verdict: why to ask people, how many, and what to suggest. No reason means within policy."""
    due = max(invoice.amount_due, Decimal(0))
    reasons = [*_about_payee(invoice, policy)]
    if invoice.kind == "invoice" and invoice.amount_due < 0:
        reasons.append(f"a negative invoice: the supplier owes {money(-invoice.amount_due, invoice.currency)}")
    if due > 0:
        limit = policy.limit(invoice.currency)
        if due > limit:
            reasons.append(f"{money(due, invoice.currency)} is above the limit of {money(limit, invoice.currency)}")
        reasons += _about_account(invoice, policy)
    if match.order_id is None and policy.require_order:
        reasons.append("no purchase order was found")
    reasons += [_told(each) for each in match.differences if not _tolerated(each, policy)]
    return match.model_copy(
        update={
            "within_policy": not reasons,
            "reasons": reasons,
            "approvers": policy.approvers(due, invoice.currency),
            "suggested_amount": due,
            "suggested_account": match.order_account or policy.default_account,
        }
    )


@step
async def apply_policy(invoice: Invoice, match: Match, policy: str = "default") -> Match:
    """As `judge`, by the block ``policy``. Which model may advise people is settled here, too, for the whole run."""
    judged = judge(invoice, match, await load_or_default(PaymentPolicy, policy))
    endpoint = await load_or_default(ModelEndpoint)
    return judged.model_copy(update={"adviser": "" if endpoint.provider == "offline" else endpoint.model})


def _about_payee(invoice: Invoice, policy: PaymentPolicy) -> list[str]:
    reasons = []
    if {identifier(blocked) for blocked in policy.blocked_suppliers} & set(invoice.supplier.identifiers):
        reasons.append(f"{invoice.supplier.name} is a blocked supplier")
    if invoice.payee is not None:
        reasons.append(f"{invoice.payee} is to be paid, not the supplier")
    return reasons


def _about_account(invoice: Invoice, policy: PaymentPolicy) -> list[str]:
    if (how := COLLECTED.get(invoice.payment_means or "")) is not None:
        return [f"the supplier collects the money itself ({how})"]
    if invoice.payment_account is None:
        return ["the document names no account to pay to"]
    if policy.require_iban and not is_iban(invoice.payment_account):
        return [f"{invoice.payment_account} is not a valid IBAN"]
    return []


def is_iban(account: str) -> bool:
    """Whether the form and the check digits (ISO 13616, modulo 97) are those of an IBAN; not whether it exists."""
    if not _IBAN.fullmatch(account):
        return False
    return int("".join(str(int(character, 36)) for character in account[4:] + account[:4])) % 97 == 1


def _tolerated(difference: Difference, policy: PaymentPolicy) -> bool:
    """Prices and totals may be above the order by the tolerance, and below it by anything."""
    if difference.kind not in ("price", "total") or difference.over_percent is None:
        return False
    return difference.over_percent <= policy.price_tolerance_percent


def _told(difference: Difference) -> str:
    over = "" if difference.over_percent is None else f" ({difference.over_percent:+} %)"
    return f"{difference.where}: ordered {difference.ordered}, invoiced {difference.invoiced}{over}"
