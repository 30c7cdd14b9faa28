"""Blocks: defaults that work as they are, forms that can be read, and no defaults in place of what cannot be read."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings

from blocks.books import Books
from blocks.loading import load_or_default
from blocks.model_endpoint import ModelEndpoint
from blocks.payment_policy import PaymentPolicy
from blocks.payment_provider import PaymentProvider
from blocks.workspace import Workspace

BLOCKS: list[type[Block]] = [PaymentPolicy, PaymentProvider, Books, ModelEndpoint, Workspace]


@pytest.mark.parametrize("block", BLOCKS)
def test_every_field_is_explained_and_has_a_default(block: type[Block]) -> None:
    schema = block.model_json_schema()
    assert not schema.get("required")
    for name, field in schema["properties"].items():
        assert field["title"], name
        assert field["description"].endswith("."), name
    for limits in ("auto_approve_up_to", "two_approvers_from"):
        assert "anyOf" not in str(schema["properties"].get(limits)), "a limit is a plain number"


@pytest.mark.parametrize("block", BLOCKS)
async def test_without_a_server_the_defaults_are_used(block: type[Block]) -> None:
    assert type(await load_or_default(block)) is block


def test_the_books_are_in_the_data_folder(home: Path) -> None:
    books = Books()
    assert books.database_url.get_secret_value() == f"sqlite:///{home}/books.db"
    assert books.receipts_folder == f"{home}/receipts"
    assert books.orders_file is not None
    assert Path(books.orders_file).is_file()


def test_a_policy_reads_back_what_it_stored() -> None:
    policy = PaymentPolicy.model_validate({"auto_approve_up_to": {"EUR": 1234.56}, "price_tolerance_percent": "0.1"})
    again = PaymentPolicy.model_validate_json(policy.model_dump_json())
    assert again.limit("EUR") == Decimal("1234.56")
    assert again.price_tolerance_percent == Decimal("0.1")
    assert again.limit("XAF") == 0


@pytest.mark.parametrize("wrong", [{"auto_approve_up_to": {"EUR": -1}}, {"price_tolerance_percent": "NaN"}])
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PaymentPolicy(**wrong)


async def test_only_a_missing_document_leads_to_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = PaymentPolicy(default_account="7777")
    outcomes: dict[str, Block | Exception] = {
        "there": saved,
        "missing": ValueError("Unable to find block document"),
        "broken": ValueError("1 validation error"),
        "away": ConnectionError("no server"),
    }
    outcomes["missing"].__cause__ = ObjectNotFound(Exception())  # type: ignore[union-attr]

    async def aload(name: str) -> Block:
        outcome = outcomes[name]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(PaymentPolicy, "aload", aload)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        assert await load_or_default(PaymentPolicy, "there") is saved
        assert (await load_or_default(PaymentPolicy, "missing")).default_account == "4000"
        with pytest.raises(ValueError, match="validation error"):
            await load_or_default(PaymentPolicy, "broken")
        with pytest.raises(ConnectionError):
            await load_or_default(PaymentPolicy, "away")
