"""Tools that a model's provider runs itself: they never come by the gate, so they must be allowed unconditionally."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic_ai.messages import ModelResponse, NativeToolCallPart
from pydantic_ai.models import Model, ModelRequestContext

from standby.agents.permissions import ruling
from standby.agents.scope import AgentScope, Permission
from standby.errors import UsageError

_TOOLS_IN_SETTINGS = ("_native_tools", "_builtin_tools")
"""How settings end that carry tools in a provider's own words."""

_BODIES = ("extra_body", "bedrock_additional_model_requests_fields")
"""Settings that become a part of the request as they are."""

_TOOLS_IN_BODY = (
    "tools", "functions", "plugins", "mcp_servers", "web_search_options", "search_parameters", "toolconfig",
    "tool_config",
)  # fmt: skip
"""Where providers look for tools in a request."""


def check_request(request: ModelRequestContext, scope: AgentScope) -> None:
    """Raise ``UsageError`` if what is sent has a tool that the provider runs and the scope does not allow."""
    given = [tool.kind for tool in request.model_request_parameters.native_tools]
    for settings in (request.model_settings, *_own_settings(request.model)):
        given += _in_settings(settings or {})
    for name in given:
        if not _is_allowed(scope, name):
            raise UsageError(
                f"The agent has the tool {name!r}, which the model's provider runs where no one can ask, and "
                "the scope does not allow it. Add a rule that allows it without conditions, or remove the tool."
            )


def check_answer(response: ModelResponse, scope: AgentScope) -> None:
    """Raise ``UsageError`` if the provider has run a tool that the scope does not allow, wherever it had it from."""
    for part in response.parts:
        # Tools of an MCP server come as mcp_server:NAME.
        if isinstance(part, NativeToolCallPart) and not _is_allowed(scope, part.tool_name.partition(":")[0]):
            raise UsageError(
                f"The model's provider has run the tool {part.tool_name!r}, which the scope does not allow. Add a rule "
                "that allows it without conditions, or have the provider do without it."
            )


def _is_allowed(scope: AgentScope, name: str) -> bool:
    return ruling(scope, name, {}).permission is Permission.ALLOW


def _own_settings(model: Model) -> Iterator[Any]:
    """Of the model, and of those that it hands on to."""
    yield model.settings
    for inner in (*getattr(model, "models", ()), getattr(model, "wrapped", None)):
        if isinstance(inner, Model):
            yield from _own_settings(inner)


def _in_settings(settings: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for name, value in settings.items():
        if name.endswith(_TOOLS_IN_SETTINGS):
            found += _kinds(name, value)
        elif name in _BODIES:
            # What cannot be looked into may hold anything.
            body = value if isinstance(value, Mapping) else {"tools": value}
            found += [kind for at, one in body.items() if at.lower() in _TOOLS_IN_BODY for kind in _kinds(at, one)]
    return found


def _kinds(name: str, value: Any) -> list[str]:
    """What the tools are called by the provider; the name of where they stand for those of which that is not known."""
    if not value:
        return []
    tools = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return [str(tool.get("type", name)) if isinstance(tool, Mapping) else name for tool in tools]
