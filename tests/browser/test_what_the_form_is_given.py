"""What is saved for the Resume form before any browser reads it: its schema and the text above it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest

from standby import Approval, Signal
from standby.parking import description_of, form_schema
from standby.waits import Decision, Wait

DEADLINE = datetime(2027, 1, 31, 12, 30, tzinfo=UTC)


def opened(wait: Wait[Any], refused: str | None = None) -> Any:
    """The wait as its row in the ledger."""
    row = wait.row("ask")
    return SimpleNamespace(**{name: getattr(row, name) for name in row.__slots__}, refused=refused)


def test_an_untouched_switch_counts_as_off_in_the_form_and_as_missing_in_the_api() -> None:
    """One UI sends nothing for it unless it has a default; the server itself fills in no defaults."""
    schema = form_schema(opened(Approval("Go on?")))
    assert schema["properties"]["approved"]["default"] is False
    with pytest.raises(jsonschema.ValidationError, match="'approved' is a required property"):
        jsonschema.validate({}, schema)


def test_a_message_gets_no_defaults_that_its_sender_did_not_send() -> None:
    schema = form_schema(opened(Signal("decided", of=Decision)))
    assert "default" not in schema["properties"]["approved"]


def test_a_type_that_is_no_form_becomes_a_form_of_one_field() -> None:
    schema = form_schema(opened(Approval("How many?", form=int)))
    jsonschema.validate({"answer": 3}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"answer": "three"}, schema)


@pytest.mark.parametrize(
    ("wait", "sentence"),
    [
        (
            Approval("?", by=DEADLINE, otherwise=Decision(approved=False, comment="too late")),
            "it counts as “Approve: no; Comment: too late”.",
        ),
        (Approval("?", form=int, by=DEADLINE, otherwise=7), "it counts as “7”."),
        (Signal("paid", by=DEADLINE), "the wait times out."),
    ],
)
def test_what_happens_at_the_deadline_is_said_in_words(wait: Wait[Any], sentence: str) -> None:
    assert description_of(opened(wait)).endswith(f"Unanswered by 2027-01-31 12:30 UTC, {sentence}")


def test_question_and_refusal_are_text_and_evidence_is_markdown() -> None:
    wait = Approval("Pay [*Ada*](javascript:x)\n# now?", show="| a |\n|---|", within=timedelta(days=1))
    question, refusal, evidence, _ = description_of(opened(wait, refused="<b>too much</b>")).split("\n\n")
    assert question == r"### Pay \[\*Ada\*\](javascript:x) \# now?"
    assert refusal == r"**The last answer was not accepted.** \<b\>too much\</b\>"
    assert evidence == "| a |\n|---|"
