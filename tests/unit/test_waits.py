"""Waits: the rows they open with, what is shown, and which answers they take at a door."""

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from standby import Approval, Decision, Signal, Timer, clock
from standby.errors import AnswerRefused, NotStorable, UsageError
from standby.states import WaitKind
from standby.waiting import StepOutcome
from standby.waits import as_text, checked_answer, evidence_of, quoted, type_name

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _it_is_noon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_source", lambda: NOON)


class Payment(BaseModel):
    amount: float = Field(gt=0)
    note: str = ""

    @field_validator("note")
    @classmethod
    def _polite(cls, note: str) -> str:
        if "!" in note:
            raise ValueError("do not shout")
        return note


class Fragile(BaseModel):
    colour: str

    @field_validator("colour")
    @classmethod
    def _known(cls, colour: str) -> str:
        return {"red": "red"}["colour"]


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")
    amount: int = 0


# What a wait is when it opens.


def test_an_approval_opens_with_its_form_and_evidence() -> None:
    row = Approval("Pay?", form=Payment, show="**7 €**", party="accounts").row("approval")
    assert (row.key, row.kind, row.reason, row.party) == ("approval", WaitKind.APPROVAL, "Pay?", "accounts")
    assert (row.evidence, row.deadline, row.has_default, row.default_answer) == ("**7 €**", None, False, None)
    assert row.answer_type == "tests.unit.test_waits:Payment"
    assert json.loads(row.answer_schema or "")["required"] == ["amount"]
    assert (row.topic, row.correlation) == (None, None)


def test_an_approval_without_a_form_asks_for_a_decision() -> None:
    wait = Approval("Pay?")
    assert wait.row("approval").answer_type == "standby.waits.approval:Decision"
    assert wait.read('{"approved": true}') == ('{"approved":true,"comment":""}', Decision(approved=True))


@pytest.mark.parametrize(
    ("wait", "field"),
    [
        (Approval("Pay\0?"), "reason"),
        (Approval("Pay?", party="ac\0counts"), "party"),
        (Approval("Pay?", show="\0"), "evidence"),
        (Signal("paid\0", reason="money"), "topic"),
        (Signal("paid", key="7\0", reason="money"), "correlation"),
    ],
)
def test_text_that_no_database_takes_is_refused_by_name(wait: Any, field: str) -> None:
    with pytest.raises(UsageError, match=f"The {field} of wait 'asking' has a NUL character"):
        wait.row("asking")


def test_a_signal_opens_with_its_topic_and_key() -> None:
    row = Signal("payment.settled", key="7", of=Payment).row("payment.settled")
    assert (row.kind, row.topic, row.correlation) == (WaitKind.SIGNAL, "payment.settled", "7")
    assert row.reason == "payment.settled for 7"
    assert Signal("payment.settled").row("x").correlation is None
    assert Signal("payment.settled").reason == "payment.settled"
    assert Signal("payment.settled", key="7", reason="the bank").reason == "the bank"


def test_a_timer_is_a_deadline_whose_default_is_nothing() -> None:
    row = Timer(timedelta(hours=1)).row("timer")
    assert (row.kind, row.deadline) == (WaitKind.TIMER, NOON + timedelta(hours=1))
    assert (row.has_default, row.default_answer) == (True, "null")
    assert row.reason == "for 1:00:00"


def test_a_deadline_is_a_point_in_time_from_when_the_wait_opens() -> None:
    assert Approval("Pay?", within=timedelta(days=3)).row("x").deadline == NOON + timedelta(days=3)
    east = timezone(timedelta(hours=5, minutes=30))
    row = Approval("Pay?", by=datetime(2026, 3, 2, tzinfo=east)).row("x")
    assert row.deadline == datetime(2026, 3, 1, 18, 30, tzinfo=UTC)
    assert row.deadline.tzinfo is UTC


@pytest.mark.parametrize(
    "wait",
    [
        lambda naive: Approval("Pay?", by=naive),
        lambda naive: Signal("paid", by=naive),
        lambda naive: Timer(naive),
    ],
)
def test_a_deadline_without_a_time_zone_is_refused(wait: Any) -> None:
    with pytest.raises(ValueError, match=r"deadline has no time zone: 2026-03-01T12:00:00"):
        wait(datetime(2026, 3, 1, 12)).row("x")  # noqa: DTZ001


def test_a_wait_has_one_deadline() -> None:
    with pytest.raises(UsageError, match="one deadline"):
        Approval("Pay?", within=timedelta(1), by=NOON)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"otherwise": Decision(approved=False)}, "counts at its deadline, and has none"),
        ({"within": 5}, "takes a timedelta or BusinessDays, not 5"),
        ({"by": "tomorrow"}, "takes a datetime with its time zone, not 'tomorrow'"),
    ],
)
def test_a_deadline_that_is_none_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Approval("Pay?", **options).row("x")


def test_a_default_that_does_not_fit_its_form_is_refused_when_the_wait_opens() -> None:
    day = timedelta(days=1)
    row = Approval("Pay?", form=Payment, within=day, otherwise=Payment(amount=1)).row("x")
    assert (row.has_default, row.default_answer) == (True, '{"amount":1.0,"note":""}')
    with pytest.raises(NotStorable, match="default of wait 'x'"):
        Approval("Pay?", form=Payment, within=day, otherwise="no").row("x")  # type: ignore[call-overload]


def test_a_default_of_none_is_a_default() -> None:
    row = Signal("paid", within=timedelta(days=1), otherwise=None).row("x")
    assert (row.has_default, row.default_answer) == (True, "null")


def test_a_type_is_named_where_others_can_import_it() -> None:
    class Local(BaseModel):
        pass

    assert type_name(Payment) == "tests.unit.test_waits:Payment"
    assert [type_name(one) for one in (Local, int, list[int], None, Payment | None)] == [None] * 5


# What is shown.


def test_evidence_that_is_markdown_is_shown_as_it_is() -> None:
    assert evidence_of("| a |\n|---|") == "| a |\n|---|"
    assert evidence_of(None) is None


def test_evidence_that_knows_its_markdown_is_asked() -> None:
    assert evidence_of(SimpleNamespace(_repr_markdown_=lambda: "# Invoice")) == "# Invoice"


def test_a_value_is_shown_as_a_table_and_its_text_as_text() -> None:
    """Failure 62: whoever wrote the invoice does not write the question."""
    shown = evidence_of({"supplier": "A|B\n<img src=x>[pay](http://evil)", "amount": Decimal("7.10"), "lines": [1]})
    assert shown == (
        "| | |\n|---|---|\n"
        r"| supplier | A\|B \<img src=x\>\[pay\](http\://evil) |"
        "\n| amount | 7.10 |\n"
        r"| lines | \[1\] |"
    )


def test_any_other_value_is_shown_as_json() -> None:
    assert evidence_of([1, "```"]) == '```json\n[\n  1,\n  "```"\n]\n```'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\\b", "a\\\\b"),
        ("\x1b[2J\u202e1", r"\\u001b\[2J\\u202e1"),
        ("two\n# lines", "two \\# lines"),
        ("a@b.c", "a\\@b.c"),
        ("plain, (text)!", "plain, (text)!"),
    ],
)
def test_text_is_shown_as_text(text: str, shown: str) -> None:
    assert as_text(text) == shown


def test_what_steers_a_terminal_or_turns_the_text_is_shown_by_its_number() -> None:
    assert Approval("pay\x1b[2K\r 5\u202e00").row("approval").reason == r"pay\u001b[2K\u000d 5\u202e00"
    assert quoted("a\r\nb\x07\tc") == "```text\na\nb\\u0007\tc\n```"


# Which answers are taken.


def row_of(form: Any, **columns: Any) -> Any:
    """The row of an approval with this form, as a door finds it."""
    row = Approval("Pay?", form=form).row("approval")
    return SimpleNamespace(**{name: getattr(row, name) for name in row.__slots__} | columns)


@pytest.fixture(params=["type", "schema"])
def known(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Whether the door can import the form, or has its JSON Schema alone."""
    return {} if request.param == "type" else {"answer_type": "gone.away:Payment"}


def test_an_answer_that_fits_is_stored(known: dict[str, Any]) -> None:
    stored = checked_answer(row_of(Payment, **known), ' {"amount": 7.5, "note": "ok"} ')
    assert json.loads(stored) == {"amount": 7.5, "note": "ok"}
    assert stored.isascii()


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        ('{"note": "ok"}', ""),
        ('{"amount": -1}', "amount"),
        ('{"amount": "much"}', "amount"),
        ('{"amount": 1, "amuont": 2}', "amuont"),
        ("[]", "answer"),
        ("null", "answer"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused_with_its_field(known: dict[str, Any], answer: str, field: str) -> None:
    """Failure 31."""
    with pytest.raises(AnswerRefused, match=r"The answer to approval was refused, the run is still waiting") as refused:
        checked_answer(row_of(Payment, **known), answer)
    [(named, reason)] = refused.value.problems
    assert field in named
    assert reason


@pytest.mark.parametrize(
    "answer",
    [
        "", "yes", '{"amount": NaN}', '{"amount": Infinity}', '{"amount": 1e999}', '{"amount": -1e999}',
        '{"amount": 1, "note": "\\ud83d"}', '{"amount": 1} {}', "[" * 100_000, '{"amount": ' + "9" * 5000 + "}",
    ],
)  # fmt: skip
def test_what_json_cannot_hold_is_refused(known: dict[str, Any], answer: str) -> None:
    with pytest.raises(AnswerRefused):
        checked_answer(row_of(Payment, **known), answer)


def test_a_rule_of_the_form_is_checked_at_the_door_that_knows_it() -> None:
    """Only the run knows it otherwise, and refuses it there."""
    with pytest.raises(AnswerRefused, match="note: do not shout"):
        checked_answer(row_of(Payment), '{"amount": 1, "note": "now!"}')
    stored = checked_answer(row_of(Payment, answer_type=None), '{"amount": 1, "note": "now!"}')
    with pytest.raises(ValueError, match="do not shout"):
        Approval("Pay?", form=Payment).read(stored)


def test_a_form_that_takes_any_field_takes_any_field(known: dict[str, Any]) -> None:
    assert json.loads(checked_answer(row_of(Loose, **known), '{"amount": 1, "more": 2}')) == {"amount": 1, "more": 2}


def test_an_answer_that_is_no_object_is_checked_too(known: dict[str, Any]) -> None:
    assert checked_answer(row_of(int), "7") == "7"
    with pytest.raises(AnswerRefused):
        checked_answer(row_of(int), '"seven"')


def test_code_in_an_answer_is_text() -> None:
    """Failure 32."""
    for text in ('{"__prefect_kind": "jinja", "template": "{{ 7 * 7 }}"}', '"{{ 7 * 7 }}"'):
        wait = Signal("paid").row("paid")
        row = SimpleNamespace(**{name: getattr(wait, name) for name in wait.__slots__})
        assert json.loads(checked_answer(row, text)) == json.loads(text)


def test_a_form_whose_module_cannot_be_imported_here_is_checked_by_its_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the module does instead: a keeper has not its environment, and must live on."""
    (tmp_path / "breaks_at_import.py").write_text("import os; os.environ['NOT THERE']")
    monkeypatch.syspath_prepend(tmp_path)
    row = row_of(Payment, answer_type="breaks_at_import:Payment")
    assert checked_answer(row, '{"amount": 7.5}') == '{"amount":7.5}'
    with pytest.raises(AnswerRefused, match="amount"):
        checked_answer(row, '{"amount": "x"}')


def test_a_schema_that_only_pydantic_understands_leaves_the_check_to_the_run() -> None:
    class Name(BaseModel):
        name: str = Field(pattern=r"^\p{L}+$")

    row = row_of(Name, answer_type=None)
    assert checked_answer(row, '{"name": "ada"}') == '{"name":"ada"}'


def test_a_validator_that_fails_refuses_the_answer() -> None:
    with pytest.raises(AnswerRefused, match="KeyError: 'colour'"):
        checked_answer(row_of(Fragile), '{"colour": "green"}')


def test_an_answer_may_be_too_old_when_the_run_comes_to_take_it_in() -> None:
    wait = Approval("Publish it?", max_age=timedelta(hours=1))
    wait.check_age(clock.utcnow() - timedelta(minutes=59))
    with pytest.raises(ValueError, match="older than 1:00:00, so it is asked anew"):
        wait.check_age(clock.utcnow() - timedelta(minutes=61))
    Approval("Publish it?").check_age(clock.utcnow() - timedelta(days=999))


def test_what_a_step_returned_is_json_text() -> None:
    asked = Approval("Did it happen?", form=StepOutcome).row("pay?1")
    for text in ('"paid acme"', "5", "null"):
        given = json.dumps({"happened": True, "result": text})
        assert json.loads(checked_answer(asked, given))["result"] == text
    with pytest.raises(AnswerRefused, match=r'a text has its quotes there: "paid acme"'):
        checked_answer(asked, json.dumps({"happened": True, "result": "paid acme"}))
