"""The outermost of an agent's capabilities: it writes each model request down, with what it has cost, as one step, and
has each call of a tool come to its outcome."""

from __future__ import annotations

from collections.abc import Awaitable
from copy import copy
from dataclasses import dataclass
from decimal import Decimal
from time import monotonic
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.capabilities.abstract import CapabilityOrdering, WrapModelRequestHandler, WrapToolExecuteHandler
from pydantic_ai.exceptions import CallDeferred, ModelRetry, SkipModelRequest, SkipToolExecution, ToolFailed
from pydantic_ai.messages import ModelResponse, ToolCallPart
from pydantic_ai.models import ModelRequestContext
from pydantic_ai.tools import RunContext, ToolDefinition

from standby.agents.changes import look_for_changes
from standby.agents.costs import added, billed_in, unmeasured_in
from standby.agents.native import check_answer
from standby.agents.records import MODEL, Counted, Result, Turn
from standby.agents.responses import tidy
from standby.steps import in_step

if TYPE_CHECKING:
    from standby.agents.thinking import Thinking


_TOLD = (ModelRetry, ToolFailed, CallDeferred, SkipToolExecution, ValidationError)
"""What a hook raises for the agent to go on with; any other error of it ends the agent."""


@dataclass
class Recorder(AbstractCapability[Any]):
    """Writes each model request down as a step, and lets calls come to their outcome: the outermost capability."""

    thinking: Thinking

    def get_ordering(self) -> CapabilityOrdering:
        return CapabilityOrdering(position="outermost")

    async def wrap_model_request(
        self, ctx: RunContext[Any], *, request_context: ModelRequestContext, handler: WrapModelRequestHandler
    ) -> ModelResponse:
        thread = self.thinking.thread
        self.thinking.request = request_context
        if thread.turn < thread.recorded:
            thread.turn += 1
            response = thread.response()
            assert thread.last is not None
            _tool_retries(ctx).update(thread.last.tool_retries)
        else:
            parts, changed = look_for_changes(self.thinking, request_context)
            rest = f"{thread.turn + 1}.model"

            async def ask() -> Turn:
                started, before = monotonic(), copy(ctx.usage)
                self.thinking.was_sent = False
                try:
                    answer = tidy(await _answered(handler(request_context)), thread.turn + 1)
                except Exception:
                    # Every answer was rejected: they are paid for, and it is asked again.
                    billed = added(before, ctx.usage)
                    if any(billed.values()):
                        billed |= {"requests": 1, "seconds": round(monotonic() - started, 6)}
                        await thread.tried(0, Counted(result=Result.UNANSWERED, **billed))
                    raise
                # As pydantic-ai does it, when this has been written down.
                answer.run_id = answer.run_id or ctx.run_id
                answer.conversation_id = answer.conversation_id or ctx.conversation_id
                if self.thinking.was_sent:
                    answer.model_id = answer.model_id or request_context.model_id or request_context.model.model_id
                # Hooks of the agent may have rewritten the history meanwhile.
                new, whole = self.thinking.new_of(ctx.messages)
                # A hook that has answered itself is not in the usage yet.
                billed = added(before, ctx.usage)
                usages = billed_in(answer, was_sent=self.thinking.was_sent)
                turn = Turn(
                    messages=[*new, answer],
                    whole=whole,
                    parts=parts,
                    changed=changed,
                    tokens=max(billed["tokens"], sum(one.total_tokens for one in usages)),
                    money=max(billed["money"], sum((one.cost for one in usages if one.cost), Decimal(0))),
                    unpriced=max(billed["unpriced"], sum(one.cost is None for one in usages)),
                    unmeasured=max(billed["unmeasured"], sum(map(unmeasured_in, usages))),
                    seconds=round(monotonic() - started, 6),
                    tool_retries=dict(_tool_retries(ctx)),
                    output_retries=ctx.retry,
                )
                await thread.spend(rest, turn.spent)
                return turn

            thread.run.failures.forget(thread.prefix + rest)  # a hook wants it to be made again
            try:
                turn = await MODEL[thread.visible].at(thread.place(rest))(ask)
            except ModelRetry:
                thread.run.failures.forget(thread.prefix + rest)  # and more may be asked for before that
                raise
            thread.turn += 1
            thread.count_turn(rest, turn)
            thread.messages = [*ctx.messages, turn.messages[-1]]
            response = thread.response()
        self.thinking.known = [*ctx.messages, response]
        check_answer(response, self.thinking.scope)
        return response

    async def wrap_tool_execute(
        self,
        ctx: RunContext[Any],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: dict[str, Any],
        handler: WrapToolExecuteHandler,
    ) -> Any:
        ordinal = self.thinking.ordinal_of(call.tool_call_id)
        if in_step() or ordinal is None:
            return await handler(args)
        thread = self.thinking.thread
        thread.gone.discard(ordinal)  # one that was asked about is made again when it is approved
        try:
            return await self._to_its_end(tool_def, args, handler, ordinal)
        finally:
            thread.gone.add(ordinal)

    async def _to_its_end(
        self, tool_def: ToolDefinition, args: dict[str, Any], handler: WrapToolExecuteHandler, ordinal: int
    ) -> Any:
        if tool_def.name in self.thinking.serving.in_own_task:
            try:
                result = await handler(args)
            except Exception:
                await self._over(ordinal)
                raise
            await self._over(ordinal)
            return result
        # Around all hooks: what these cut off, as by a time limit of their own, is cut off.
        below = self.thinking.thread.place(f"{self.thinking.thread.turn}.{ordinal}.").key
        thread = self.thinking.thread
        try:
            result = await self.thinking.serving.to_its_outcome(lambda: handler(args), below)
        except Exception as error:
            await thread.run.acting.none(below)  # a hook may go on without it, and what comes next act beside it
            await thread.came_back(ordinal, is_told=isinstance(error, _TOLD))
            raise
        await thread.run.acting.none(below)
        await thread.came_back(ordinal, is_told=True)
        return result

    async def _over(self, ordinal: int) -> None:
        """A call in the own task comes back from the hooks around it. If these have not waited for it, it is waited for
        here: what comes next would act beside it."""

        async def nothing() -> None: ...

        if ordinal in self.thinking.thread.under_way:
            await self.thinking.serving.here(nothing)


async def _answered(request: Awaitable[ModelResponse]) -> ModelResponse:
    """The answer, whether the request was made or a hook has skipped it."""
    try:
        return await request
    except SkipModelRequest as skipped:
        return skipped.response


def _tool_retries(ctx: RunContext[Any]) -> dict[str, int]:
    """How often each tool has been retried by now, where pydantic-ai counts it for the calls of the next answer."""
    manager = ctx.tool_manager
    assert manager is not None
    assert manager.ctx is not None
    return manager.ctx.retries
