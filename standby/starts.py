"""Runs that signals start: checked at the door, made in Prefect once; what a door leaves undone the keeper does.

What comes from outside becomes parameters of a run, and Prefect does more with parameters than store them: it renders
templates in them, which is prevented by handing them over as JSON text, and it loads blocks for what has a ``$ref``,
which is refused.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from math import isfinite
from typing import Annotated, Any

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, get_current_settings, temporary_settings
from prefect.utilities.schema_tools import validate
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, WithJsonSchema

from standby import clock, settings
from standby.believing import NotPrefects, careful
from standby.faults import reach
from standby.ledger import Ledger
from standby.ledger.starts import NewStart
from standby.projection import is_out_of_reach, states_of
from standby.states import RunState

log = logging.getLogger("standby.starts")

_ENDED = (StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED)
"""Not CRASHED: the keeper has such a run started again."""

_NOT_NAMED = r"/%&<>?#\x00-\x1f\x7f-\x9f"
_PART = rf"\.*[^.{_NOT_NAMED}][^{_NOT_NAMED}]*"
NAMED = rf"^{_PART}/{_PART}$"
"""What a deployment is called: ``flow-name/deployment-name``. Without what Prefect allows in no name, and without what
would lead elsewhere in an address, where Prefect's client puts names as they are."""

LONGEST_NAME = 512

_UNFIT = re.compile("[\0\ud800-\udfff]")
"""In text: what Prefect cannot store on every database, or not read."""

GIVE_UP_AFTER = timedelta(hours=1)
"""How long Prefect may answer that making a run went wrong there, while it is not just busy."""

_LATER = (401, 403, 404, 407, 408, 425, 429)
"""Refusals that are not of the start: the same may be taken from somebody else, or later."""


def _named(deployment: str) -> str:
    if re.fullmatch(NAMED, deployment) is None:
        raise ValueError("it is named flow/deployment, both as Prefect has them")
    return deployment


DeploymentName = Annotated[str, AfterValidator(_named), WithJsonSchema({"type": "string", "pattern": NAMED})]


class ToStart(BaseModel):
    """The agent to start with a signal when no living run has its topic and key."""

    model_config = ConfigDict(extra="forbid")

    deployment: DeploymentName = Field(description="flow-name/deployment-name; its tags have `standby`.")
    parameters: dict[str, JsonValue] = Field(default={}, description="Its parameters.")
    payload_as: str | None = Field(
        default=None,
        description="The parameter that is the signal's payload. Without it, it is kept for the run's own wait.",
    )

    def new(self, payload: str, problems: Sequence[tuple[str, str]] = ()) -> NewStart:
        """The start as the ledger keeps it. ``payload`` is JSON text. ``problems``: as ``problems_of`` has them."""
        named = dict(self.parameters)
        if self.payload_as is not None:
            named[self.payload_as] = json.loads(payload)
        takes_payload = self.payload_as is not None
        return NewStart(self.deployment, json.dumps(named), takes_payload, problems=tuple(problems))


async def problems_of(
    start: ToStart, key: str | None, payload: str, client: PrefectClient | None
) -> list[tuple[str, str]]:
    """Why it could not be started, as far as can be told now: ``(field, reason)`` pairs, none if it can."""
    return list(_on_their_own(start, key, payload)) or await _in_prefect(start, payload, client)


def _on_their_own(start: ToStart, key: str | None, payload: str) -> Iterator[tuple[str, str]]:
    if key is None:
        yield "key", "a signal that may start a run needs one: it is what makes it start one only"
    if start.payload_as in start.parameters:
        yield "start.payload_as", f"{start.payload_as} is among the parameters already"
    if len(start.deployment) > LONGEST_NAME:
        yield "start.deployment", f"it is longer than {LONGEST_NAME} characters"
    if _UNFIT.search(start.deployment):
        yield "start.deployment", _CHARACTERS
    if _UNFIT.search(start.payload_as or ""):
        yield "start.payload_as", _CHARACTERS
    yield from _not_for_prefect(start.parameters, "start.parameters")
    if start.payload_as is not None:
        yield from _not_for_prefect(json.loads(payload), "payload")
    most = get_current_settings().server.api.max_parameter_size
    size = len(json.dumps(_handed_over(start.new(payload).parameters), separators=(",", ":")))
    if 0 < most < size:
        field = "start.parameters" if start.payload_as is None else "payload"
        yield field, f"with it the parameters have {size:,} bytes, and Prefect takes {most:,} at most: send a reference"


_CHARACTERS = "it has a character, \\u0000 or half of a surrogate pair, that Prefect cannot store"


def _not_for_prefect(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield f"{place}.$ref", "Prefect would take this as a reference to a block and load it"
        for name, item in value.items():
            if _UNFIT.search(name):
                yield place, _CHARACTERS
            else:
                yield from _not_for_prefect(item, f"{place}.{name}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _not_for_prefect(item, f"{place}.{number}")
    elif isinstance(value, str) and _UNFIT.search(value):
        yield place, _CHARACTERS
    elif isinstance(value, float) and not isfinite(value):
        yield place, "the number is too large"


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
        fields = {start.payload_as: "start.payload_as"}  # what is wrong is the name, not the payload
        return [
            (fields.get(name, f"start.parameters.{name}"), f"the deployment has no parameter {name!r}")
            for name in unknown
        ]
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


def _handed_over(parameters: str) -> dict[str, Any]:
    """Each parameter as JSON text that Prefect reads, and in which it renders nothing."""
    given = json.loads(parameters).items()
    return {name: {"__prefect_kind": "json", "value": json.dumps(value)} for name, value in given}


async def make_run(ledger: Ledger, start: Any, client: PrefectClient) -> str:
    """Have Prefect make the run of a start (ledger row), unless it has; its id. Once, however often this is called."""
    deployment = await client.read_deployment_by_name(start.deployment)
    flow_run = await client.create_flow_run_from_deployment(
        deployment.id,
        parameters=_handed_over(start.parameters),
        idempotency_key=start.id,
    )
    reach("start.created")
    await ledger.starts.started(start.id, str(flow_run.id))
    return str(flow_run.id)


async def follow_starts(
    ledger: Ledger, client: PrefectClient, unstarted_since: datetime, failing: dict[str, datetime]
) -> None:
    """What a door that died left undone; and close the starts whose run has ended.

    ``failing``: since when Prefect fails at a start, by its id; kept by the caller from one time to the next.
    """
    unstarted = await ledger.starts.unstarted(unstarted_since)
    for gone in failing.keys() - {start.id for start in unstarted}:
        del failing[gone]
    for start in unstarted:
        try:
            run_id = await _made(ledger, start, client)
        except Exception as error:
            if await is_out_of_reach(client, error):
                raise
            await _not_made(ledger, start, error, failing)
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


async def _made(ledger: Ledger, start: Any, client: PrefectClient) -> str:
    try:
        return await make_run(ledger, start, client)
    except PrefectHTTPStatusError as error:
        if not _says_no(error):
            raise
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):  # the others would wait for it
            return await make_run(ledger, start, careful(client))  # one refusal may be a proxy's


async def _not_made(ledger: Ledger, start: Any, error: Exception, failing: dict[str, datetime]) -> None:
    """It was accepted, so it is tried until it can be done, and the doctor names it meanwhile; unless Prefect refuses
    it for what it is, or has failed at it for ``GIVE_UP_AFTER``."""
    said = f"{start.deployment}: {error or type(error).__name__}"[:500]
    why = said.encode(errors="backslashreplace").decode().replace("\0", "\\0")
    if _says_no(error) or (
        _fails(error) and clock.is_over(failing.setdefault(start.id, clock.utcnow()), GIVE_UP_AFTER)
    ):
        log.warning("The run of start %s will not be made, and its signals are dead letters: %s", start.id, why)
        await ledger.signals.not_started(start, why)
    else:
        await ledger.starts.failed(start.id, why)


def _says_no(error: Exception) -> bool:
    """Whether Prefect, or its client, refuses the start itself, and will again."""
    if isinstance(error, PrefectHTTPStatusError):
        return error.response.is_client_error and error.response.status_code not in _LATER
    return isinstance(error, httpx.InvalidURL | UnicodeError)


def _fails(error: Exception) -> bool:
    """Whether it went wrong for what nobody can put right by waiting: Prefect is not away or busy, and has answered."""
    if isinstance(error, PrefectHTTPStatusError):
        return error.response.status_code == 500
    return isinstance(error, NotPrefects) or not isinstance(error, ObjectNotFound | httpx.HTTPError | OSError)
