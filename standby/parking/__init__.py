"""Parking and waking. The only package that changes Prefect states; the ledger is the truth, Prefect its projection.

Order, so that no wake-up is lost: the waiter opens its waits in the ledger, saves the form, suspends, and then looks
at the ledger again. Who answers writes the ledger, then wakes. A wake that finds nothing to wake is fine.
"""

from standby.parking.answers import answer_in_prefect, take_response
from standby.parking.client import (
    asked_again_since,
    cancel_was_overruled,
    cancelled_before,
    has_run,
    is_retry,
    retried_since,
    show_cancelled,
    stands_since,
    start_awaited,
)
from standby.parking.forms import description_of, form_schema
from standby.parking.logs import calm_logs
from standby.parking.pausing import pause
from standby.parking.suspending import is_paused_by_somebody, is_resumed_from, show_suspended, suspend, tell_log
from standby.parking.waking import cancel, wake, wake_parents

__all__ = [
    "answer_in_prefect",
    "asked_again_since",
    "calm_logs",
    "cancel",
    "cancel_was_overruled",
    "cancelled_before",
    "description_of",
    "form_schema",
    "has_run",
    "is_paused_by_somebody",
    "is_resumed_from",
    "is_retry",
    "pause",
    "retried_since",
    "show_cancelled",
    "show_suspended",
    "stands_since",
    "start_awaited",
    "suspend",
    "take_response",
    "tell_log",
    "wake",
    "wake_parents",
]
