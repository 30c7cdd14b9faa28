"""Classes and functions by name, so that other processes can import them."""

from __future__ import annotations

import importlib
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
    if name.startswith("__main__:") or imported(name) is not function:
        raise UsageError(
            f"{name} cannot be imported, and the keeper, another process, has to: poll= takes a function of a module."
        )
    return name


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
