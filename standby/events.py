"""What Standby tells Prefect's event feed, so that automations can tell people."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid5

from prefect.client.orchestration import PrefectClient

from standby import clock

WAIT_OPENED = "standby.wait.opened"
"""Emitted at least once each time a wait opens; again, with another id, when it is opened again because an answer was
refused or its run is retried. The first id is the wait's. Payload: kind, reason, party, deadline (ISO), key, and
``refused``: why the last answer did not fit."""


async def announce(client: PrefectClient, waits: list[Any]) -> None:
    """Say that these waits (ledger rows) are open. Returns when the server has taken the events."""
    events = [
        {
            "id": str(_id(wait)),
            "occurred": (wait.opened_at if wait.opening == 1 else clock.utcnow()).isoformat(),
            "event": WAIT_OPENED,
            "resource": {"prefect.resource.id": f"standby.wait.{wait.id}", "prefect.resource.name": wait.reason},
            "related": [
                {"prefect.resource.id": f"prefect.flow-run.{wait.run_id}", "prefect.resource.role": "flow-run"}
            ],
            "payload": {
                "kind": wait.kind,
                "key": wait.key,
                "reason": wait.reason,
                "party": wait.party,
                "deadline": wait.deadline.isoformat() if wait.deadline else None,
                "refused": wait.refused,
            },
        }
        for wait in waits
    ]
    # Over HTTP, which is acknowledged; Prefect's own emit_event is not.
    response = await client.request("POST", "/events", json=events)
    response.raise_for_status()


def _id(wait: Any) -> UUID:
    first = UUID(wait.id)
    return first if wait.opening == 1 else uuid5(first, str(wait.opening))
