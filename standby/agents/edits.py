"""From arguments as people are shown them, and change them, back to those of a call.

People see what the tool will: all fields by their own names, with the defaults. A call has the names that the model is
told (aliases). What is written must come out as it stands there: nothing that is left out, misread or made another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any

from pydantic import AliasChoices, RootModel, ValidationError
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.tools import RunContext

from standby.agents.canonical import canonical
from standby.agents.judging import plain_arguments
from standby.values import summary


async def validated(ctx: RunContext[Any], call: ToolCallPart) -> dict[str, Any] | None:
    """The arguments as the tool will see them; None if they do not fit it."""
    assert ctx.tool_manager is not None
    try:
        found = await ctx.tool_manager.validate_tool_call(call, approved=True, wrap_validation_errors=False)
    except Exception:  # whatever a validator of the tool has to say: it does not fit
        return None
    return found.validated_args


def as_called(ctx: RunContext[Any], tool: str, said: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments that a person wrote, as those of a call, and as the tool will see them.

    Raises ``ValueError`` where they do not fit the tool, or where it would see others than were written.
    """
    assert ctx.tool_manager is not None
    found = (ctx.tool_manager.tools or {}).get(tool)
    if found is None:
        return said, said
    read: Any = partial(found.args_validator.validate_python, context=ctx.validation_context)
    try:
        seen = read(said, by_name=True, by_alias=False)
        given = _called(said, seen)
        plain, again = plain_arguments(seen), plain_arguments(_read_again(read, given))
    except ValueError as error:
        raise ValueError(summary(error) if isinstance(error, ValidationError) else str(error)) from error
    except Exception as error:  # of a validator that was written for other arguments, or of JSON that is too deep
        raise ValueError(f"they do not fit the tool: {type(error).__name__}") from error
    if other := difference(said, plain):
        raise ValueError(other)
    if other := difference(plain, again, "it is another one each time: give it, too"):
        raise ValueError(other)
    return given, seen


def _read_again(read: Any, given: dict[str, Any]) -> dict[str, Any]:
    try:
        again: dict[str, Any] = read(given)
    except ValidationError as error:
        raise ValueError(f"the tool cannot be called by the names that are shown: {summary(error)}") from error
    return again


async def call_for(
    ctx: RunContext[Any], call: ToolCallPart, shown: dict[str, Any], changed: dict[str, Any] | None
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """What the call is to be given so that the tool sees what was approved, None for what it has; and what that is.

    ``changed``: by people, None if they left what was shown. Raises ``ValueError`` if it would see others.
    """
    if changed is None:
        again = await validated(ctx, call)
        if again is not None and canonical(plain_arguments(again)) == canonical(shown):
            return None, shown
    said = shown if changed is None else changed  # as shown: with the defaults, that would be others now
    given, _ = as_called(ctx, call.tool_name, said)
    arguments = await validated(ctx, replace(call, args=given))
    if arguments is None:
        raise ValueError("they do not fit the tool")
    if other := difference(said, plain_arguments(arguments)):
        raise ValueError(other)
    return given, arguments


async def still_meant(ctx: RunContext[Any], call: ToolCallPart, shown: dict[str, Any]) -> dict[str, Any] | None:
    """What people were shown of a call, if the call still means that where the defaults are as they were then."""
    try:
        given, _ = as_called(ctx, call.tool_name, shown)
        arguments = await validated(ctx, replace(call, args=_over(given, call.args_as_dict())))
        plain = plain_arguments(arguments) if arguments is not None else None
        return plain if canonical(plain) == canonical(shown) else None
    except ValueError:
        return None


def difference(said: Any, seen: Any, why: str | None = None, at: str = "") -> str | None:
    """Where, and what, the tool would see of JSON values that it was given another one of; None if it sees them all.

    It may see more: the defaults of what was left out.
    """
    below = f"{at}." if at else ""
    if isinstance(said, Mapping) and isinstance(seen, Mapping):
        for name, one in said.items():
            if name not in seen:
                return f"{below}{name}: the tool does not take it"
            if other := difference(one, seen[name], why, f"{below}{name}"):
                return other
        return None
    if isinstance(said, list) and isinstance(seen, list) and len(said) == len(seen):
        pairs = enumerate(zip(said, seen, strict=True))
        return next((other for n, (a, b) in pairs if (other := difference(a, b, why, f"{below}{n}"))), None)
    if canonical(said) == canonical(seen) or _same_number(said, seen):
        return None
    return f"{at or 'arguments'}: {why or f'it would become {json.dumps(seen, ensure_ascii=False)}'}"


def _same_number(said: Any, seen: Any) -> bool:
    """Whether one is a number, and the other the same one, or a text that says it. Two texts are just that."""
    if isinstance(said, str) and isinstance(seen, str):
        return False
    return _number(said) is not None and _number(said) == _number(seen)


def _number(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return Decimal(str(value))
    except InvalidOperation:
        return None


def _called(said: Any, seen: Any) -> Any:
    """What was written by the names of fields, by the names that the fields are called by."""
    if isinstance(seen, RootModel):
        return _called(said, seen.root)
    if isinstance(said, Mapping):
        known = getattr(type(seen), "__pydantic_fields__", {})
        inside: Any = seen.get if isinstance(seen, Mapping) else partial(_attribute, seen)
        return {_alias(known.get(name), name): _called(one, inside(name)) for name, one in said.items()}
    if isinstance(said, list) and isinstance(seen, list | tuple) and len(said) == len(seen):
        return [_called(one, other) for one, other in zip(said, seen, strict=True)]
    return said


def _attribute(of: Any, name: str) -> Any:
    return getattr(of, name, None)


def _alias(field: Any, name: str) -> str:
    alias = getattr(field, "validation_alias", None)
    if isinstance(alias, AliasChoices):
        alias = next((one for one in alias.choices if isinstance(one, str)), None)
    return alias if isinstance(alias, str) else name


def _over(known: Any, given: Any) -> Any:
    """JSON values with those over them that were given."""
    if isinstance(known, Mapping) and isinstance(given, Mapping):
        return {**known, **{name: _over(known.get(name), one) for name, one in given.items()}}
    if isinstance(known, list) and isinstance(given, list) and len(known) == len(given):
        return [_over(one, other) for one, other in zip(known, given, strict=True)]
    return given
