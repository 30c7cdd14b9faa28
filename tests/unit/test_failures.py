"""Errors of steps that the agent caught: as JSON and back."""

import enum
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, ValidationError, field_validator

from standby.errors import StepFailed, WaitTimedOut
from standby.failures import revived, stored


class OutOfStock(Exception):
    """Takes other things than what it passes on."""

    def __init__(self, item: str, left: int) -> None:
        super().__init__(f"only {left} of {item} are left")
        self.item, self.left = item, left


class Why(enum.Enum):
    BUSY = "busy"


class Refused(Exception):
    def __init__(self, why: Why, retry_after: timedelta) -> None:
        super().__init__(f"refused: {why.value}")
        self.why, self.retry_after = why, retry_after


class Order(BaseModel):
    amount: int
    items: list[str]

    @field_validator("amount")
    @classmethod
    def positive(cls, amount: int) -> int:
        if amount <= 0:
            raise ValueError("it must be positive")
        return amount


def raised(work: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as caught:
        work()
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        KeyError("gone"),
        OutOfStock("tea", 2),
        TimeoutError(),
        WaitTimedOut("approval", "pay?"),
        ValueError("bad", (1, ("a", {2})), Decimal("1.50"), datetime(2026, 1, 1, tzinfo=UTC), b"\xff"),
        KeyError(("a", "b")),
        ValueError({"standby": "tuple", "of": [1]}),
        Refused(Why.BUSY, timedelta(days=1, microseconds=3)),
        raised(lambda: json.loads("{")),
    ],
)
def test_an_error_comes_back_as_its_own_class_with_its_message(error: Exception) -> None:
    back = revived(stored(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)


def test_an_error_that_holds_live_objects_comes_back_with_their_names() -> None:
    request = httpx.Request("GET", "http://bank.example/payments")
    back = revived(stored(httpx.ConnectError("refused", request=request)))
    assert type(back) is httpx.ConnectError
    assert str(back) == "refused"


def test_an_error_whose_class_is_gone_is_a_step_failure_with_its_message() -> None:
    class Local(Exception):
        pass

    back = revived(stored(Local("it broke")))
    assert isinstance(back, StepFailed)
    assert "it broke" in str(back)


def test_a_name_that_is_no_exception_is_never_called() -> None:
    text = stored(ValueError("x")).replace("builtins:ValueError", "os:system").replace('["x"]', '["exit 1"]')
    assert isinstance(revived(text), StepFailed)


def test_an_error_of_the_system_has_its_number_and_its_file(tmp_path: Path) -> None:
    error = raised(lambda: (tmp_path / "none").read_text())
    back = revived(stored(error))
    assert type(back) is FileNotFoundError
    assert (back.errno, back.filename, str(back)) == (2, str(tmp_path / "none"), str(error))
    moved = raised(lambda: (tmp_path / "none").rename(tmp_path / "there"))
    assert str(revived(stored(moved))) == str(moved)
    plain = revived(stored(ConnectionRefusedError(111, "Connection refused")))
    assert type(plain) is ConnectionRefusedError
    assert (plain.errno, plain.filename) == (111, None)
    assert str(revived(stored(OSError("just said")))) == "just said"


def test_text_that_cannot_be_read_says_where() -> None:
    error = raised(b"ab\xff".decode)
    back = revived(stored(error))
    assert isinstance(back, UnicodeDecodeError)
    assert (back.object, back.start, str(back)) == (b"ab\xff", 2, str(error))


def test_an_http_error_has_its_answer() -> None:
    request = httpx.Request("POST", "http://bank.example/payments")
    answer = httpx.Response(409, request=request, json={"code": "duplicate"})
    back = revived(stored(raised(answer.raise_for_status)))
    assert isinstance(back, httpx.HTTPStatusError)
    assert (back.response.status_code, back.response.json()) == (409, {"code": "duplicate"})
    assert (back.request.method, str(back.request.url)) == ("POST", "http://bank.example/payments")


def test_a_validation_error_names_its_fields() -> None:
    error = raised(lambda: Order.model_validate({"amount": -1, "items": [1, "a"]}))
    back = revived(stored(error))
    assert isinstance(back, ValidationError)
    assert back.errors(include_url=False, include_context=False) == error.errors(  # type: ignore[attr-defined]
        include_url=False, include_context=False
    )
    assert str(back) == str(error)


def test_a_group_has_its_members() -> None:
    back = revived(stored(ExceptionGroup("two", [KeyError("b"), ExceptionGroup("in", [OutOfStock("tea", 1)])])))
    assert isinstance(back, ExceptionGroup)
    assert back.message == "two"
    left, right = back.split(OutOfStock)
    assert left is not None
    assert right is not None
    assert type(right.exceptions[0]) is KeyError


def test_an_error_that_cannot_say_what_is_wrong_is_kept_all_the_same() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert "Mute, which cannot say" in str(revived(stored(Mute())))


class OutOfReach(ConnectionError):
    """Takes other things than what it passes on."""

    def __init__(self, host: str) -> None:
        super().__init__(113, f"{host} is out of reach")
        self.host = host


class Counted(ValueError):
    """Whose text is made of what is no plain value."""

    def __init__(self, rows: Any) -> None:
        super().__init__("rows")
        self.rows = rows

    def __str__(self) -> str:
        return f"{len(list(self.rows))} rows"


def made_up(base: type[Exception], name: str = "NoSuchKey") -> Any:
    """As botocore makes its errors: of no module."""
    return type(name, (base,), {"__module__": "botocore.errorfactory"})


def made_up_from(base: type[Exception], *args: Any) -> Exception:
    error: Exception = made_up(base)(*args)
    return error


@pytest.mark.parametrize(
    ("error", "base"),
    [
        (made_up_from(ConnectionError, "no such key"), ConnectionError),
        (made_up_from(OutOfStock, "tea", 2), OutOfStock),
        (made_up_from(OutOfReach, "bank.example"), OutOfReach),
        (made_up_from(made_up(KeyError, "Inner"), "gone"), KeyError),
        (made_up_from(UnicodeDecodeError, "utf-8", b"\xff", 0, 1, "bad"), UnicodeDecodeError),
        (made_up_from(json.JSONDecodeError, "no JSON", "{", 1), json.JSONDecodeError),
        (Counted({1: "one", 2: "two"}.items()), Counted),
    ],
)
def test_an_error_whose_class_is_gone_is_caught_as_its_nearest_base(error: Exception, base: type[Exception]) -> None:
    """G1: the same except catches it on a replay."""
    back = revived(stored(error))
    assert isinstance(back, base)
    assert isinstance(back, StepFailed)
    assert (type(back).__name__, str(back), back.args) == (type(error).__name__, str(error), error.args)
    assert vars(back).keys() - {"kind"} == vars(error).keys()
    assert back.kind == f"{type(error).__module__}:{type(error).__qualname__}"


def test_an_error_of_the_system_whose_class_is_gone_has_its_number_and_its_file(tmp_path: Path) -> None:
    error = made_up(FileNotFoundError)(2, "none", str(tmp_path))
    back = revived(stored(error))
    assert isinstance(back, FileNotFoundError)
    assert isinstance(back, StepFailed)
    assert (back.errno, back.strerror, back.filename, str(back)) == (2, "none", str(tmp_path), str(error))
    own = revived(stored(OutOfReach("bank.example")))
    assert type(own) is OutOfReach
    assert (own.errno, own.strerror, own.host) == (113, "bank.example is out of reach", "bank.example")


def test_an_http_error_whose_class_is_gone_has_its_answer() -> None:
    request = httpx.Request("POST", "http://bank.example/payments")
    response = httpx.Response(409, request=request, json={"code": "duplicate"})
    back = revived(stored(made_up(httpx.HTTPStatusError)("conflict", request=request, response=response)))
    assert isinstance(back, httpx.HTTPStatusError)
    assert isinstance(back, StepFailed)
    assert (str(back), back.response.json()) == ("conflict", {"code": "duplicate"})


def test_a_group_whose_class_is_gone_is_split_all_the_same() -> None:
    back = revived(stored(made_up(ExceptionGroup)("two", [KeyError("a"), ValueError("b")])))
    assert isinstance(back, ExceptionGroup)
    assert isinstance(back, StepFailed)
    assert [type(one) for one in back.exceptions] == [KeyError, ValueError]


def test_an_error_that_an_older_version_stored_is_read() -> None:
    text = json.loads(stored(made_up_from(ConnectionError, "no such key")))
    del text["bases"]
    assert type(revived(json.dumps(text))) is StepFailed


def test_notes_are_kept() -> None:
    for error in (ValueError("no"), made_up_from(ConnectionError, "no"), made_up_from(Exception, "no")):
        error.add_note("while paying")
        error.add_note("on Sunday")
        assert revived(stored(error)).__notes__ == ["while paying", "on Sunday"]
