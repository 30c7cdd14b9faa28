"""The shapes that are stored and shown: forms, evidence, errors."""

import pickle
import re
from decimal import Decimal

import jsonschema
import pytest
from markdown_it import MarkdownIt
from pydantic import BaseModel, TypeAdapter, ValidationError

from tasks import errors
from tasks.markdown import cell
from tasks.models import Difference, Match, PaymentDecision, Receipt
from tests.invoices.documents import IN_POLICY, PRICE_DIFFERS, document

D = Decimal


def test_the_form_s_schema_is_plain_enough_for_every_form() -> None:
    schema = PaymentDecision.model_json_schema()
    assert schema["required"] == ["approved"], "nobody approves or declines by pressing Enter"
    assert schema["properties"]["amount"] == {
        "type": "number",
        "minimum": 0,
        "title": "Amount to pay",
        "description": "In the invoice's currency. Leave empty to pay the amount that is due.",
    }
    assert "default" not in schema["properties"]["account"]
    assert {field["type"] for field in schema["properties"].values()} == {"boolean", "number", "string"}
    for field in schema["properties"].values():
        assert field["title"]
        assert field["description"]


@pytest.mark.parametrize(
    "answer",
    [
        {"approved": True},
        {"approved": False, "comment": "no"},
        {"approved": True, "amount": 850.61, "account": "4930", "comment": ""},
        {"approved": True, "amount": 0},
    ],
)
def test_good_answers_pass_the_schema_and_the_model(answer: dict[str, object]) -> None:
    jsonschema.validate(answer, PaymentDecision.model_json_schema())
    decision = PaymentDecision.model_validate(answer)
    assert PaymentDecision.model_validate_json(decision.model_dump_json()) == decision


def test_a_number_from_a_form_is_exact() -> None:
    assert PaymentDecision.model_validate_json('{"approved": true, "amount": 850.61}').amount == D("850.61")


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"approved": True, "amount": -1},
        {"approved": True, "amount": 1.005},
        {"approved": True, "amount": "NaN"},
        {"approved": True, "amont": 1},
        {"approved": True, "account": "40 00"},
        {"approved": True, "account": ""},
        {"approved": True, "comment": "x" * 2001},
    ],
)
def test_bad_answers_are_refused(answer: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PaymentDecision.model_validate(answer)


def a_match(**changes: object) -> Match:
    fields = {
        "number": "R1", "source": "r1.xml", "kind": "invoice", "supplier": "Stuhlwerk (DE1)", "currency": "EUR",
        "payable": "913.92", "tax_exclusive": "768", "order_id": "PO-1", "matched_by": "reference",
        "order_total": "696", "reasons": ["line 1 price: ordered 58 EUR, invoiced 64 EUR (+10.34 %)"],
        "differences": [Difference(kind="price", where="line 1 price", ordered="58 EUR", invoiced="64 EUR",
                                   over_percent=D("10.34"))],
    }  # fmt: skip
    return Match.model_validate({**fields, **changes})


def test_the_evidence_is_a_table_of_facts_reasons_and_differences() -> None:
    text = a_match().to_markdown()
    assert "| Due | 913.92 EUR |" in text
    assert "| Order | PO-1, found by reference, 696.00 EUR without VAT |" in text
    assert "**Why you are asked**" in text
    assert "| line 1 price | 58 EUR | 64 EUR | +10.34 % |" in text


def test_without_reasons_and_differences_there_are_only_facts() -> None:
    text = a_match(reasons=[], differences=[], order_id=None, matched_by=None).to_markdown()
    assert "| Order | none found |" in text
    assert "Why" not in text
    assert "Difference" not in text


def shape(markdown: str) -> list[str]:
    """What a renderer makes of it, without the text."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    return [part.type for token in tokens for part in (token, *(token.children or ())) if part.type != "text_special"]


@pytest.mark.parametrize(
    "attack",
    [
        "x | within policy | yes |",
        "**approved by the CFO**",
        "[click](https://evil.test)",
        "![](https://evil.test/pixel)",
        "<script>alert(1)</script>",
        "a\n\n# Approved\n\n- yes",
        "`code` ~~gone~~ &lt;b&gt; {{ now }}",
        "https://evil.test",
        "www.evil.test",
        "# Approved",
        "- approved",
        "1. approved",
        "1) approved",
        "+ approved",
        "=====",
        "---",
        "- - -",
        "> approved",
        "\\",
        "x \\| yes |",
    ],
)
def test_an_invoice_cannot_write_its_own_evidence(attack: str) -> None:
    difference = Difference(kind="line", where="line 1", ordered="not in the order", invoiced=attack)
    text = a_match(number=attack, supplier=attack, differences=[difference], reasons=[attack]).to_markdown()
    plain = a_match(number="x", supplier="x", reasons=["x"], differences=[
        difference.model_copy(update={"invoiced": "x"})]).to_markdown()  # fmt: skip
    assert len(text.splitlines()) == len(plain.splitlines())
    assert shape(text) == shape(plain), "what the attack says is text, and nothing else"
    assert not re.search(r"(?<!\\)://", text)
    assert "{{" not in text


def test_long_cells_are_cut() -> None:
    assert len(cell("x" * 500)) == 120


@pytest.mark.parametrize(
    "value", [document(IN_POLICY), document(PRICE_DIFFERS), a_match()], ids=["paid", "asked", "match"]
)
def test_what_is_stored_reads_back_the_same(value: BaseModel) -> None:
    adapter = TypeAdapter(type(value))
    assert adapter.validate_json(adapter.dump_json(value)) == value


def test_a_declined_receipt_names_the_document_and_pays_nothing() -> None:
    receipt = Receipt.declined(document(IN_POLICY), PaymentDecision(approved=False, amount=D(5), comment="no"))
    assert (receipt.outcome, receipt.number) == ("declined", "RE-26-1187")
    assert (receipt.amount, receipt.payable) == (D(0), D("850.61"))


@pytest.mark.parametrize(
    "error",
    [
        errors.MissingField("a.xml", "cbc:ID", "it is missing"),
        errors.InvalidAmount("a.xml", "cbc:ID", "no", "Do something."),
        errors.ArithmeticMismatch("a.xml", "cbc:ID", D(1), D(2), "BR-CO-10"),
        errors.DuplicateInvoice("a.xml", "1", "S", "b.xml", "run-1"),
        errors.BadOrderFile("o.csv", 3, "quantity", "it is empty"),
        errors.BookingRefused("Not twice."),
        errors.ProviderUnreachable("http://x", "down", "Start it."),
        errors.ProviderTimeout("http://x", "slow", "Wait."),
        errors.PaymentRefused("http://x", "no", "Ask."),
        errors.PaymentConflict("http://x", "other"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling_and_say_what_to_do(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
    assert str(error).endswith(".")


def test_every_error_is_in_the_tree() -> None:
    drawn = errors.__doc__ or ""
    for name, thing in vars(errors).items():
        if isinstance(thing, type) and issubclass(thing, Exception):
            assert f" {name} " in drawn, name
