"""Invoices for whole runs: the samples under numbers of their own, so that no two are the same document."""

from __future__ import annotations

from pathlib import Path

from tests.invoices.documents import CREDIT_NOTE, IN_POLICY, NO_ORDER, OVER_LIMIT, PRICE_DIFFERS, Edit, edited

NUMBERS = {
    IN_POLICY: "RE-26-1187",
    OVER_LIMIT: "2026-00731",
    PRICE_DIFFERS: "R2026/0392",
    NO_ORDER: "M-2611-07",
    CREDIT_NOTE: "GS-26-0094",
}


def write_invoice(folder: Path, number: str, sample: str = NO_ORDER, *edits: Edit) -> Path:
    """A sample as ``NUMBER.xml``, with this number and further edits."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number}.xml"
    path.write_bytes(edited(sample, (f"<cbc:ID>{NUMBERS[sample]}</cbc:ID>", f"<cbc:ID>{number}</cbc:ID>"), *edits))
    return path
