"""The settings of a host, looked at before one starts: a mistyped one is refused then, not when it is first needed."""

from __future__ import annotations

from standby import settings
from standby.host.health import told_port
from standby.host.stopping import grace
from standby.host.warmth import memory_limit


def check_settings() -> None:
    """Raises ``UsageError`` naming the variable whose value is none of its kind."""
    grace()
    memory_limit()
    settings.gateway_url()
    settings.prices()
    told_port()
