"""Where the ledger is, and the few numbers that bound how long things take.

The ledger's address is ``STANDBY_LEDGER_URL`` if that is set; else what the ``CheckpointStore`` block on the Prefect
server says; else SQLite in the data folder (``STANDBY_HOME``, by default ``.standby`` in the working folder).
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path

from standby.errors import UsageError
from standby.hold import Prices

LEASE = timedelta(seconds=15)
"""How long an attempt may be silent before another may take its run over."""

RENEW_EVERY = timedelta(seconds=5)
"""How often a working attempt renews its lease."""

KEEPER_TICK = timedelta(seconds=1)
"""How often the keeper looks for due deadlines, dead attempts and missed wakes."""

WAKE_GRACE = timedelta(seconds=3)
"""How long a settled wait may go without its run being taken up before the keeper wakes it again."""

HOST_GRACE = timedelta(seconds=20)
"""How long a host on this machine may take to take up a run before the keeper has Prefect give it to any worker."""

ELSEWHERE = timedelta(seconds=3)
"""How long a run may wait for a slot in the host that has it warm before one that has a slot takes it up."""

START_GRACE = timedelta(seconds=30)
"""How long a worker may take from taking a run to running it before the keeper gives the run back."""

BRANCH_GRACE = timedelta(seconds=10)
"""How long a replay waits for its racing branches to come by their recorded steps before it is a mismatch."""

OWN_GRACE = timedelta(seconds=1)
"""How long a replay holds back what is new in a branch until the agent's own task has come by all it did before."""

CUT_OFF_GRACE = timedelta(minutes=1)
"""How long a run stands at a step that was cut off before its log says so."""

STOPPED_WITHIN = timedelta(seconds=5)
"""How long what was cancelled in a process may take to end, before all others go on without waiting for it."""

RECONCILE_EVERY = timedelta(seconds=10)
"""How often the keeper compares all parked runs with Prefect's state of them."""

AGENT_TAG = "standby"
"""Deployments with this tag are agents: the keeper also watches over their runs before they first reach the ledger."""

SPILL_OVER = 256 * 1024
"""Values larger than this many bytes of JSON are kept outside the ledger."""


PRICES = {
    "STANDBY_PRICE_GIB_HOUR": 0.005,  # what clouds ask for memory, in dollars
    "STANDBY_PRICE_CPU_SECOND": 0.00001,  # what clouds ask for a core
    "STANDBY_PRICE_WAITING_SECOND": 0.001,  # 36 an hour, where one wake in ten is watched by somebody
}
"""What memory, processors and people's time cost, by the variable that says otherwise. Any one currency."""

LEAST_PRICE, HIGHEST_PRICE = 1e-12, 1e12
"""Beyond these the sums that the hold policy does with prices are not exact, and at last no numbers any more."""


WARM_GIB = 64 / 2**20
"""What a run that lingers in a host is taken to hold, in GiB, where nobody has measured it."""

PAUSED_GIB = 72 / 2**10
"""What a process that pauses is taken to hold for itself, in GiB."""

COLD_WAKE_SECONDS = 0.2
"""How much later than a warm run a suspended one is taken to go on, in seconds, where nobody has measured it."""

COLD_WAKE_CPU_SECONDS = 0.15
"""What that is taken to cost of a CPU."""

LEARN_FROM = 150
"""From how many of the latest waits of an agent and kind the hold policy learns."""


def prices() -> Prices:
    """What things cost. Raises ``UsageError`` for what is no price."""
    return Prices(*(_price(variable) for variable in PRICES))


def _price(variable: str) -> float:
    said = os.environ.get(variable) or PRICES[variable]
    try:
        price = float(said)
    except ValueError:
        price = -1.0
    if price != 0 and not LEAST_PRICE <= price <= HIGHEST_PRICE:
        bounds = f"0, or from {LEAST_PRICE:g} to {HIGHEST_PRICE:g}"
        raise UsageError(f"{variable} is {said!r}, and a price is a number: {bounds}. Correct it.")
    return price


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
    the ``standby up`` of this folder; None where neither is known.

    Raises ``UsageError`` for one that is no web address."""
    told = os.environ.get("STANDBY_GATEWAY_URL")
    if told and not told.lower().startswith(("http://", "https://")):
        raise UsageError(f"STANDBY_GATEWAY_URL is {told!r}, and links begin with http:// or https://. Write it before.")
    return (told or running().get("gateway_url") or "").rstrip("/") or None


def push_hosts() -> frozenset[str]:
    """Hosts that are not on the public network, and whose agents are told of their tasks all the same:
    ``STANDBY_PUSH_HOSTS``, names or addresses with commas between them; none unless it is set."""
    return frozenset(filter(None, (name.strip() for name in os.environ.get("STANDBY_PUSH_HOSTS", "").split(","))))


def default_ledger_url() -> str:
    return f"sqlite:///{home() / 'ledger.db'}"
