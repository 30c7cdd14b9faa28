"""The gate that every model request and every tool call goes through, outside the model.

Two capabilities of pydantic-ai. The outer one writes model requests down. The inner one stands directly before the
tools: it judges each call by the scope, has it approved where the scope or the tool asks for that, and writes down what
it came to. What reaches a tool is what was judged: hooks of the agent's own run further out.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.capabilities.abstract import CapabilityOrdering, WrapModelRequestHandler
from pydantic_ai.exceptions import ApprovalRequired
from pydantic_ai.messages import ModelResponse
from pydantic_ai.models import ModelRequestContext
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults, RunContext, ToolDenied
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset
from pydantic_core import PydanticSerializationError, to_jsonable_python

from standby.agents.canonical import digest
from standby.agents.outcomes import outcome_of, told
from standby.agents.permissions import Ruling, may_be_called, ruling
from standby.agents.records import MODEL, TOOL, Outcome, Result, Turn
from standby.agents.responses import tidy
from standby.agents.scope import Permission
from standby.agents.tools import runs_in_own_task
from standby.errors import UsageError
from standby.parts import part
from standby.steps import in_step

if TYPE_CHECKING:
    from standby.agents.thinking import Thinking

log = logging.getLogger("standby.agents")


@dataclass
class Recorder(AbstractCapability[Any]):
    """Writes each model request down as a step: the outermost of all capabilities."""

    thinking: Thinking

    def get_ordering(self) -> CapabilityOrdering:
        return CapabilityOrdering(position="outermost")

    async def wrap_model_request(
        self, ctx: RunContext[Any], *, request_context: ModelRequestContext, handler: WrapModelRequestHandler
    ) -> ModelResponse:
        thread = self.thinking.thread
        if thread.turn < thread.recorded:
            thread.turn += 1
            response = thread.response()
        else:
            parts, changed = self.thinking.look_for_changes(request_context)

            async def ask() -> Turn:
                started, before = monotonic(), ctx.usage.total_tokens
                # Hooks of the agent may rewrite the history meanwhile.
                answer = tidy(await handler(request_context), thread.turn + 1)
                new, whole = self.thinking.new_of(ctx.messages)
                return Turn(
                    messages=[*new, answer],
                    whole=whole,
                    parts=parts,
                    changed=changed,
                    tokens=max(ctx.usage.total_tokens - before, answer.usage.total_tokens),
                    money=answer.usage.cost,
                    seconds=round(monotonic() - started, 6),
                )

            turn = await MODEL[thread.visible].at(thread.place(f"{thread.turn + 1}.model"))(ask)
            thread.turn += 1
            thread.spent += turn.spent
            thread.messages = [*ctx.messages, turn.messages[-1]]
            response = thread.response()
        self.thinking.known = [*ctx.messages, response]
        return response


@dataclass
class Gate(AbstractCapability[Any]):
    """Stands directly before the tools."""

    thinking: Thinking

    def get_ordering(self) -> CapabilityOrdering:
        return CapabilityOrdering(position="innermost")

    def get_wrapper_toolset(self, toolset: AbstractToolset[Any]) -> AbstractToolset[Any]:
        return GatedToolset(toolset, self.thinking)

    async def prepare_model_request(
        self, ctx: RunContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        """Tools that the provider itself runs never come by here, so they must be allowed whatever their arguments."""
        for tool in request_context.model_request_parameters.native_tools:
            if ruling(self.thinking.scope, tool.kind, {}).permission is not Permission.ALLOW:
                raise UsageError(
                    f"The agent has the tool {tool.kind!r}, which the model's provider runs where no one can ask, and "
                    "the scope does not allow it. Add a rule that allows it without conditions, or remove the tool."
                )
        return request_context

    async def handle_deferred_tool_calls(
        self, ctx: RunContext[Any], *, requests: DeferredToolRequests
    ) -> DeferredToolResults:
        return await self.thinking.serving.here(lambda: self.thinking.resolve(ctx, requests))


@dataclass
class GatedToolset(WrapperToolset[Any]):
    """All function tools of an agent, each call judged, and written down."""

    thinking: Thinking

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        tools = await super().get_tools(ctx)
        scope = self.thinking.scope
        self.thinking.schemas = {name: schema_digest(tool) for name, tool in tools.items()}
        return {name: tool for name, tool in tools.items() if may_be_called(scope, name)}

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        thinking = self.thinking
        ordinal = thinking.ordinal_of(ctx.tool_call_id)
        if in_step() or ordinal is None:
            # One tool calls another: part of a call that was judged, but judged for itself, and nobody can be asked.
            judged = judge(thinking, name, tool_args)
            if judged.permission is not Permission.ALLOW:
                return ToolDenied(judged.why)
            return await super().call_tool(name, tool_args, ctx, tool)
        thread = thinking.thread
        key = thread.call_key(ordinal, name, approved=ctx.tool_call_approved)
        known = await thread.outcome(key)
        if known is not None:
            return self._told(known, ordinal)
        judged = judge(thinking, name, tool_args)
        if judged.permission is Permission.DENY:
            return told(await self._done(key, _denied(judged.why)))
        if not ctx.tool_call_approved and (judged.permission is Permission.ASK or thinking.was_asking()):
            raise ApprovalRequired({"why": judged.why})
        if ctx.tool_call_approved:
            refused = await thread.run.ledger.grants.use(
                thread.run.id,
                thread.run.attempt,
                thread.prefix + key,
                tool=name,
                arguments=digest(plain_arguments(tool_args)),
                tool_schema=schema_digest(tool),
            )
            if refused is not None:
                log.warning("Run %s: %s was not called: %s", thread.run.id, name, refused)
                return told(await self._done(key, _denied(f"Not called: {refused}.")))

        async def act() -> Any:
            return await WrapperToolset.call_tool(self, name, tool_args, ctx, tool)

        if runs_in_own_task(tool):
            return self._told(await thinking.serving.here(lambda: self._in_own_task(key, act)), ordinal)
        return self._told(await self._done(key, lambda: outcome_of(act)), ordinal)

    def _told(self, outcome: Outcome, ordinal: int) -> Any:
        if outcome.result is Result.DEFERRED:
            self.thinking.deferred.add(ordinal)
        return told(outcome)

    async def _done(self, key: str, work: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """The call as one step."""
        thread = self.thinking.thread
        outcome = await TOOL[thread.visible].at(thread.place(key))(work)
        thread.count(outcome)
        return outcome

    async def _in_own_task(self, key: str, act: Callable[[], Awaitable[Any]]) -> Outcome:
        """The call as a part of the agent's code, with steps and waits of its own."""
        thread = self.thinking.thread
        paused = thread.run.paused_seconds
        with part(thread.prefix + key):
            outcome = await outcome_of(act)
        # To wait is not to be at work.
        at_work = max(0.0, outcome.seconds - (thread.run.paused_seconds - paused))
        outcome = outcome.model_copy(update={"seconds": at_work})

        async def as_it_was() -> Outcome:
            return outcome

        return await self._done(key, as_it_was)


def judge(thinking: Thinking, tool: str, arguments: dict[str, Any]) -> Ruling:
    """What the scope says about a call, by the arguments that the tool will see."""
    try:
        return ruling(thinking.scope, tool, plain_arguments(arguments))
    except (ValueError, PydanticSerializationError) as error:
        return Ruling(Permission.DENY, f"The arguments of {tool!r} cannot be judged: {error}")


def plain_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments as JSON values. Raises ``ValueError`` or ``PydanticSerializationError`` for what is none."""
    plain: dict[str, Any] = to_jsonable_python(arguments, inf_nan_mode="constants")
    digest(plain)
    return plain


def arguments_digest(arguments: dict[str, Any]) -> str:
    """What an approval is bound to: the arguments as the tool will see them."""
    return digest(plain_arguments(arguments))


def schema_digest(tool: ToolsetTool[Any]) -> str:
    """What a tool takes, as its JSON Schema says."""
    return digest(to_jsonable_python(tool.tool_def.parameters_json_schema))


def _denied(why: str) -> Callable[[], Awaitable[Outcome]]:
    async def denied() -> Outcome:
        return Outcome(result=Result.DENIED, message=why)

    return denied
