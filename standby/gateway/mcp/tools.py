"""The tools: what each takes, and what it does for a caller."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from standby import view
from standby.agent_tasks import asked
from standby.callers import Caller, delegates, why_not
from standby.errors import UnknownRun, UnknownWait
from standby.gateway.agents import Agents, named
from standby.gateway.answering import answered
from standby.gateway.names import Name
from standby.gateway.refusals import Refused
from standby.ledger.listing import Page
from standby.ledger.tasks import SUBMITTED, Found
from standby.states import Door, Role, WaitKind


class Nothing(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Start(Nothing):
    agent: Name = Field(description="The agent's name, flow/deployment, as list_agents gives it.")
    parameters: dict[str, JsonValue] = Field(
        default={}, description="The agent's parameters by name, as the JSON Schema that list_agents gives asks for."
    )
    request_id: Name | None = Field(
        default=None,
        description="A name of your own for this start. The same one again starts nothing and gives the first run: "
        "send it when you may have to try again.",
    )


class Some(Nothing):
    limit: int = Field(default=50, ge=1, le=100, description="How many to list, at most.")


class Waits(Some):
    kind: list[WaitKind] = Field(
        default=[], description="Of these kinds only, such as approval: what people are asked."
    )
    party: Name | None = Field(default=None, description="What this party is asked only.")
    after: Name | None = Field(default=None, description="`next` of the page before.")


class OfRun(Nothing):
    id: Name = Field(description="The id that start_run or list_runs gave, or the run's id in Prefect.")


class Answer(Nothing):
    wait_id: Name = Field(description="The wait's id: wait_id in inspect_run, id in list_waits.")
    answer: JsonValue = Field(description="A value that fits the wait's form, which is a JSON Schema.")
    opening: int | None = Field(
        None, ge=1, le=2**31 - 1,
        description="Which opening of the wait is answered, as list_waits shows it; by default the one that is open. "
        "Needed to give the same answer once more when the question was asked anew.",
    )  # fmt: skip


async def list_agents(agents: Agents, caller: Caller, _: Nothing) -> dict[str, Any]:
    """The agents that can be started, with the JSON Schema of their parameters."""
    return {
        "agents": [{"name": one.name, "description": one.said, "parameters": one.schema} for one in await agents.all()]
    }


async def start_run(agents: Agents, caller: Caller, given: Start) -> dict[str, Any]:
    """Start a run of an agent. It goes on by itself; inspect_run tells how far it is, and what it asks."""
    found = await agents.start(caller, Door.MCP, given.agent, given.parameters, request_id=given.request_id)
    return _short(found)


async def list_runs(agents: Agents, caller: Caller, given: Some) -> dict[str, Any]:
    """The runs that you may see, the newest first."""
    page = await agents.ledger.tasks.page(given.limit, sources=None if caller.sees_all else caller.sources)
    found = [await agents.ledger.tasks.find(one.id) for one in page]
    return {"runs": [_short(one) for one in found if one is not None]}


async def inspect_run(agents: Agents, caller: Caller, given: OfRun) -> dict[str, Any]:
    """One run whole: steps, waits with their forms, decisions, result."""
    found = await _found(agents, caller, given.id)
    given_to = await delegates(agents.ledger)
    whole = await view.run_view(agents.ledger, agents.place, found.run) if found.run is not None else {}
    return (
        _short(found)
        | whole
        | {
            "asks": [
                {"wait_id": wait.id, "reason": wait.reason, "form": json.loads(wait.answer_schema or "{}"),
                 "why_not_you": why_not(caller, wait, found.decisions, given_to)}
                for wait in asked(found)
            ]
        }
    )  # fmt: skip


async def cancel_run(agents: Agents, caller: Caller, given: OfRun) -> dict[str, Any]:
    """Cancel a run."""
    await agents.cancel(caller, Door.MCP, await _found(agents, caller, given.id))
    return _short(await _found(agents, caller, given.id))


async def list_waits(agents: Agents, caller: Caller, given: Waits) -> dict[str, Any]:
    """What is waited for now: what people are asked first, and of that the oldest first. `next`: there is more."""
    page = await _page(agents, caller, given.limit, kinds=given.kind, party=given.party, after=given.after)
    return {"waits": [view.wait_view(wait) for wait in page.waits], "next": page.after}


async def answer_wait(agents: Agents, caller: Caller, given: Answer) -> dict[str, Any]:
    """Answer a wait with what its form asks for. The run goes on with it; the audit says that it was you."""
    wait = await agents.ledger.waits.get(given.wait_id)
    if wait is None or await agents.find(caller, wait.run_id) is None:
        raise UnknownWait(given.wait_id)
    made = await answered(
        agents.ledger, agents.place, caller, wait, json.dumps(given.answer), door=Door.MCP, opening=given.opening
    )
    return made.model_dump()


class Tool(NamedTuple):
    """``says``: what a model that knows nothing of this project is told; ``python -OO`` leaves out docstrings."""

    takes: type[BaseModel]
    does: Callable[[Agents, Caller, Any], Awaitable[dict[str, Any]]]
    changes: bool
    says: str


TOOLS = {
    tool.does.__name__: tool
    for tool in (
        Tool(
            Nothing, list_agents, changes=False,
            says="The agents that you can start: for each its name, what it does, and the JSON Schema of the "
            "parameters that it takes.",
        ),
        Tool(
            Start, start_run, changes=True,
            says="Start a run of an agent. Returns at once, with the run's id; the run goes on by itself, for minutes "
            "or for days. inspect_run tells how far it is, what it asks, and its result.",
        ),
        Tool(Some, list_runs, changes=False, says="The runs that you may see, the newest first, with their states."),
        Tool(
            OfRun, inspect_run, changes=False,
            says="All about one run: its state, steps, waits, decisions and result. `asks` has what it asks now, each "
            "with the form of the answer as JSON Schema, and why it is not you who may answer.",
        ),
        Tool(
            OfRun, cancel_run, changes=True,
            says="Cancel a run that has not ended. What it has done already stays done.",
        ),
        Tool(
            Waits, list_waits, changes=False,
            says="What runs wait for now, what people are asked first, the oldest first: each with its id, the "
            "question, the evidence to decide on, and the form of the answer. Is there more, `next` is what `after` "
            "takes.",
        ),
        Tool(
            Answer, answer_wait, changes=True,
            says="Answer what a run waits for. It counts as a decision under the name of your key, it cannot be taken "
            "back, and the run goes on with it: read the evidence first.",
        ),
    )
}  # fmt: skip


async def waits(agents: Agents, caller: Caller, limit: int) -> list[dict[str, Any]]:
    """Open waits for who sees them all. Raises ``Refused``."""
    return [view.wait_view(wait) for wait in (await _page(agents, caller, limit)).waits]


async def _page(agents: Agents, caller: Caller, limit: int, **which: Any) -> Page:
    agents.require(caller, Role.VIEWER, Role.APPROVER)
    page = await agents.ledger.listing.page(limit, **which)
    if page is None:
        raise Refused(422, "The request does not fit.", [("after", "there is no such wait")])
    return page


async def wait(agents: Agents, caller: Caller, wait_id: str) -> dict[str, Any]:
    """One wait for who sees them all. Raises ``Refused`` and ``UnknownWait``."""
    agents.require(caller, Role.VIEWER, Role.APPROVER)
    found = await agents.ledger.waits.get(named("wait_id", wait_id))
    if found is None:
        raise UnknownWait(wait_id)
    return view.wait_view(found, await agents.ledger.waits.decisions_of(found.run_id))


async def _found(agents: Agents, caller: Caller, run_id: str) -> Found:
    found = await agents.find(caller, run_id)
    if found is None:
        raise UnknownRun(run_id)
    return found


def _short(found: Found) -> dict[str, Any]:
    """A run in a few fields; ``state`` is ``submitted`` until it has begun."""
    start, run = found.start, found.run
    ended = start.ended_as if start is not None else None
    return {
        "id": found.id,
        "run_id": found.run_id,
        "agent": start.deployment if start is not None else None,
        "flow": run.flow if run is not None else None,
        "state": run.state if run is not None else ended or SUBMITTED,
        "asks": [{"wait_id": wait.id, "reason": wait.reason} for wait in asked(found)],
        "result": json.loads(run.result) if run is not None and run.result is not None else None,
        "error": run.error if run is not None else start.note if start is not None else None,
    }
