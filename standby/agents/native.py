"""Tools that a model's provider runs itself: they never come by the gate, so they must be allowed unconditionally."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic_ai.messages import ModelResponse, NativeToolCallPart, NativeToolReturnPart
from pydantic_ai.models import Model, ModelRequestContext

from standby.agents.permissions import ruling
from standby.agents.scope import AgentScope, Permission
from standby.errors import UsageError

_TOOLS_IN_SETTINGS = ("_native_tools", "_builtin_tools")
"""How settings end that carry tools in a provider's own words."""

_BODIES = ("extra_body", "bedrock_additional_model_requests_fields")
"""How settings end that become a part of the request as they are."""

_BY_REFERENCE = ("openrouter_preset", "openrouter_models", "google_cached_content")
"""Settings that name what the provider keeps, which may have tools."""

_HARMLESS = (
    "add_generation_prompt", "anthropic_beta", "best_of", "cache_control", "cache_prompt", "cache_salt",
    "chat_template_kwargs", "context_management", "enable_thinking", "format", "frequency_penalty", "grammar",
    "guided_choice", "guided_decoding_backend", "guided_grammar", "guided_json", "guided_regex", "ignore_eos",
    "include_reasoning", "json_schema", "keep_alive", "length_penalty", "logit_bias", "logprobs",
    "max_completion_tokens", "max_output_tokens", "max_tokens", "metadata", "min_p", "min_tokens",
    "mm_processor_kwargs", "modalities", "n", "num_ctx", "num_predict", "output_config", "parallel_tool_calls",
    "performance_config", "prediction", "presence_penalty", "priority", "prompt_cache_key", "prompt_cache_retention",
    "prompt_mode", "provider", "reasoning", "reasoning_config", "reasoning_effort", "reasoning_format", "regex",
    "repeat_penalty", "repetition_penalty", "response_format", "route", "safe_prompt", "safety_identifier",
    "safety_settings", "seed", "separate_reasoning", "service_tier", "session_id", "skip_special_tokens", "stop",
    "stop_sequences", "stop_token_ids", "store", "stream_options", "structured_outputs", "temperature", "think",
    "thinking", "thinking_budget", "thinking_config", "timeout", "tool_choice", "top_a", "top_k", "top_logprobs",
    "top_p", "transforms", "truncate_prompt_tokens", "truncation", "typical_p", "usage", "use_beam_search", "user",
    "verbosity",
)  # fmt: skip
"""What a request's body may have that gives nobody tools."""

_HOLD_MORE = ("extra_body", "generation_config", "google", "inference_config", "options", "parameters")
"""Where some providers have the same."""


def _plain(name: str) -> str:
    """Some take ``topK`` for ``top_k``."""
    return name.replace("_", "").lower()


_PASSES, _IS_LOOKED_INTO = frozenset(map(_plain, _HARMLESS)), frozenset(map(_plain, _HOLD_MORE))


def check_request(request: ModelRequestContext, scope: AgentScope) -> None:
    """Raise ``UsageError`` if what is sent has a tool that the provider runs and the scope does not allow."""
    tools = [tool.kind for tool in request.model_request_parameters.native_tools]
    others: list[str] = []
    for settings in (request.model_settings, *_own_settings(request.model)):
        for name, value in (settings or {}).items():
            if name.endswith(_TOOLS_IN_SETTINGS):
                tools += _kinds(name, value)
            elif name.endswith(_BODIES):
                # What cannot be looked into may hold anything.
                _look_into(value if isinstance(value, Mapping) else {"tools": value}, tools, others)
            elif name in _BY_REFERENCE and value:
                others.append(name)
    for tool in tools:
        if not _is_allowed(scope, tool):
            raise UsageError(
                f"The agent has the tool {tool!r}, which the model's provider runs where no one can ask, and "
                "the scope does not allow it. Add a rule that allows it without conditions, or remove the tool."
            )
    for name in others:
        if not _is_allowed(scope, name):
            raise UsageError(
                f"By {name!r} in its settings the model's provider may be told to run tools where no one can ask, and "
                f"the scope does not allow it. Add a rule that allows {name!r} like a tool, without conditions, or "
                "leave it out."
            )


def check_answer(response: ModelResponse, scope: AgentScope) -> None:
    """Raise ``UsageError`` if the provider has run a tool that the scope does not allow, wherever it had it from."""
    for part in response.parts:
        if not isinstance(part, NativeToolCallPart | NativeToolReturnPart):
            continue
        # Tools of an MCP server come as mcp_server:NAME.
        if not _is_allowed(scope, part.tool_name.partition(":")[0]):
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


def _look_into(body: Mapping[Any, Any], tools: list[str], others: list[str]) -> None:
    """Add what a request's body has: tools, and all else that is not known to be harmless, by the names of its keys.

    Providers have many words for tools, and new ones: what is not known here may be one.
    """
    for name, value in body.items():
        plain = _plain(str(name))
        if not value or plain in _PASSES:
            continue
        if plain in _IS_LOOKED_INTO and isinstance(value, Mapping):
            _look_into(value, tools, others)
        elif plain == "tools":
            tools += _kinds(str(name), value)
        else:
            others.append(str(name))


def _kinds(name: str, value: Any) -> list[str]:
    """What the tools are called by the provider; the name of where they stand for those of which that is not known."""
    if not value:
        return []
    tools = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return [str(tool.get("type", name)) if isinstance(tool, Mapping) else name for tool in tools]
