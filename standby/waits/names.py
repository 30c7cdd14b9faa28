"""Classes and functions by name, so that other processes can import them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from standby.errors import UsageError


def type_name(annotation: Any) -> str | None:
    """``module:Name`` of a class that other processes can import; None for anything else."""
    if not isinstance(annotation, type) or annotation.__module__ in ("__main__", "builtins"):
        return None
    if "<locals>" in annotation.__qualname__:
        return None
    return f"{annotation.__module__}:{annotation.__qualname__}"


def importable(function: Callable[..., Any]) -> str:
    """``module:name`` of a function that another process can import. Raises ``UsageError``."""
    name = f"{getattr(function, '__module__', None)}:{getattr(function, '__qualname__', None)}"
    found = None if name.startswith("__main__:") else imported(name)
    if found is not function and not _loaded_anew(found, function):
        raise UsageError(
            f"{name} cannot be imported, and the keeper, another process, has to: poll= takes a function of a module, "
            "under the name that it was defined by."
        )
    return name


def _loaded_anew(found: Any, function: Any) -> bool:
    """Whether ``found`` is this function after its module was loaded once more.

    A host loads changed code anew, and what runs keeps the code it began with: then both are there. In one load of a
    module the name is that of one function only.
    """
    if type(found) is not type(function) or not inspect.isfunction(inspect.unwrap(function)):
        return False
    mine, theirs = inspect.unwrap(function), inspect.unwrap(found)
    return inspect.isfunction(theirs) and mine.__globals__ is not theirs.__globals__


def imported(name: str | None) -> Any | None:
    if name is None:
        return None
    module, _, qualname = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
    except Exception:  # a module may do anything when it is imported where it was not meant to be
        return None
    return found
