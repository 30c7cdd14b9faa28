"""Markdown for people who decide. Whatever came from outside is escaped: an invoice cannot write its own evidence."""

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.models import Advice, Match

_SPECIAL = re.compile(r"([\\`*_{}\[\]|<>~&@$])")
_LINK = re.compile(r"(:)(?=//)|(?<=www)(\.)", re.IGNORECASE)
"""Where an address begins that some renderers make a link of by themselves."""
_BEGINNING = re.compile(r"^(?:[-+](?=[-+\s]|$)|[#=]|[0-9]+(?=[.)](?:\s|$)))")
"""What begins a heading or a list when it stands first."""


def cell(value: object, longest: int = 120) -> str:
    """Text for one table cell: one line, at most ``longest`` characters, nothing that renders as more than itself."""
    text = " ".join(str(value).split())
    if len(text) > longest:
        text = f"{text[: longest - 1]}…"
    text = _LINK.sub(r"\\\g<0>", _SPECIAL.sub(r"\\\1", text))
    return _BEGINNING.sub(_disarm, text)


def _disarm(match: re.Match[str]) -> str:
    return f"{match[0]}\\" if match[0][0].isdigit() else f"\\{match[0]}"


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table; the header is ours and kept as it is, each cell is escaped."""
    head = list(header)
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def money(amount: Decimal, currency: str) -> str:
    return f"{amount:,.2f} {currency}"


def evidence(match: "Match") -> str:
    """Why a person is asked, the facts of a match, and where invoice and order differ."""
    order = "none found"
    if match.order_id is not None:
        order = f"{match.order_id}, found by {match.matched_by}"
        if match.order_total is not None:
            order += f", {money(match.order_total, match.currency)} without VAT"
    facts: list[tuple[str, object]] = [
        ("Document", f"{match.kind.replace('_', ' ')} {match.number} ({match.source})"),
        ("Supplier", match.supplier),
        ("Due", f"{money(match.payable, match.currency)}{f' by {match.due_date}' if match.due_date else ''}"),
        ("Without VAT", money(match.tax_exclusive, match.currency)),
        ("Order", order),
    ]
    if match.claimed_before:
        facts.append(("Claimed before", money(match.claimed_before, match.currency)))
    if match.payment_account:
        facts.append(("Pay to", match.payment_account))
    facts.append(("Book on", match.suggested_account))
    parts = []
    if match.reasons:
        parts.append("**Why you are asked**\n\n" + "\n".join(f"- {cell(reason, 300)}" for reason in match.reasons))
    parts.append(table(("Invoice", ""), facts))
    if match.differences:
        rows = [
            (d.where, d.ordered, d.invoiced, "" if d.over_percent is None else f"{d.over_percent:+.2f} %")
            for d in match.differences
        ]
        parts.append(table(("Difference", "Ordered", "Invoiced", "Over"), rows))
    if match.advice is not None:
        parts.append(_advice(match.advice))
    return "\n\n".join(parts)


def _advice(advice: "Advice") -> str:
    """What a model proposes, escaped like all that comes from outside, and marked as what it is."""
    if not advice.model:
        return "No language model is configured (block model-endpoint/default): account and differences are up to you."
    if advice.failed:
        return f"The model {cell(advice.model)} has proposed nothing: {cell(advice.failed, 300)}"
    said = []
    if advice.account is not None:
        said.append(f"- Book on {cell(advice.account)}: {cell(advice.reason, 500)}")
    if advice.differences:
        said.append(f"- Differences: {cell(advice.differences, 1000)}")
    proposed = "\n".join(said) or "- nothing"
    return f"**What the model {cell(advice.model)} proposes; nobody has checked it**\n\n{proposed}"
