"""Where the ledger is, and the few numbers that bound how long things take.

The ledger's address is ``STANDBY_LEDGER_URL`` if that is set; else what the ``CheckpointStore`` block on the Prefect
server says; else SQLite in the data folder (``STANDBY_HOME``, by default ``.standby`` in the working folder).
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path

LEASE = timedelta(seconds=20)
"""How long an attempt may be silent before another may take its run over."""

RENEW_EVERY = timedelta(seconds=5)
"""How often a working attempt renews its lease."""

KEEPER_TICK = timedelta(seconds=1)
"""How often the keeper looks for due deadlines, dead attempts and missed wakes."""

WAKE_GRACE = timedelta(seconds=3)
"""How long a settled wait may go without its run being taken up before the keeper wakes it again."""

START_GRACE = timedelta(seconds=30)
"""How long a worker may take from taking a run to running it before the keeper gives the run back."""

BRANCH_GRACE = timedelta(seconds=10)
"""How long a replay waits for its racing branches to come by their recorded steps before it is a mismatch."""

RECONCILE_EVERY = timedelta(seconds=10)
"""How often the keeper compares all parked runs with Prefect's state of them."""

AGENT_TAG = "standby"
"""Deployments with this tag are agents: the keeper also watches over their runs before they first reach the ledger."""

SPILL_OVER = 256 * 1024
"""Values larger than this many bytes of JSON are kept outside the ledger."""


def home() -> Path:
    """The data folder."""
    return Path(os.environ.get("STANDBY_HOME", ".standby")).absolute()


def running() -> dict[str, str]:
    """What ``standby up`` wrote about itself in the data folder; empty when it never ran there."""
    try:
        return dict(json.loads((home() / "up.json").read_text()))
    except (OSError, ValueError):
        return {}


def told_ledger_url() -> str | None:
    """The ledger's address in ``STANDBY_LEDGER_URL``; None when it is not set."""
    return os.environ.get("STANDBY_LEDGER_URL") or None


def gateway_url() -> str | None:
    """The address at which people reach the gateway, without a slash at its end: ``STANDBY_GATEWAY_URL``, else that of
    the ``standby up`` of this folder; None where neither is known."""
    return (os.environ.get("STANDBY_GATEWAY_URL") or running().get("gateway_url") or "").rstrip("/") or None


def push_hosts() -> frozenset[str]:
    """Hosts that are not on the public network, and whose agents are told of their tasks all the same:
    ``STANDBY_PUSH_HOSTS``, names or addresses with commas between them; none unless it is set."""
    return frozenset(filter(None, (name.strip() for name in os.environ.get("STANDBY_PUSH_HOSTS", "").split(","))))


def default_ledger_url() -> str:
    return f"sqlite:///{home() / 'ledger.db'}"
