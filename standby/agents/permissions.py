"""Whether a call is allowed, asked about or denied: pure functions on a scope, a tool's name and its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from standby.agents.scope import STRICTEST_FIRST, AgentScope, Permission, Rule


class Ruling(NamedTuple):
    """``why`` is a sentence for the model and for people."""

    permission: Permission
    why: str


def ruling(scope: AgentScope, tool: str, arguments: Mapping[str, Any]) -> Ruling:
    """The strictest of what the scope and every wider one say about a call. ``arguments`` are JSON values."""
    rulings = [_own_ruling(scope, tool, arguments), *(ruling(wider, tool, arguments) for wider in scope.within)]
    return min(rulings, key=lambda one: STRICTEST_FIRST.index(one.permission))


def may_be_called(scope: AgentScope, tool: str) -> bool:
    """Whether any call of the tool could be allowed or asked about: the model is shown no other tools."""
    mine = [rule for rule in scope.tools if rule.tool == tool]
    if any(rule.permission is Permission.DENY and not rule.when for rule in mine):
        return False
    return any(rule.permission is not Permission.DENY for rule in mine) and all(
        may_be_called(wider, tool) for wider in scope.within
    )


def _own_ruling(scope: AgentScope, tool: str, arguments: Mapping[str, Any]) -> Ruling:
    mine = [rule for rule in scope.tools if rule.tool == tool]
    if not mine:
        return Ruling(Permission.DENY, f"The tool {tool!r} is outside the scope.")
    for rule in mine:
        # What a condition cannot judge must not slip past a ban.
        if rule.permission is Permission.DENY and not any(one.cannot_hold(arguments) for one in rule.when):
            return Ruling(Permission.DENY, f"The scope denies {_said(rule)}.")
    for permission in (Permission.ALLOW, Permission.ASK):
        for rule in mine:
            if rule.permission is permission and all(condition.holds(arguments) for condition in rule.when):
                return Ruling(permission, f"The scope has {_said(rule)} under '{permission}'.")
    limits = "; ".join(_said(rule) for rule in mine if rule.permission is not Permission.DENY)
    return Ruling(Permission.DENY, f"These arguments of {tool!r} are outside the scope, which has: {limits or 'none'}.")


def _said(rule: Rule) -> str:
    return f"{rule.tool} ({', '.join(condition.said for condition in rule.when)})" if rule.when else rule.tool
