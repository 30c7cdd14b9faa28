"""The forms that people fill in about an agent: its calls, and more budget."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, NamedTuple

from pydantic import BaseModel, Field, ValidationInfo, create_model, field_validator
from pydantic.json_schema import SkipJsonSchema

from standby import clock
from standby.agents.budgets import Budget
from standby.agents.families import Short
from standby.waits import NEEDED, Least

APPROVED = Field(title="Approve", description="On: they are made, as changed or refused below. Off: none is made.")
CHANGED = "Instead of the ones shown: all of the call's arguments, as one JSON object. Empty: the ones shown."
AS_JSON: dict[str, Any] = {"contentMediaType": "application/json"}
"""Beside the schema of a text that holds JSON: a page gives it more than one line."""


def _changed(title: str) -> Any:
    return Field(default="", title=title, description=CHANGED, json_schema_extra=AS_JSON)


class OneCall(BaseModel):
    """The form about a single call."""

    approved: bool = Field(title="Approve")
    arguments: str = _changed("Changed arguments")
    comment: str = Field(default="", title="Reason or comment", description="If you refuse, the agent is told it.")


class OneFixedCall(OneCall):
    """The form about a single call whose arguments cannot be changed: it does not show the field."""

    arguments: SkipJsonSchema[str] = ""


class Said(NamedTuple):
    """What a person said about one call. ``arguments``: changed ones; None for the ones that were shown."""

    approved: bool
    arguments: dict[str, Any] | None
    reason: str


def form_of(tools: Sequence[str], fixed: Collection[int] = ()) -> type[BaseModel]:
    """The form about so many calls of these tools. ``fixed``: the numbers, from 1, of those whose arguments cannot be
    changed."""
    if len(tools) == 1:
        return OneFixedCall if fixed else OneCall
    return _form_of(tuple(tools), frozenset(fixed))


@lru_cache(maxsize=32)  # it takes long to make, and a transcript asks for it once for each call
def _form_of(tools: tuple[str, ...], fixed: frozenset[int]) -> type[BaseModel]:
    fields: dict[str, Any] = {"approved": (bool, APPROVED)}
    for number, tool in enumerate(tools, start=1):
        fields[f"refuse_{number}"] = (bool, Field(default=False, title=f"{number}. {tool}: refuse this one"))
        fields[f"arguments_{number}"] = (
            SkipJsonSchema[str] if number in fixed else str,
            _changed(f"{number}. {tool}: changed arguments"),
        )
        fields[f"reason_{number}"] = (str, Field(default="", title=f"{number}. {tool}: reason"))
    fields["comment"] = (str, Field(default="", title="Reason or comment", description="For all that are refused."))
    return create_model("SeveralCalls", __module__=__name__, **fields)


def said_of(answer: BaseModel, count: int, *, exactly: bool = False) -> list[Said]:
    """What the answer says about each call. Raises ``ValueError`` naming the field for arguments that are no object.

    ``exactly``: also for those of which something would be lost when they are read, as what was taken before may be.
    """
    told = answer.model_dump()
    read = _exactly if exactly else json.loads
    if count == 1:
        return [Said(told["approved"], _arguments(arguments_field(1, 1), told["arguments"], read), told["comment"])]
    return [
        Said(
            told["approved"] and not told[f"refuse_{number}"],
            _arguments(arguments_field(number, count), told[arguments_field(number, count)], read),
            told[f"reason_{number}"] or told["comment"],
        )
        for number in range(1, count + 1)
    ]


def arguments_field(number: int, count: int) -> str:
    """The form's field with the changed arguments of one of so many calls; the first has number 1."""
    return "arguments" if count == 1 else f"arguments_{number}"


def _arguments(field: str, text: str, read: Callable[[str], Any]) -> dict[str, Any] | None:
    if not text.strip():
        return None
    try:
        changed = read(text)
    except _Lost as error:
        raise ValueError(f"{field}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{field}: it is not JSON: {error}") from error
    if not isinstance(changed, dict):
        raise ValueError(f"{field}: the arguments are a JSON object, such as {{}}")
    return changed


class _Lost(Exception):
    """Something in a JSON text is lost when it is read."""


def _exactly(text: str) -> Any:
    return json.loads(text, parse_float=_number, object_pairs_hook=_object)


def _number(text: str) -> float:
    number = float(text)
    try:
        same = Decimal(text) == Decimal(repr(number))
    except InvalidOperation:  # beyond what there is of numbers
        same = False
    if not same:
        raise _Lost(f'{text} would become {number!r}: write fewer digits, or "{text}" where the tool takes a text')
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise _Lost(f"{twice!r} stands there twice: leave one of them out")
    return found


MOST_MORE = 1e12
"""What can be granted at once, in whatever unit: of seconds that is more than thirty thousand years."""


class Granted(BaseModel):
    """What was said about more of a budget, as the journal may hold it."""

    approved: bool = Field(title="Grant more")
    amount: float = Field(default=0, ge=0, allow_inf_nan=False, title="How much more")
    comment: str = Field(default="", title="Comment")


class More(Granted):
    """The form that asks for more of a budget. ``amount``: on top, in the unit that the question names."""

    amount: float = Field(
        default=0, ge=0, le=MOST_MORE, allow_inf_nan=False, title="How much more", validate_default=True,
        json_schema_extra={NEEDED: True},
    )  # fmt: skip

    @field_validator("amount")
    @classmethod
    def _some(cls, amount: float, info: ValidationInfo) -> float:
        if info.data.get("approved") and not amount:
            raise ValueError("say how much more: with nothing more the agent ends, as after a no")
        return amount


WHOLE = ("steps", "tool_calls", "tokens")
"""Budgets of what there are only whole ones of."""


def least_more(short: Short) -> Least:
    """How much more of a budget helps, where it is short by so much now."""
    return Least(
        above=short.over,
        why=short.why,
        step=0.01 if short.what == "money" else 1,
        whole=short.what in WHOLE,
        since=clock.utcnow() if short.what == "wall" else None,
    )


def schema_of_more(least: Least) -> dict[str, Any]:
    """JSON Schema of ``More`` for a question where so much helps."""
    schema = More.model_json_schema()
    amount = schema["properties"]["amount"]
    amount |= {NEEDED: least.model_dump(mode="json", exclude_none=True), "description": f"What helps: {least.said}."}
    if least.whole:
        amount["type"] = "integer"
    return schema


def check_more(what: str, answer: More) -> None:
    """Raise ``ValueError`` for an approval of a part of what there are only whole ones of."""
    if answer.approved and more_budget(what, answer) is None:
        raise ValueError(f"amount: there is no {answer.amount:g} of them, say how many")


def more_budget(what: str, answer: Granted) -> Budget | None:
    """What was granted of this budget, in its own unit; None if nothing was."""
    if not answer.approved or answer.amount <= 0:
        return None
    granted = min(answer.amount, MOST_MORE)  # before there was a bound, anything was taken
    amount: Any = int(granted)
    if not amount and what in WHOLE:
        return None
    if what in ("running", "wall"):
        amount = timedelta(seconds=granted)
    elif what == "money":
        amount = Decimal(str(granted))
    return Budget(**{what: amount})


def more_of(what: str, text: str) -> Budget | None:
    """What was granted, from the checkpoint of the wait that asked for it; None if nothing was."""
    stored = json.loads(text)[""]
    return more_budget(what, Granted.model_validate_json(stored["answer"])) if "answer" in stored else None
