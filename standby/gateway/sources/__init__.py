"""Sources of webhooks: one file each. A source verifies who sent a request and says what it is."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from standby.gateway.sources.base import EMPTY, Incoming, Received

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


def why_no_secret(scheme: str, secret: str) -> str | None:
    """Why a secret of this scheme verifies nobody, or everybody, as an empty one; None for one that is good."""
    if scheme == "standard":
        from standby.gateway.sources.standard_webhooks import why_no_secret

        return why_no_secret(secret)
    return None if secret.strip() else EMPTY


__all__ = ["SCHEMES", "Incoming", "Received", "receiver", "why_no_secret"]
