"""The gate that every model request and every tool call goes through, outside the model.

The innermost of an agent's capabilities (the outermost is the ``Recorder``) stands directly before the tools: it judges
each call by the scope, has it approved where the scope or the tool asks for that, and writes down what it came to. What
reaches a tool is what was judged: hooks of the agent's own run further out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.capabilities.abstract import CapabilityOrdering
from pydantic_ai.exceptions import ApprovalRequired, ToolFailed
from pydantic_ai.models import ModelRequestContext
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults, RunContext, ToolDenied
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset

from standby.agents import asking
from standby.agents.changes import Listed
from standby.agents.costs import Meter
from standby.agents.judging import arguments_digest, given_digest, judge, plain_arguments, schema_digest
from standby.agents.native import check_request
from standby.agents.outcomes import outcome_of, told
from standby.agents.permissions import may_be_called
from standby.agents.records import TOOL, Counted, Outcome, Result
from standby.agents.scope import Permission
from standby.agents.tools import acts_once, cut_off_after, is_step, runs_in_own_task
from standby.errors import NotStorable, StandbyError, UsageError
from standby.parts import Barred, Part, part
from standby.states import CheckpointKind, CheckpointState
from standby.steps import in_step
from standby.stops import Left, met

if TYPE_CHECKING:
    from standby.agents.thinking import Thinking

log = logging.getLogger("standby.agents")


@dataclass(frozen=True)
class _Call:
    """One call of a tool, as it arrives at the gate."""

    name: str
    arguments: dict[str, Any]
    tool: ToolsetTool[Any]
    ordinal: int
    key: str
    approved: bool


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
        check_request(request_context, self.thinking.scope)
        self.thinking.was_sent = True
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
        scope, waited = self.thinking.scope, self.thinking.thread.run.paused_seconds
        self.thinking.listed = Listed(tools, waited, lambda: WrapperToolset.get_tools(self, ctx))
        for name, tool in tools.items():
            if acts_once(tool) and cut_off_after(tool) is not None:
                raise UsageError(
                    f"The tool {name!r} is a step that acts once, and has pydantic-ai's timeout=, which would cut it "
                    "off and have the model call it again, whatever it has done. Take timeout= off the tool "
                    "(tool_timeout= off the agent), or give the step timeout_seconds=: whether it happened is asked "
                    "then, when the run is retried."
                )
        self.thinking.serving.in_own_task = {name for name, tool in tools.items() if runs_in_own_task(tool)}
        self.thinking.schemas = {name: schema_digest(tool) for name, tool in tools.items()}
        return {name: tool for name, tool in tools.items() if may_be_called(scope, name)}

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        thinking, thread = self.thinking, self.thinking.thread
        ordinal = thinking.ordinal_of(ctx.tool_call_id)

        async def act() -> Any:
            return await WrapperToolset.call_tool(self, name, tool_args, ctx, tool)

        if in_step() or ordinal is None:
            # One tool calls another: part of a call that was judged, but judged for itself, and nobody can be asked.
            refused = await thinking.refusal_within(name, tool_args)
            return ToolDenied(refused) if refused is not None else await act()
        key = thread.call_key(ordinal, name, approved=ctx.tool_call_approved)
        # What it came to when it was approved counts, also where the scope would not have it asked about any more.
        approved = await thread.outcome(thread.call_key(ordinal, name, approved=True))
        if (known := approved or await thread.outcome(key)) is not None:
            if known.result is Result.CUT_OFF:
                await thread.run.be_cut_off(thread.prefix + key)
            return await self._told(known, ordinal, tool_args, approved is not None)
        call = _Call(name, tool_args, tool, ordinal, key, ctx.tool_call_approved)
        meter = Meter(thinking.mark, ctx.usage)
        if runs_in_own_task(tool):
            outcome = await thinking.serving.here(lambda: self._one_of_its_own(call, meter, act))
        else:
            outcome = await self._beside(call, meter, act)
        return await self._told(outcome, ordinal, tool_args, call.approved)

    async def _beside(self, call: _Call, meter: Meter, act: Callable[[], Awaitable[Any]]) -> Outcome:
        """The call as one step beside the own task, which does not park while it acts."""
        thread = self.thinking.thread
        acting = thread.run.acting
        if call.key in thread.acted:
            await self._made_again(call)
        elif (entry := thread.entry(call.key)) is not None and entry.state == CheckpointState.FAILED:
            # It is over: by its error, or it is cut off there once more. A hook may make it again after that.
            thread.acted[call.key] = None
            return await self._done(call, lambda: self._metered(call, meter, act))
        refused = await self._refusal(call)
        while acting.held_back:
            await thread.run.before_new_work(call.key)
            refused = await self._refusal(call)  # the run has waited since
        self._look_who_waits(call)
        if refused is not None:
            return await self._denied(call, refused)
        with acting.one(thread.place(call.key).key):
            try:
                return await self._done(call, lambda: self._metered(call, meter, act))
            except asyncio.CancelledError:
                if call.key in thread.acted:
                    thread.cut[call.ordinal] = call.key
                raise

    async def _made_again(self, call: _Call) -> None:
        """A hook makes a call again that has ended by an error, or that it has cut off: it is one more."""
        thread = self.thinking.thread
        cost = thread.acted.pop(call.key)
        if thread.cut.pop(call.ordinal, None) is not None and cost is not None:
            await thread.in_vain(call.ordinal, call.key, cost, Result.CUT_OFF)
        await thread.run.take_back(thread.prefix + call.key)
        thread.drop(call.key)
        await self.thinking.check(tool_calls=thread.calls + 1)

    def _look_who_waits(self, call: _Call) -> None:
        """Directly before a call acts. Raises ``ToolFailed``, to nobody, where a hook has gone on without it, and the
        agent, too: it would act beside what comes next."""
        thread = self.thinking.thread
        if call.ordinal in thread.gone or not call.key.startswith(f"{thread.turn}."):
            raise ToolFailed("The agent has gone on without it.")

    async def _refusal(self, call: _Call) -> str | None:
        """Why a call may not act; None if it may. Nothing stands between this and the act.

        Raises ``ApprovalRequired`` when people have to be asked, ``ScopeStopped`` at a limit.
        """
        thinking, thread = self.thinking, self.thinking.thread
        await thinking.look_again()
        judged = judge(thinking, call.name, call.arguments)
        if judged.permission is Permission.DENY:
            return judged.why
        if not call.approved:
            if judged.permission is Permission.ASK or thinking.was_asking():
                raise ApprovalRequired({"why": judged.why})
            return None
        refused = await thread.run.ledger.grants.use(
            thread.run.id,
            thread.run.attempt,
            thread.prefix + call.key,
            tool=call.name,
            arguments=arguments_digest(call.arguments),
            tool_schema=schema_digest(call.tool),
            given=given_digest(thread.response().tool_calls[call.ordinal - 1]),
            fresh=await thinking.tag(call.name, plain_arguments(call.arguments)),
            max_age=thinking.scope.asking.max_age,
        )
        if refused is None:
            return None
        log.warning("Run %s: %s was not called: %s", thread.run.id, call.name, refused)
        return f"Not called: {refused}."

    async def _told(self, outcome: Outcome, ordinal: int, arguments: dict[str, Any], approved: bool) -> Any:
        thinking = self.thinking
        if outcome.result is Result.DEFERRED:
            thinking.deferred.add(ordinal)
        if approved and outcome.result is Result.UNAPPROVED:
            raise ToolFailed("It was approved, and asked to be approved again, which is not done.")
        if not approved or outcome.result is not Result.DEFERRED:
            return told(outcome)
        call = replace(thinking.thread.response().tool_calls[ordinal - 1], args=plain_arguments(arguments))
        result = await thinking.serving.here(lambda: asking.result_after_approval(thinking, call, outcome))
        if isinstance(result, ToolFailed):
            raise result
        return result

    async def _metered(self, call: _Call, meter: Meter, act: Callable[[], Awaitable[Any]]) -> Outcome:
        """Call the tool. What it has cost is written down also where it ends by an error, or is cut off."""
        thread = self.thinking.thread
        thread.acted[call.key] = Counted(result=Result.CUT_OFF)
        try:
            with meter.running():
                outcome = await outcome_of(f"tool {call.name!r} ({thread.prefix}{call.key})", act)
                costs = meter.costs()
                outcome = outcome.model_copy(update=costs)
                thread.acted[call.key] = Counted(result=Result.CUT_OFF, **costs)
                await thread.spend(call.key, outcome.alone)
                return outcome
        except BaseException as error:
            if met(error, asyncio.CancelledError, Left) is not None:
                # The call is made again, by the next attempt.
                await thread.cut_off(call.ordinal, Counted(result=Result.PARKED, **meter.costs()))
            elif isinstance(error, Exception) and (
                not isinstance(error, StandbyError) or isinstance(error, NotStorable)
            ):
                thread.acted[call.key] = None
                await _whole(thread.tried(call.ordinal, Counted(result=Result.FAILED, **meter.costs())))
            raise

    async def _denied(self, call: _Call, why: str) -> Outcome:
        """What an earlier attempt has begun of it is left where it is, and the model is told what happened of that."""
        thinking = self.thinking
        why = await thinking.left_out(call.ordinal, why)

        async def denied() -> Outcome:
            return Outcome(result=Result.DENIED, message=why)

        return await self._done(call, denied)

    async def _done(self, call: _Call, work: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """The call as one step."""
        thread = self.thinking.thread
        try:
            outcome = await TOOL[thread.visible].at(thread.place(call.key))(work)
        except NotStorable:
            if (cost := thread.acted.get(call.key)) is not None:
                thread.acted[call.key] = None
                await _whole(thread.in_vain(call.ordinal, call.key, cost, Result.FAILED))
            raise
        thread.acted.pop(call.key, None)
        thread.count(call.key, outcome)
        return outcome

    async def _one_of_its_own(self, call: _Call, meter: Meter, act: Callable[[], Awaitable[Any]]) -> Outcome:
        """The call in the own task: under way until it is over, whoever asked for it still waits or not."""
        self._look_who_waits(call)
        under_way = self.thinking.thread.under_way
        under_way.add(call.ordinal)
        try:
            return await self._in_own_task(call, meter, act)
        finally:
            under_way.discard(call.ordinal)

    async def _in_own_task(self, call: _Call, meter: Meter, act: Callable[[], Awaitable[Any]]) -> Outcome:
        """The call as a part of the agent's code, with steps and waits of its own."""
        thread, run = self.thinking.thread, self.thinking.thread.run
        meter.waited = lambda: run.paused_seconds  # to wait is not to be at work
        paused = run.paused_seconds
        # Another tool may have waited since the model asked for this one.
        try:
            refused = await self._refusal(call)
        except ApprovalRequired as asks:
            happened = await self._happened(call, asks, lambda: self._metered(call, meter, act))
            if happened is None:
                raise
            return await self._over(call, happened, paused)
        if refused is not None:
            return await self._denied(call, refused)

        async def before_a_park() -> None:
            await thread.tried(call.ordinal, Counted(result=Result.PARKED, **meter.costs()))

        key = thread.prefix + call.key
        run.leaving[key] = before_a_park
        try:
            with part(thread.part_key(call.ordinal, call.name, approved=call.approved)) as inside:
                inside.cut_off_after = cut_off_after(call.tool)
                run.waking[key] = self._after_each_wait(call, inside)
                outcome = await self._as_far_as_allowed(call, inside, lambda: self._metered(call, meter, act))
        finally:
            del run.leaving[key]
            run.waking.pop(key, None)
        if isinstance(outcome, str):
            return await self._denied(call, outcome)

        return await self._over(call, outcome, paused)

    async def _over(self, call: _Call, outcome: Outcome, paused: float) -> Outcome:
        """Write down what a call in the own task came to, before which the attempt had waited for so long."""

        async def as_it_was() -> Outcome:
            return outcome

        done = await self._done(call, as_it_was)
        if self.thinking.thread.run.paused_seconds != paused:
            self.thinking.may_have_changed = True
            await self.thinking.refresh()
        return done

    async def _happened(
        self, call: _Call, asks: ApprovalRequired, work: Callable[[], Awaitable[Outcome]]
    ) -> Outcome | None:
        """What a call came to that an earlier attempt was cut off in, before people are asked whether it may be made.

        None if that attempt was in the middle of nothing; raises ``asks`` if the call has still to be made, or to go
        on. A tool that is one step has come to what that has; in another one more may follow.
        """
        thread = self.thinking.thread
        key = thread.part_key(call.ordinal, call.name, approved=False)
        left = thread.left_over(call.ordinal)
        thread.set_aside(call.ordinal)
        cut_off = (CheckpointState.INTENDED, CheckpointKind.STEP)
        if not any((one.state, one.kind) == cut_off and one.key.startswith(f"{key}/") for one in left):
            return None
        with part(key) as inside:
            inside.cut_off_after = cut_off_after(call.tool)
            inside.settle_only(asks, is_step=is_step(call.tool))
            outcome = await self._as_far_as_allowed(call, inside, work)
        assert isinstance(outcome, Outcome)
        return outcome

    def _after_each_wait(self, call: _Call, inside: Part) -> Callable[[], Awaitable[None]]:
        """What looks, when the tool has waited in the process, whether its call may go on: as after a cold wake."""
        judged = replace(call, arguments=plain_arguments(call.arguments))  # the tool may change its own

        async def look() -> None:
            try:
                refused = await self._refusal(judged)
            except Exception as error:
                inside.bar(error)
            else:
                if refused is not None:
                    inside.bar(_Refused(refused))

        return look

    async def _as_far_as_allowed(
        self, call: _Call, inside: Part, work: Callable[[], Awaitable[Outcome]]
    ) -> Outcome | str:
        """What the call came to, or why it was refused half way. Raises what else it was barred with."""
        try:
            outcome = await work()
        except BaseException as error:
            if inside.barred is None or not _says_barred(error):
                raise
        else:
            if inside.barred is None:
                return outcome
        if isinstance(inside.barred, _Refused):
            return str(inside.barred)
        if isinstance(inside.barred, ApprovalRequired):
            # When it is approved it begins at its first line, as after a cold wake.
            run = self.thinking.thread.run
            run.again(f"{inside.key}/", await run.ledger.checkpoints.journal(run.id))
            self.thinking.thread.set_aside(call.ordinal)
        raise inside.barred


async def _whole(writing: Coroutine[Any, Any, None]) -> None:
    """Write something down, and not half of it where a hook cuts that off: it would count here, or in the journal."""
    task = asyncio.create_task(writing)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


class _Refused(Exception):
    """A call that had begun may not go on."""


def _says_barred(error: BaseException) -> bool:
    return isinstance(error, Barred) or (isinstance(error, BaseExceptionGroup) and error.subgroup(Barred) is not None)
