"""What is annotated at a place in a value.

Only a place where a value has come back as an object of another class is looked up: it may be that a union there names
the class of both, and did not tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from typing_extensions import TypeAliasType, is_typeddict

KEY = "a key"
"""The place of the keys of a dictionary."""


class At(NamedTuple):
    """A place in a value: the whole, of which the annotation is known, or a part of the place ``above``."""

    annotation: Any
    above: At | None = None
    name: Any = None
    of: type | None = None
    """The class that has a field of this name."""

    def below(self, name: object, of: type | None = None) -> At:
        return At(None, self, name, of)

    def path(self) -> list[object]:
        return [*self.above.path(), self.name] if self.above else []

    def named(self) -> frozenset[Any]:
        """The classes that a union at this place names."""
        choices = self._choices()
        return frozenset(get_origin(choice) or choice for choice in choices) if len(choices) > 1 else frozenset()

    def _choices(self) -> list[Any]:
        if self.above is None:
            choices = _choices(self.annotation)
        elif self.of is not None:
            choices = _choices(_hints(self.of).get(self.name))
        else:
            choices = (one for choice in self.above._choices() for one in _choices_in(choice, self.name))
        # Each once: an alias that names itself would double them with each level.
        return list({id(choice): choice for choice in choices}.values())


def _choices(annotation: Any) -> Iterator[Any]:
    if isinstance(annotation, TypeAliasType):
        yield from _choices(annotation.__value__)
    elif get_origin(annotation) is Annotated:
        yield from _choices(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for one in get_args(annotation):
            yield from _choices(one)
    else:
        yield annotation


def _choices_in(container: Any, name: Any) -> Iterator[Any]:
    """What may stand in what is annotated so, under this name or number."""
    kind, parts = get_origin(container) or container, get_args(container)
    if not isinstance(kind, type):
        return
    if is_typeddict(kind):
        yield from _choices(_hints(kind).get(name))
    elif hasattr(kind, "_fields"):
        yield from _choices(list(_hints(kind).values())[name])
    elif parts and issubclass(kind, Mapping):
        yield from _choices(parts[0 if name is KEY else -1])
    elif parts and issubclass(kind, tuple) and parts[-1] is not ...:
        yield from _choices(parts[name])
    elif parts:
        yield from _choices(parts[0])


@lru_cache(maxsize=512)
def _hints(kind: type) -> dict[str, Any]:
    if issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    try:
        return get_type_hints(kind)
    except (NameError, TypeError):  # a name that only its module's type checker knows
        return {}
