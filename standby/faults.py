"""Named points of the code at which tests can make a process die. Nothing happens at them otherwise."""

from __future__ import annotations

from collections.abc import Callable

_hook: Callable[[str], None] | None = None


def reach(point: str) -> None:
    """The code has come to ``point``, such as ``step.acted`` (``standby.testing.crash`` lists them)."""
    if _hook is not None:
        _hook(point)


def set_hook(hook: Callable[[str], None] | None) -> None:
    """Call ``hook`` with the name of each point that is reached; ``None`` for nothing."""
    global _hook
    _hook = hook
