"""Typed values to JSON text and back, the same for steps, answers and results.

A value is dumped by Pydantic's ``TypeAdapter`` of its annotation and read back by it before it is used, so a first
run and a replay see the same value. What would be lost on the way (NaN, a lone surrogate, an object JSON cannot
hold), or come back as something else (one of two classes that JSON does not tell apart), is refused at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from math import isfinite
from typing import Any, Generic, TypeVar

from pydantic import ConfigDict, PydanticInvalidForJsonSchema, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from standby.annotated import At
from standby.errors import NotStorable
from standby.same import check_same, equality_tells, parts_of

T = TypeVar("T")


@lru_cache(maxsize=512)
def _shared_adapter(annotation: Any, _as_text: str) -> TypeAdapter[Any]:
    """An adapter takes 26 KiB, and each wait of each run has one."""
    return _adapter(annotation)


@lru_cache(maxsize=512)
def _schema_text(adapter: TypeAdapter[Any]) -> str:
    """It takes long to make, and each wait that opens has one."""
    try:
        return json.dumps(adapter.json_schema())
    except PydanticInvalidForJsonSchema:
        return "{}"


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(annotation, config=ConfigDict(ser_json_bytes="base64", val_json_bytes="base64"))
    except PydanticUserError as error:
        if error.code != "type-adapter-config-unused":
            raise
        return TypeAdapter(annotation)  # a model has its own


class Codec(Generic[T]):
    """Reads and writes values of one annotation, which ``annotation`` returns.

    Built on first use: declaring a step costs nothing, and its types may be defined further down in the module.
    """

    def __init__(self, annotation: Callable[[], Any]) -> None:
        self._annotation = annotation

    @cached_property
    def annotation(self) -> Any:
        return self._annotation()

    @cached_property
    def _adapter(self) -> TypeAdapter[T]:
        try:
            # As text, too: unions of the same types in another order are equal, and not the same.
            return _shared_adapter(self.annotation, repr(self.annotation))
        except TypeError:  # not hashable
            return _adapter(self.annotation)

    @cached_property
    def _equality_tells(self) -> bool:
        return equality_tells(self._adapter.core_schema)

    def check(self, what: str) -> None:
        """Raise ``NotStorable`` naming ``what`` if no value of this annotation could be stored."""
        try:
            self._adapter  # noqa: B018
        except (PydanticUserError, NameError) as error:
            raise NotStorable(what, summary(error)) from error

    def encode(self, value: Any, what: str) -> tuple[str, T]:
        """The value as compact JSON text, and as it will be read back. Raises ``NotStorable`` naming ``what``."""
        self.check(what)
        try:
            plain = self._adapter.dump_python(value, mode="json", warnings="error")
            text = json.dumps(plain, allow_nan=False, separators=(",", ":"))
            back = self.decode(text)
            if self._equality_tells and (value == back) is True:
                return text, back
            # A model whose validators change what they have made themselves would change it at each reading.
            again = self._adapter.dump_python(back, mode="json")
            if again != plain and _unordered(again) != _unordered(plain):
                raise ValueError("it would be read back as another value: see to it that its validators leave alone "
                                 "what they have made")  # fmt: skip
            # Under Any, Pydantic writes NaN and infinity as null.
            if "null" in text and self._not_numbers(value) != self._not_numbers(back):
                raise ValueError("NaN or infinity would become null")
            if "{" in text:
                self._check_keys(value)
            check_same(value, back, At(self.annotation))
            return text, back
        except (PydanticSerializationError, ValidationError, ValueError, TypeError, RecursionError) as error:
            raise NotStorable(what, summary(error)) from error

    def _not_numbers(self, value: Any) -> int:
        """How many floats in the value are NaN or infinite."""
        parts = self._parts(value)
        return sum(isinstance(part, float) and not isfinite(part) for part in parts)

    def _parts(self, value: Any) -> Iterator[Any]:
        try:
            return _parts(self._adapter.dump_python(value))
        except TypeError:  # models in a set, whose dictionaries no set can have
            return parts_of(value)

    def _check_keys(self, value: Any) -> None:
        """Raise ``ValueError`` for a dictionary that JSON would take a key from, such as one with 1 and "1"."""
        for part in self._parts(value):
            if isinstance(part, dict) and not all(type(key) is str for key in part):
                known = to_jsonable_python(dict.fromkeys(part), serialize_unknown=True)
                if len(known) < len(part):
                    raise ValueError("two keys of a dictionary are the same text in JSON, and one would be lost")

    def decode(self, text: str) -> T:
        """The value of a JSON text. Raises ``pydantic.ValidationError`` when it does not fit the annotation.

        Fields have their names or their aliases: values are written with their names, and forms have the aliases.
        """
        return self._adapter.validate_json(text, by_alias=True, by_name=True)

    @staticmethod
    def plain(text: str) -> Any:
        """The JSON value itself, untyped."""
        return json.loads(text)

    @property
    def schema_text(self) -> str:
        """JSON Schema of the values as forms ask for them, as text; ``{}`` where there is none."""
        return _schema_text(self._adapter)

    def schema(self, *, stored: bool = False) -> dict[str, Any]:
        """JSON Schema of the values, as forms ask for them or as they are ``stored``; ``{}`` where there is none."""
        if not stored:
            schema: dict[str, Any] = json.loads(self.schema_text)
            return schema
        try:
            return self._adapter.json_schema(by_alias=False, mode="serialization")
        except PydanticInvalidForJsonSchema:
            return {}


def _parts(dumped: Any) -> Iterator[Any]:
    """A value and all that is in it, except keys."""
    left = [dumped]
    while left:
        part = left.pop()
        yield part
        if isinstance(part, dict):
            left += part.values()
        elif isinstance(part, list | tuple | set | frozenset):
            left += part


def _unordered(plain: Any) -> Any:
    """A JSON value with its lists sorted: a set may have its elements in another order when it is read back."""
    if isinstance(plain, dict):
        return {key: _unordered(one) for key, one in plain.items()}
    if isinstance(plain, list):
        return sorted(map(_unordered, plain), key=lambda one: json.dumps(one, sort_keys=True))
    return plain


def problems_of(error: ValidationError, whole: str = "answer") -> list[tuple[str, str]]:
    """``(field, reason)`` of each thing Pydantic found wrong; the field is dotted, ``whole`` for the whole."""
    return [
        (".".join(str(part) for part in item["loc"]) or whole, item["msg"].removeprefix("Value error, "))
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def summary(error: Exception) -> str:
    """One line for an error that may be Pydantic's long one."""
    if isinstance(error, ValidationError):
        return "; ".join(f"{field}: {reason}" for field, reason in problems_of(error))
    text = error.message if isinstance(error, PydanticUserError) else str(error)
    return " ".join(text.split()) or type(error).__name__


def one_line(text: str | None, most: int = 300) -> str:
    """Text from elsewhere as one line of so many characters at most; none is empty."""
    line = " ".join((text or "").split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
