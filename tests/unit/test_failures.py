"""Errors of steps that the agent caught: as JSON and back."""

import httpx
import pytest

from standby.errors import StepFailed, WaitTimedOut
from standby.failures import revived, stored


class OutOfStock(Exception):
    """Takes other things than what it passes on."""

    def __init__(self, item: str, left: int) -> None:
        super().__init__(f"only {left} of {item} are left")
        self.item, self.left = item, left


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), KeyError("gone"), OutOfStock("tea", 2), TimeoutError(), WaitTimedOut("approval", "pay?")],
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
