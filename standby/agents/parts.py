"""What an agent is made of, as digests: how a change while it waited is noticed."""

from __future__ import annotations

from typing import Any

from pydantic_ai.models import ModelRequestContext
from pydantic_core import to_jsonable_python

from standby.agents.canonical import digest
from standby.agents.scope import AgentScope


def of_scope(scope: AgentScope) -> str:
    """A digest of the scope; of what another agent handed on without its budget, which is what was left then, and is
    another where limits have changed since. Which document says it is none of it."""
    return digest(_of_its_own(scope.model_dump(mode="json")))


def _of_its_own(said: dict[str, Any]) -> dict[str, Any]:
    left_out = {"block"} if said["purse"] is None else {"block", "budget"}
    rest = {name: value for name, value in said.items() if name not in left_out}
    return rest | {"within": [_of_its_own(wider) for wider in said["within"]]}


def parts_of(request: ModelRequestContext, scope: AgentScope) -> dict[str, str]:
    """Digests by name: ``model``, ``instructions`` (the ones that are fixed), ``scope``, ``tool NAME``."""
    parameters = request.model_request_parameters
    instructions = [part.content for part in parameters.instruction_parts or () if not part.dynamic]
    tools = {
        f"tool {tool.name}": digest([tool.description, to_jsonable_python(tool.parameters_json_schema)])
        for tool in parameters.function_tools
    }
    return {
        "model": digest(request.model.model_id),
        "instructions": digest(instructions),
        "scope": of_scope(scope),
        **tools,
    }
