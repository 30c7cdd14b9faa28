"""Runs that signals start: checked at the door, made in Prefect once; what a door leaves undone the keeper does.

What comes from outside becomes parameters of a run, and Prefect does more with parameters than store them: it renders
templates in them, which is prevented by handing them over as JSON text, and it loads blocks for what has a ``$ref``,
which is refused.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.utilities.schema_tools import validate
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from standby import settings
from standby.errors import StartRefused
from standby.faults import reach
from standby.ledger import Ledger
from standby.ledger.starts import NewStart
from standby.projection import states_of
from standby.states import RunState

log = logging.getLogger("standby.starts")

_ENDED = (StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED)
"""Not CRASHED: the keeper has such a run started again."""

NAMED = r"^[^/]+/[^/]+$"
"""What a deployment is called: ``flow-name/deployment-name``."""


class ToStart(BaseModel):
    """The agent to start with a signal when no living run has its topic and key."""

    model_config = ConfigDict(extra="forbid")

    deployment: str = Field(pattern=NAMED, description="flow-name/deployment-name; its tags have `standby`.")
    parameters: dict[str, JsonValue] = Field(default={}, description="Its parameters.")
    payload_as: str | None = Field(
        default=None,
        description="The parameter that is the signal's payload. Without it, it is kept for the run's own wait.",
    )

    def new(self, payload: str) -> NewStart:
        """The start as the ledger keeps it. ``payload`` is JSON text."""
        named = dict(self.parameters)
        if self.payload_as is not None:
            named[self.payload_as] = json.loads(payload)
        return NewStart(self.deployment, json.dumps(named), self.payload_as is not None)


async def check(start: ToStart, key: str | None, payload: str, client: PrefectClient | None) -> None:
    """Raise ``StartRefused``, which names the field, for what could not be started, as far as can be told now."""
    if problems := [*_on_their_own(start, key, payload), *await _in_prefect(start, payload, client)]:
        raise StartRefused(start.deployment, problems)


def _on_their_own(start: ToStart, key: str | None, payload: str) -> Iterator[tuple[str, str]]:
    if key is None:
        yield "key", "a signal that may start a run needs one: it is what makes it start one only"
    if start.payload_as in start.parameters:
        yield "start.payload_as", f"{start.payload_as} is among the parameters already"
    for field, value in (
        ("start.parameters", start.parameters),
        *((("payload", json.loads(payload)),) if start.payload_as is not None else ()),
    ):
        for place in _references(value, field):
            yield place, "Prefect would take this as a reference to a block and load it"


def _references(value: Any, place: str) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield f"{place}.$ref"
        for name, item in value.items():
            yield from _references(item, f"{place}.{name}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _references(item, f"{place}.{number}")


async def _in_prefect(start: ToStart, payload: str, client: PrefectClient | None) -> list[tuple[str, str]]:
    if client is None:
        return []
    try:
        deployment = await client.read_deployment_by_name(start.deployment)
    except ObjectNotFound:
        return [("start.deployment", f"there is no deployment {start.deployment}")]
    except (httpx.HTTPError, PrefectHTTPStatusError) as error:
        log.warning("Whether there is a deployment %s cannot be seen now: %s", start.deployment, error)
        return []
    if settings.AGENT_TAG not in deployment.tags:
        return [
            ("start.deployment", f"{start.deployment} has no tag {settings.AGENT_TAG!r}: signals start agents only")
        ]
    given = json.loads(start.new(payload).parameters)
    schema: Any = deployment.parameter_openapi_schema or {}
    if not schema.get("properties"):
        return []  # it may have been made without a schema
    unknown = [name for name in given if name not in schema["properties"]]
    if unknown:
        return [(_field(start, name), "the deployment has no such parameter") for name in unknown]
    problems = []
    for wrong in validate(deployment.parameters | given, schema):
        path = list(map(str, wrong.absolute_path))
        if not path:
            problems.append(("start.parameters", wrong.message))
        elif path[0] in given:  # the deployment's own may be templates, which only Prefect can read
            problems.append((".".join([_field(start, path[0]), *path[1:]]), wrong.message))
    return problems


def _field(start: ToStart, parameter: str) -> str:
    return "payload" if parameter == start.payload_as else f"start.parameters.{parameter}"


async def make_run(ledger: Ledger, start: Any, client: PrefectClient) -> str:
    """Have Prefect make the run of a start (ledger row), unless it has; its id. Once, however often this is called."""
    deployment = await client.read_deployment_by_name(start.deployment)
    flow_run = await client.create_flow_run_from_deployment(
        deployment.id,
        # JSON text that Prefect reads, and in which it renders nothing.
        parameters={
            name: {"__prefect_kind": "json", "value": json.dumps(value)}
            for name, value in json.loads(start.parameters).items()
        },
        idempotency_key=start.id,
    )
    reach("start.created")
    await ledger.starts.started(start.id, str(flow_run.id))
    return str(flow_run.id)


async def follow_starts(ledger: Ledger, client: PrefectClient, unstarted_since: datetime) -> None:
    """What a door that died left undone; and close the starts whose run has ended."""
    for start in await ledger.starts.unstarted(unstarted_since):
        try:
            run_id = await make_run(ledger, start, client)
        except (ObjectNotFound, PrefectHTTPStatusError) as error:
            # It was accepted, so it is tried until it can be done; the doctor names it meanwhile.
            await ledger.starts.failed(start.id, f"{start.deployment}: {error}")
        else:
            log.info("Run %s is started for signal %s: who took the signal did not.", run_id, start.signal_id)
    await ledger.starts.close_ended()
    not_arrived = await ledger.starts.not_arrived()
    states = await states_of(client, {start.run_id for start in not_arrived})
    for start in not_arrived:
        state = states.get(start.run_id)
        if state is None or state.type in _ENDED:
            cancelled = state is not None and state.type is StateType.CANCELLED
            await ledger.starts.close(start.id, RunState.CANCELLED if cancelled else RunState.FAILED)
