"""Polls of conditions: functions that another process finds by their names, and arguments that it can read."""

import importlib.util
import json
import sys
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from standby import Condition
from standby.errors import UsageError
from standby.states import WaitKind


def a_source(order: str) -> str | None:
    return order


class Desk:
    def asked(self, order: str) -> str | None:
        return order


def nested() -> Any:
    def asked(order: str) -> str | None:
        return order

    return asked


def of_another_name() -> Any:
    """As a decorator without ``functools.wraps`` leaves it behind: the name is that of another function."""

    def asked(order: str) -> str | None:
        return order

    asked.__qualname__ = "a_source"
    return asked


def of_main() -> Any:
    def asked(order: str) -> str | None:
        return order

    asked.__module__, asked.__qualname__ = "__main__", "asked"
    return asked


@pytest.mark.parametrize("wrong", [Desk().asked, nested(), of_another_name(), of_main(), partial(a_source, order="7")])
def test_a_poll_that_another_process_would_not_find_by_its_name_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="cannot be imported"):
        Condition("paid", poll=wrong)


def test_a_poll_whose_module_was_loaded_anew_is_the_same_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a host loads it when another file has changed, while a run goes on with what it had."""
    spec = importlib.util.spec_from_file_location(__name__, __file__)
    assert spec is not None
    assert spec.loader is not None
    anew = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(anew)
    monkeypatch.setitem(sys.modules, __name__, anew)
    assert anew.a_source is not a_source
    assert Condition("paid", poll=a_source).poll["function"] == "tests.unit.test_polls:a_source"
    for wrong in (Desk().asked, nested()):
        with pytest.raises(UsageError, match="cannot be imported"):
            Condition("paid", poll=wrong)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"poll": lambda: None}, "cannot be imported"),
        ({"poll": a_source, "args": {"order": object()}}, "kept as JSON"),
        ({"poll": a_source, "args": ("7",)}, "are a dict, the parameters of poll= by name"),
        ({"poll": a_source, "args": []}, "are a dict"),
        ({"poll": a_source, "args": {7: "7"}}, "are a dict"),
        ({"poll": a_source, "every": timedelta(0)}, "above zero"),
        ({"poll": a_source, "every": timedelta(hours=2), "at_most": timedelta(hours=1)}, "not above at_most"),
    ],
)
def test_a_condition_that_the_keeper_could_not_poll_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Condition("paid", **wrong)


def test_a_condition_opens_with_its_poll() -> None:
    row = Condition("paid", key="7", poll=a_source, args={"order": "7"}).row("paid")
    assert (row.kind, row.topic, row.correlation) == (WaitKind.CONDITION, "paid", "7")
    assert json.loads(row.poll or "") == {
        "function": "tests.unit.test_polls:a_source", "args": {"order": "7"}, "every": 5.0, "at_most": 300.0,
    }  # fmt: skip
