"""Whether a value that was read back is the one that was stored.

An annotation that says less gets less back, and that is meant: plain JSON under ``Any`` or where text will do, an
object of the class that was named for one of a subclass. What a class fills in itself, such as a private attribute or a
field that it does not compare, is its own. All else must come back as what it was, with its type.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from itertools import islice
from typing import Any
from uuid import UUID

from pydantic import BaseModel, RootModel, Secret, SecretBytes, SecretStr
from pydantic_core import PydanticUndefined

from standby.annotated import KEY, At

_SECRETS = (SecretStr, SecretBytes, Secret)
_MASK = "**********"
"""What Pydantic writes for a secret."""

_HALF_PAIR = re.compile("[\ud800-\udfff]")

_PLAIN = frozenset({str, int, float, bool, type(None), list, dict})
"""What JSON has."""

_SCALARS = frozenset({str, int, float, bool, type(None), bytes, Decimal, UUID, date, datetime, timedelta})
"""What is the same if it is equal and of one type."""

_NUMBERS = (int, float)

_MISSING = object()

_LOOKED_FOR = 20
"""So many elements of a set that are not equal to any that was read back are looked for there, one by one; what becomes
of them becomes of the others."""

_TRUSTED = frozenset({
    "any", "none", "bool", "int", "float", "decimal", "str", "bytes", "date", "time", "datetime", "timedelta", "uuid",
    "literal", "enum", "list", "tuple", "set", "frozenset", "dict", "nullable", "model", "model-fields", "model-field",
    "typed-dict", "typed-dict-field", "default", "definitions", "definition-ref",
})  # fmt: skip
"""Parts of a schema whose values are the same, as far as their types say, if Python finds them equal."""

_BELOW = frozenset({
    "schema", "fields", "items_schema", "keys_schema", "values_schema", "extras_schema", "extras_keys_schema",
    "definitions",
})  # fmt: skip
"""Where these parts have schemas. All else in them is not for walking: a default may look like a schema."""

_TRUSTED_EQUALITY = (BaseModel.__eq__, RootModel.__eq__, object.__eq__, str.__eq__, int.__eq__)


def equality_tells(schema: Any) -> bool:
    """Whether two values of this Pydantic core schema are the same if they are equal, so that nobody has to look into
    them. With a union that is not so: two classes of one shape may be equal. Nor with validators, or classes that say
    themselves what is equal."""
    left = [schema]
    while left:
        part = left.pop()
        if not isinstance(part, dict) or part["type"] not in _TRUSTED:
            return False
        if part.get("serialization") or part.get("computed_fields"):
            return False
        if "cls" in part and getattr(part["cls"], "__eq__", None) not in _TRUSTED_EQUALITY:
            return False
        for key in _BELOW & part.keys():
            below = part[key]
            # Fields have any names, also those of parts of a schema.
            left += below.values() if key == "fields" else below if isinstance(below, list) else [below]
    return True


@lru_cache(maxsize=512)
def _tells(model: type[BaseModel]) -> bool:
    return equality_tells(model.__pydantic_core_schema__)


def check_same(value: Any, back: Any, at: At) -> None:
    """Raise ``ValueError`` if ``back`` is not what ``value`` was. It names the place and both types, not what is in
    them."""
    kind, found = type(value), type(back)
    if kind is found and (kind in _SCALARS or (issubclass(kind, BaseModel) and _tells(kind))) and value == back:
        return
    if isinstance(value, _SECRETS):
        _check(kind is found and value == back, "it is written as ***: give its field a serializer that writes it, or "
               "return the name of where it is kept", value, back, at)  # fmt: skip
    elif found in _PLAIN and not isinstance(value, found):
        _check_plain(value, back, at)
    elif isinstance(value, Mapping) and isinstance(back, Mapping):
        _check_mapping(value, back, at)
    elif isinstance(value, BaseModel) or (is_dataclass(value) and is_dataclass(back)):
        _check(_is_of(kind, found, at), "the annotation does not tell them apart: give each a field of its own, such "
               "as a Literal", value, back, at)  # fmt: skip
        _check_fields(value, back, at)
    elif isinstance(value, set | frozenset) and isinstance(back, set | frozenset):
        for one in islice(value - back, _LOOKED_FOR):
            _check(any(_is_same(one, other, at.below(0)) for other in back), "one of them changes", value, back, at)
        _check_elements(value, back, at)
    elif _has_parts(value) and _has_parts(back):
        _check(_is_of(kind, found, at), "the annotation does not tell them apart", value, back, at)
        _check(getattr(value, "maxlen", None) == getattr(back, "maxlen", None), "its maxlen is lost", value, back, at)
        for number, (one, other) in enumerate(zip(value, back, strict=True)):
            check_same(one, other, at.below(number))
    elif isinstance(value, datetime) and isinstance(back, datetime):
        _check(_same_moment(value, back), "it is another moment: whole minutes are kept of an offset", value, back, at)
    else:
        _check(_is_of(kind, found, at), "the annotation does not tell them apart", value, back, at)
        _check(_are_equal(value, back, exactly=kind is found), "JSON has not all of it", value, back, at)


def _check(same: bool, why: str, value: Any, back: Any, at: At) -> None:
    if not same:
        kind, found = type(value).__qualname__, type(back).__qualname__
        place = f"{'.'.join(map(str, at.path()))}: " if at.above else ""
        another = "another one" if kind == found else found
        raise ValueError(f"{place}{kind} would be read back as {another} ({why})")


def _is_same(value: Any, back: Any, at: At) -> bool:
    try:
        check_same(value, back, at)
    except ValueError:
        return False
    return True


def _is_of(kind: type, found: type, at: At) -> bool:
    """Whether an object of one class may stand for one of the other: of the same, of one above it where no union names
    the first, or of one below it where none names the second, which is the doing of the class itself. A generic model
    and one with its parameters are the same."""
    if kind is found:
        return True
    above = found in kind.__mro__ or _origin(found) in map(_origin, kind.__mro__)
    return (above and kind not in at.named()) or (kind in found.__mro__ and found not in at.named())


def _origin(kind: type) -> Any:
    return (getattr(kind, "__pydantic_generic_metadata__", None) or {}).get("origin") or kind


def _has_parts(value: Any) -> bool:
    """An enum has none: a flag contains itself."""
    return isinstance(value, list | tuple | set | frozenset | deque) and not isinstance(value, Enum)


def _check_plain(value: Any, back: Any, at: At) -> None:
    """The annotation says less than the value was."""
    if isinstance(back, _NUMBERS) and isinstance(value, _NUMBERS):
        _check(value == back, "the number is rounded", value, back, at)
    elif isinstance(back, dict) and isinstance(value, Mapping):
        _check_mapping(value, back, at)
    elif isinstance(back, list) and _has_parts(value) and len(value) == len(back):
        for number, (one, other) in enumerate(zip(value, back, strict=True)):
            check_same(one, other, at.below(number))
    else:
        _check(
            type(value) not in _PLAIN and back is not None, "the annotation makes something else of it", value, back, at
        )
        for part in parts_of(value):
            if isinstance(part, _SECRETS):
                _check(_MASK not in str(back), "a secret in it is written as ***", value, back, at)
            elif isinstance(part, str):
                _check(not _HALF_PAIR.search(part), "half a surrogate pair in it is lost", value, back, at)


def parts_of(value: Any) -> Iterator[Any]:
    """A value and all that is in it, also keys, each object once."""
    left, seen = [value], {}
    while left:
        part = left.pop()
        yield part
        if id(part) in seen:
            continue
        seen[id(part)] = part  # kept, so that no other object gets its id
        if isinstance(part, BaseModel):
            left += [*part.__dict__.values(), *(part.__pydantic_extra__ or {}).items()]
        elif is_dataclass(part) and not isinstance(part, type | Enum):
            left += [getattr(part, field.name, None) for field in fields(part)]
        elif isinstance(part, Mapping):
            left += [*part.keys(), *part.values()]
        elif _has_parts(part):
            left += part


def _check_mapping(value: Mapping[Any, Any], back: Mapping[Any, Any], at: At) -> None:
    _check(len(value) == len(back), "it loses keys", value, back, at)
    keys = {key: key for key in back}
    # In the same order where keys have become text; a TypedDict comes back in the order of its class.
    for (key, one), other in zip(value.items(), keys, strict=True):
        there = keys.get(key, other)
        if not (type(there) is str and type(key) in (int, float, bool, type(None))):  # as text, as JSON has them
            check_same(key, there, at.below(KEY))
        check_same(one, back[there], at.below(_name_of(key)))


def _name_of(key: Any) -> str:
    return str(key).encode("utf-8", "backslashreplace").decode()


def _check_elements(value: set[Any] | frozenset[Any], back: set[Any] | frozenset[Any], at: At) -> None:
    _check(len(value) == len(back), "some of it is lost", value, back, at)
    there = {one: one for one in back}
    for one in value:
        if one in there:
            check_same(one, there[one], at.below(0))


def _check_fields(value: Any, back: Any, at: At) -> None:
    if not isinstance(back, BaseModel):
        for field in fields(back):
            one, other = getattr(value, field.name, _MISSING), getattr(back, field.name, _MISSING)
            # What a class does not compare itself, it may fill in when it is asked for it.
            if (field.compare and field.init and not field.name.startswith("_")) or isinstance(one, _SECRETS):
                check_same(one, other, at.below(field.name, type(back)))
        return
    kind, found = type(value), type(back)
    for name in found.model_fields:
        check_same(getattr(value, name, _MISSING), getattr(back, name, _MISSING), at.below(name, found))
    # A computed field is written like all others, and is read back as what is extra.
    extra, seen = ({name: one for name, one in (made.__pydantic_extra__ or {}).items()
                    if name not in found.model_computed_fields} for made in (value, back))  # fmt: skip
    if kind is found or (extra and seen):
        _check_mapping(extra, seen, at)
    kept, known = value.__pydantic_private__ or {}, back.__pydantic_private__ or {}
    for name, attribute in found.__private_attributes__.items():
        # Others the class fills in itself, from a factory or in the place of None.
        if attribute.default is not None and attribute.default is not PydanticUndefined:
            _check(_is_same(kept.get(name, known.get(name)), known.get(name), at.below(name)),
                   f"its private {name} is not stored", value, back, at)  # fmt: skip


def _same_moment(value: datetime, back: datetime) -> bool:
    """Also for times that a zone has twice, which Python calls equal to none in another zone."""
    offset, other = value.utcoffset(), back.utcoffset()
    if offset is None or other is None:
        return value == back
    return value.replace(tzinfo=None) - back.replace(tzinfo=None) == offset - other


def _are_equal(value: Any, back: Any, *, exactly: bool) -> bool:
    """Equal as far as the type says; what has no equality of its own is."""
    if isinstance(value, Enum):
        return value is back or not exactly
    own: Any = type(value).__eq__
    if own is object.__eq__ or (not exactly and not isinstance(value, date)):
        return True
    equal = value == back
    return not isinstance(equal, bool) or equal or (value != value and back != back)  # NaN
