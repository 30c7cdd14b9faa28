"""Sources of webhooks: one file each. A source verifies who sent a request and says what it is."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from standby.gateway.sources.base import Incoming, Received

SCHEMES = {
    "standard": "standard_webhooks",
    "github": "github",
    "stripe": "stripe",
    "hmac": "plain_hmac",
    "cloudevents": "cloud_events",
}
"""Scheme of a source, as its block names it, and the module that knows it."""

Receive = Callable[[Incoming], Received]


def receiver(scheme: str) -> Receive:
    """The function ``receive(incoming)`` of this scheme."""
    found: Receive = import_module(f"standby.gateway.sources.{SCHEMES[scheme]}").receive
    return found


def is_secret(scheme: str, secret: str) -> bool:
    """Whether a secret of this scheme hides anything: an empty one is everybody's."""
    if scheme == "standard":
        from standby.gateway.sources.standard_webhooks import is_empty

        return not is_empty(secret)
    return bool(secret.strip())


__all__ = ["SCHEMES", "Incoming", "Received", "is_secret", "receiver"]
