"""Standby: AI agents that wait. Durable Prefect flows that park, hold nothing, and wake with nothing lost.

This is the menu. Names are imported when they are first used; importing the package does no work.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from standby.chance import now, random, uuid
    from standby.errors import (
        AgentFailed,
        AnswerRefused,
        JournalMismatch,
        NotAllowed,
        StandbyError,
        UsageError,
        WaitTimedOut,
    )
    from standby.flows import agent
    from standby.local import run_here
    from standby.moments import BusinessDays
    from standby.policy import Escalation, Policy
    from standby.steps import idempotency_key, step
    from standby.waiting import First, resume_url, wait_all, wait_any, wait_for
    from standby.waits import AgentFinished, Approval, Condition, Decision, PrefectEvent, Signal, Timer

_MENU = {
    "chance": "now random uuid",
    "flows": "agent",
    "errors": "AgentFailed AnswerRefused JournalMismatch NotAllowed StandbyError UsageError WaitTimedOut",
    "local": "run_here",
    "moments": "BusinessDays",
    "policy": "Escalation Policy",
    "steps": "idempotency_key step",
    "waiting": "First resume_url wait_all wait_any wait_for",
    "waits": "AgentFinished Approval Condition Decision PrefectEvent Signal Timer",
}
_HOME = {name: module for module, names in _MENU.items() for name in names.split()}

__all__ = [
    "AgentFailed", "AgentFinished", "AnswerRefused", "Approval", "BusinessDays", "Condition", "Decision",
    "Escalation", "First", "JournalMismatch", "NotAllowed", "Policy", "PrefectEvent", "Signal", "StandbyError",
    "Timer", "UsageError", "WaitTimedOut", "agent", "idempotency_key", "now", "random", "resume_url", "run_here",
    "step", "uuid", "wait_all", "wait_any", "wait_for",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'standby' has no attribute {name!r}")
    return getattr(import_module(f"standby.{_HOME[name]}"), name)
