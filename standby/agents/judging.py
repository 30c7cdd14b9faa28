"""What a call is judged by, and what an approval is bound to: its arguments as JSON values, and digests of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, RootModel, Secret, SecretBytes, SecretStr
from pydantic.dataclasses import is_pydantic_dataclass
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.toolsets import ToolsetTool
from pydantic_core import PydanticSerializationError, to_jsonable_python

from standby.agents.canonical import DEEPEST, canonical, digest
from standby.agents.permissions import Ruling, ruling
from standby.agents.scope import Permission

if TYPE_CHECKING:
    from standby.agents.thinking import Thinking


def judge(thinking: Thinking, tool: str, arguments: dict[str, Any]) -> Ruling:
    """What the scope says about a call, by the arguments that the tool will see."""
    try:
        return ruling(thinking.scope, tool, plain_arguments(arguments))
    except (ValueError, PydanticSerializationError) as error:
        return Ruling(Permission.DENY, f"The arguments of {tool!r} cannot be judged: {error}")


def plain_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments as JSON values, whole: no field that a serializer would hide or leave out is missing.

    Sets are sorted, so that their digest is the same in every process. Raises ``ValueError`` or
    ``PydanticSerializationError`` for what cannot be shown or told apart, such as a secret, or is nested more than
    ``DEEPEST`` deep.
    """
    plain: dict[str, Any] = _plain(arguments)
    digest(plain)
    return plain


def _plain(value: Any, levels: int = DEEPEST) -> Any:
    """``levels``: how many may be inside each other yet."""
    if isinstance(value, SecretStr | SecretBytes | Secret):
        raise ValueError("a secret among them can be neither shown nor compared")
    if levels < 0:
        raise ValueError(f"they are nested more than {DEEPEST} deep")
    inside = partial(_plain, levels=levels - 1)
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a mapping among them has keys that are not strings")
        return {str(key): inside(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [inside(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((inside(item) for item in value), key=canonical)
    if isinstance(value, RootModel):
        return inside(value.root)
    if isinstance(value, BaseModel):
        named = {name: getattr(value, name) for name in type(value).model_fields}
        return _plain(_with_extras(named, value.model_extra or {}), levels)
    if is_dataclass(value) and not isinstance(value, type):
        named = {field.name: getattr(value, field.name) for field in fields(value)}
        if is_pydantic_dataclass(type(value)):
            there: dict[str, Any] = getattr(value, "__dict__", {})
            named = _with_extras(named, {name: there[name] for name in there.keys() - named.keys()})
        return _plain(named, levels)
    if isinstance(value, Iterator):
        raise ValueError("a stream among them cannot be read twice")
    return to_jsonable_python(value, inf_nan_mode="constants")


def _with_extras(named: dict[str, Any], extras: Mapping[str, Any]) -> dict[str, Any]:
    """With what a model takes beside its fields, which may be called as a field is that has an alias."""
    if named.keys() & extras.keys():
        raise ValueError("one among them is given twice under one name")
    return {**named, **extras}


def arguments_digest(arguments: dict[str, Any]) -> str:
    """What an approval is bound to: the arguments as the tool will see them."""
    return digest(plain_arguments(arguments))


def given_digest(call: ToolCallPart) -> str:
    """And the call as the model gave it, before anything was made of it."""
    return digest([call.tool_name, call.args_as_json_str()])


def schema_digest(tool: ToolsetTool[Any]) -> str:
    """What a tool takes, as its JSON Schema says."""
    return digest(to_jsonable_python(tool.tool_def.parameters_json_schema))
