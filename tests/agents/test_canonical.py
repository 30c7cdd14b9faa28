"""The same arguments have one digest, and others have another."""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standby.agents.canonical import canonical, digest

# Threads of other tests that use random meanwhile are no fault of what is drawn here.
pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def shuffled(value: Any) -> Any:
    if isinstance(value, dict):
        items = [(key, shuffled(item)) for key, item in value.items()]
        random.Random(1).shuffle(items)
        return dict(items)
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@settings(deadline=None, database=None)
@given(JSON)
def test_the_order_of_keys_does_not_matter_and_the_text_is_the_value(value: Any) -> None:
    assert digest(shuffled(value)) == digest(value)
    assert json.loads(canonical(value)) == value


@settings(deadline=None, database=None)
@given(JSON, JSON)
def test_other_values_have_another_text(one: Any, other: Any) -> None:
    same = json.loads(canonical(one)) == json.loads(canonical(other))
    # Python holds True and 1 for equal, JSON does not.
    assert (canonical(one) == canonical(other)) == same or _has_booleans(one) or _has_booleans(other)


def _has_booleans(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, bool) or any(_has_booleans(item) for item in inner)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"), (-0.0, "0"), (10**30, "1" + "0" * 30), (1e22, "1e+22"), (0.1, "0.1"), (True, "true"),
        ({"b": 1, "a": [None, "é"]}, '{"a":[null,"\\u00e9"],"b":1}'),
        ({"\U0001f600": 1, "\ufb33": 2}, '{"\\ud83d\\ude00":1,"\\ufb33":2}'),
    ],
)  # fmt: skip
def test_the_text(value: Any, text: str) -> None:
    assert canonical(value) == text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: 2}, {1, 2}, b"x", object()])
def test_what_is_no_json_has_no_digest(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest(value)
