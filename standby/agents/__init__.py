"""Agents that think: a language model with tools, run as a part of a durable run, inside a scope it cannot leave.

This is the menu; the models need the extra ``standby[models]``. Names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from standby.agents.block import scope_named
    from standby.agents.budgets import Budget, Spent
    from standby.agents.conditions import AtMost, Below, HostIn, OneOf
    from standby.agents.running import AgentResult, current_scope, run_agent, would_be_allowed
    from standby.agents.scope import AgentScope, Asking, AtStop, Permission, Rule
    from standby.agents.tools import Reply, ask_human, waits

_MENU = {
    "block": "scope_named",
    "budgets": "Budget Spent",
    "conditions": "AtMost Below HostIn OneOf",
    "running": "AgentResult current_scope run_agent would_be_allowed",
    "scope": "AgentScope Asking AtStop Permission Rule",
    "tools": "Reply ask_human waits",
}
_HOME = {name: module for module, names in _MENU.items() for name in names.split()}

__all__ = [
    "AgentResult", "AgentScope", "Asking", "AtMost", "AtStop", "Below", "Budget", "HostIn", "OneOf", "Permission",
    "Reply", "Rule", "Spent", "ask_human", "current_scope", "run_agent", "scope_named", "waits", "would_be_allowed",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'standby.agents' has no attribute {name!r}")
    return getattr(import_module(f"standby.agents.{_HOME[name]}"), name)
