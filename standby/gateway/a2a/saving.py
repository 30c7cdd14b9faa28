"""Where a client wants to be told of a task."""

from __future__ import annotations

from a2a.types import TaskPushNotificationConfig

from standby import pushes
from standby.callers import Caller
from standby.gateway.agents import named
from standby.gateway.refusals import Refused
from standby.ledger import Ledger
from standby.ledger.tasks import Found


async def check(push: TaskPushNotificationConfig) -> None:
    """Raise ``Refused`` for where nobody is told anything."""
    who = push.authentication
    problems = await pushes.check(push.url, token=push.token, scheme=who.scheme, credentials=who.credentials)
    if problems:
        raise Refused(422, "Nobody is told there.", problems)


async def save(
    ledger: Ledger, found: Found, push: TaskPushNotificationConfig, caller: Caller
) -> TaskPushNotificationConfig:
    """Have the caller told there; what was saved. Raises ``Refused``."""
    config_id = named("id", push.id or found.id)
    why_not = await ledger.pushes.save(
        found.id, config_id, caller.key_id, url=push.url, token=push.token or None,
        scheme=push.authentication.scheme or None, credentials=push.authentication.credentials or None,
    )  # fmt: skip
    if why_not is not None:
        raise Refused(422, "Nobody is told there.", [("id", why_not)])
    made = TaskPushNotificationConfig()
    made.CopyFrom(push)
    made.id, made.task_id = config_id, found.id
    return made
