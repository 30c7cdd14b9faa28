"""What another agent may do here, whichever protocol it speaks: see the agents there are, start, watch and cancel runs.

A sender starts runs and sees, watches and cancels those they have started; viewers and approvers see all runs,
approvers answer, admins do all of it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from time import monotonic
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags, FlowFilter, FlowFilterId
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import DeploymentSort
from prefect.exceptions import PrefectHTTPStatusError
from pydantic import TypeAdapter, ValidationError

from standby import settings, topics
from standby.agent_tasks import may_see
from standby.callers import Caller
from standby.connect import Place
from standby.errors import StartRefused
from standby.gateway.keys import lacks
from standby.gateway.names import Name
from standby.gateway.reception import Reception
from standby.gateway.refusals import Refused
from standby.ledger import Ledger
from standby.ledger.starts import NewStart
from standby.ledger.tasks import Found
from standby.parking import cancel
from standby.projection import BATCH
from standby.starts import ToStart
from standby.states import ENDED, Door, Role, RunState
from standby.values import problems_of

_name: TypeAdapter[str] = TypeAdapter(Name)

KEPT_SECONDS = 15.0
"""How long the list of agents is used before Prefect is asked again."""

UNKNOWN_SECONDS = 1.0
"""How long an agent that is not on the list is unknown before Prefect is asked again."""

LOOK_SECONDS = 5.0
"""How long Prefect may take to say what agents there are."""

NOT_DESCRIBED = "None"
"""What ``prefect deploy`` writes as the description of a flow that has no docstring (Prefect 3.8)."""


class Agent(NamedTuple):
    """A deployment that is an agent. ``name``: flow/deployment. ``schema``: JSON Schema of its parameters."""

    name: str
    description: str
    tags: list[str]
    schema: dict[str, Any]

    @property
    def said(self) -> str:
        """What it is, also where nobody has described it."""
        return self.description or f"The agent {self.name}."


class Call(ToStart):
    """A start whose signal is nothing but the parameters: it is delivered when the run is to be started."""

    context_id: str | None = None

    def new(self, payload: str, problems: Sequence[tuple[str, str]] = ()) -> NewStart:
        return replace(super().new(payload, problems), takes_payload=True, context_id=self.context_id)


def named(field: str, value: str) -> str:
    """The value, if it can name something. Raises ``Refused``."""
    try:
        return _name.validate_python(value)
    except ValidationError as error:
        raise Refused(422, "The request does not fit.", [(field, problems_of(error)[0][1])]) from None


class Agents:
    """``client`` is an open client of the Prefect server, or None where none is known."""

    def __init__(self, ledger: Ledger, place: Place, reception: Reception, client: PrefectClient | None) -> None:
        self.ledger, self.place = ledger, place
        self._reception, self._client = reception, client
        self._known: tuple[float, list[Agent]] | None = None
        self._looking = asyncio.Lock()

    def require(self, caller: Caller, *roles: Role) -> None:
        """Raise ``Refused`` unless the caller has one of these roles, or is an admin."""
        if (why := lacks(caller, {*roles, Role.ADMIN})) is not None:
            raise Refused(403, why)

    async def get(self, name: str) -> Agent | None:
        """The agent of this name. Raises ``Refused`` as ``all`` does."""
        for kept in (KEPT_SECONDS, UNKNOWN_SECONDS):
            for agent in await self.all(kept):
                if agent.name == name:
                    return agent
        return None

    async def all(self, kept: float = KEPT_SECONDS) -> list[Agent]:
        """The agents there are, or were ``kept`` seconds ago, by name. Raises ``Refused`` if Prefect is away."""
        client = self._prefect()
        async with self._looking:
            if self._known is None or monotonic() - self._known[0] > kept:
                try:
                    async with asyncio.timeout(LOOK_SECONDS):
                        self._known = (monotonic(), await _agents(client))
                except (TimeoutError, httpx.HTTPError, PrefectHTTPStatusError):
                    raise Refused(503, "The Prefect server cannot be asked what agents there are. Try again.") from None
            return self._known[1]

    async def start(
        self,
        caller: Caller,
        door: Door,
        agent: str,
        parameters: dict[str, Any],
        *,
        request_id: str | None = None,
        context_id: str | None = None,
    ) -> Found:
        """Start a run of ``agent``, once for each ``request_id`` of the caller; the task.

        While Prefect cannot be asked it is taken unchecked, and the keeper has it started. Raises ``Refused`` and
        ``StartRefused``, which name what does not fit.
        """
        self.require(caller, Role.SENDER)
        request_id = request_id or uuid4().hex
        for field, value in (("agent", agent), ("request_id", request_id), ("context_id", context_id)):
            if value is not None:
                named(field, value)
        try:
            call = Call(deployment=agent, parameters=parameters, context_id=context_id)
        except ValidationError as error:
            raise Refused(422, "The request does not fit.", problems_of(error)) from None
        try:
            made = await self._reception.take(
                topic=topics.START, key=f"{caller.source(door)}/{request_id}", payload=json.dumps(parameters),
                source=caller.source(door), delivery_id=request_id, start=call,
            )  # fmt: skip
        except StartRefused as refused:
            problems = [(field.removeprefix("start."), reason) for field, reason in refused.problems]
            raise Refused(422, f"{agent} cannot be started so.", problems) from None
        assert made.start is not None  # of a duplicate, too
        found = await self.ledger.tasks.find(made.start.id)
        assert found is not None
        return found

    async def find(self, caller: Caller, task_id: str) -> Found | None:
        """A task that the caller may see, by its id or its run's."""
        try:
            found = await self.ledger.tasks.find(named("id", task_id))
        except Refused:
            return None  # nothing is called so
        return found if found is not None and may_see(caller, found) else None

    async def require_topic(self, caller: Caller, topic: str, key: str | None) -> None:
        """Raise ``Refused`` for a signal that means something to Standby itself, unless the caller may send it: the one
        that stops an agent, as ``cancel``."""
        if topic == topics.START:
            raise Refused(403, f"The topic {topic!r} is Standby's own. A signal's `start` starts an agent.")
        if topic == topics.STOP and caller.role is not Role.ADMIN:
            found = await self.ledger.tasks.find(key) if key is not None else None
            if found is None or found.source not in caller.sources:
                raise Refused(403, f"{caller.name} has started no run that is called {key!r}, and cannot stop it.")

    async def cancel(self, caller: Caller, door: Door, found: Found) -> None:
        """Cancel a run: theirs to a sender, any to an admin. Raises ``Refused``, with 409 where it cannot be."""
        self.require(caller, Role.SENDER)
        if caller.role is not Role.ADMIN and found.source not in caller.sources:
            raise Refused(403, f"{caller.name} has not started this run.")
        if found.run is not None and RunState(found.run.state) in ENDED:
            raise Refused(409, f"The run has ended: {found.run.state}.")
        if found.run is not None and found.run.deployment_id is None:
            raise Refused(409, "The run was started by hand, where it is stopped, too.")
        run_id = found.run_id
        if run_id is None:
            raise Refused(409, "Prefect has not made the run yet. Try again in a moment.")
        said = f"cancelled by {caller.name} through {door}"
        try:
            state = await cancel(self._prefect(), run_id, said)
        except (httpx.HTTPError, PrefectHTTPStatusError):
            raise Refused(503, "The Prefect server cannot be reached; nothing was cancelled. Try again.") from None
        if state is None or not (state.is_cancelled() or state.is_cancelling()):
            raise Refused(
                409, f"Prefect does not cancel it: it is {state.name if state is not None else 'gone'} there."
            )
        if found.run is not None:
            await self.ledger.runs.end_from_outside(
                run_id, RunState.CANCELLED, said, at=state.timestamp, after=str(state.id)
            )
            await self.ledger.runs.cancelled_by(run_id, str(state.id), caller.name, door, said)
        elif found.start is not None and state.type is StateType.CANCELLED:
            await self.ledger.starts.close(found.start.id, RunState.CANCELLED)

    def _prefect(self) -> PrefectClient:
        if self._client is None:
            raise Refused(503, "No Prefect server is known to this gateway. Set PREFECT_API_URL.")
        return self._client


async def _agents(client: PrefectClient) -> list[Agent]:
    found: list[Any] = []
    while True:
        some = await client.read_deployments(
            deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=[settings.AGENT_TAG])),
            limit=BATCH, offset=len(found), sort=DeploymentSort.NAME_ASC,
        )  # fmt: skip
        found += some
        if len(some) < BATCH:
            break
    flows: dict[Any, str] = {}
    ids = list({deployment.flow_id for deployment in found})
    for start in range(0, len(ids), BATCH):
        named = await client.read_flows(flow_filter=FlowFilter(id=FlowFilterId(any_=ids[start : start + BATCH])))
        flows |= {flow.id: flow.name for flow in named}
    return sorted(
        Agent(
            f"{flows[one.flow_id]}/{one.name}",
            one.description if one.description and one.description != NOT_DESCRIBED else "",
            sorted(one.tags),
            one.parameter_openapi_schema or {},
        )
        for one in found
        if one.flow_id in flows
    )
