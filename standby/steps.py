"""Steps: functions whose results are checkpoints.

Inside an agent a step runs as a Prefect task, its result is written to the ledger, and it never runs again in that
run. Outside an agent it is the plain function, so it can be tested as one.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property, partial, update_wrapper
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, overload

from prefect import Task
from prefect.client.schemas.objects import State
from pydantic import ValidationError

from standby.caught import Failure
from standby.checkpoints import PLAIN_JSON, JournalKey, ResultKey, result_key
from standby.errors import CheckpointNotWritten, CheckpointUnreadable, UsageError
from standby.failures import revived, stored
from standby.faults import reach
from standby.journal import CUT_OFF
from standby.ledger.checkpoints import Entry
from standby.options import StepOptions, codec_of, is_async
from standby.parts import Part, current_part
from standby.places import Place, check_key
from standby.runs import AgentRun, current_run
from standby.states import CheckpointState, Effect
from standby.threads import for_a_future
from standby.values import Codec, summary

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger("standby.steps")


@dataclass(slots=True)
class _Call:
    """One step under way."""

    run: AgentRun
    place: Place
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    intended: bool  # an earlier attempt, or an earlier try of this one, may have acted
    value: Any = None
    plain: Any = None
    recording: asyncio.Future[None] | None = None  # of a step with a timeout, which may come while it is recorded


_current: ContextVar[_Call | None] = ContextVar("standby_step", default=None)

tool_as_step: ContextVar[bool] = ContextVar("standby_tool_as_step", default=False)
"""Whether the step that is executing is a whole tool of an agent."""


def idempotency_key() -> str:
    """The key of the step that is executing, the same however often it is tried: send it along to outside systems.

    Also in a probe. Shape: ``<flow run id>/<step key>``. Raises ``UsageError`` outside a step of an agent.
    """
    call = _current.get()
    if call is None:
        raise UsageError("idempotency_key() was called outside a step of an agent, where there is no key.")
    return f"{call.run.id}/{call.place.key}"


def in_step() -> bool:
    """Whether a step of an agent is executing here."""
    return _current.get() is not None


def unmarked(does: str) -> UsageError | None:
    """The error for a tool of an agent that ``does`` what no step can; None where this is no tool that is one step."""
    if not tool_as_step.get():
        return None
    return UsageError(
        f"A tool that {does} is marked with @waits (from standby.agents import waits), below @agent.tool: without the "
        "mark all of it is one step."
    )


class Step(Generic[P, R]):
    """A function marked with ``step``; called and awaited like the function."""

    def __init__(self, fn: Callable[P, Any], options: StepOptions) -> None:
        self.fn = fn
        self.options = options
        self.codec = codec_of(fn, options.name)
        check_key(options.name)
        options.check(fn)
        update_wrapper(self, fn)

    def with_options(self, *, key: str) -> Step[P, R]:
        """The same step under an explicit key, for calls in racing branches."""
        check_key(key)
        return Step(self.fn, replace(self.options, key=key))

    def at(self, place: Place) -> Callable[P, Coroutine[Any, Any, R]]:
        """The step at a place in the journal that the caller has chosen, in the run that is executing."""
        run = current_run.get()
        assert run is not None

        def placed(*args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
            return self._in_run(run, place, args, kwargs)

        return placed

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        run = current_run.get()
        if run is None:
            return self._invoke(args, kwargs)
        if _current.get() is not None:
            if self.options.effect is Effect.ONCE:
                raise UsageError(
                    f"Step {self.options.name!r} acts once and was called inside another step, where it has no "
                    "checkpoint of its own. Call it from the agent."
                )
            return self._invoke(args, kwargs)
        # Placed now and not when awaited: gather(a(), b()) then has one order.
        place = run.place(self.options.name, self.options.key)
        return self._in_run(run, place, args, kwargs)

    async def _in_run(self, run: AgentRun, place: Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        entry = run.journal.get(place.key)
        if entry is not None and entry.state == CheckpointState.RECORDED:
            return self._decode(run, place.key, await run.text_of(entry))
        if entry is not None and entry.state == CheckpointState.FAILED:
            text = await run.text_of(entry)
            error = None if text == CUT_OFF else revived(text)
            once = self.options.effect is Effect.ONCE
            run.failures.add_recorded(Failure(place, None if error is None else text, error, intended=once))
            if error is not None:
                raise error
            await run.be_cut_off(place.key)
        call = _Call(run, place, args, kwargs, intended=entry is not None)
        try:
            return await self._anew(call, entry)
        except asyncio.CancelledError:
            # Also where it had not begun to act: a replay stands there, too.
            run.failures.add(Failure(place, None, intended=call.intended, recording=call.recording))
            raise

    async def _anew(self, call: _Call, entry: Entry | None) -> R:
        """What is not in the journal yet. ``entry``: the intent of an earlier attempt."""
        run, place = call.run, call.place
        inside = current_part.get()
        if inside is not None and inside.may_be_cut_off and self.options.effect is Effect.ONCE:
            raise UsageError(
                f"Step {place.key!r} acts once, in a tool with pydantic-ai's timeout=, which would cut it off and have "
                "the model call it again, whatever it has done. Take timeout= off the tool (tool_timeout= off the "
                "agent), or give the step timeout_seconds=: whether it happened is asked then, when the run is retried."
            )
        settles = inside is not None and inside.settles
        if inside is not None and (entry is None or self.options.effect is not Effect.ONCE):
            inside.before_new()
        await run.before_new_work(place.key)
        if inside is not None:
            inside.check()  # it may have been held back while the run was parked
        unprobed = self.options.effect is Effect.ONCE and self.options.probe is None
        if unprobed and not run.in_own_task:
            raise UsageError(
                f"Step {place.key!r} acts once, has no probe and runs beside other steps, where nobody could be asked "
                "about it after a crash. Give it a probe=, or await it by itself."
            )
        if entry is not None and unprobed:
            text = await _ask_outcome(run, entry, self.codec)
            if text is not None:
                known = self._decode(run, place.key, text)
                await run.record(place, text)
                if inside is not None:
                    inside.after_settled()
                return known
            call.intended = False  # a person said that it did not happen
        if inside is not None and settles:
            return await self._found_by_probe(call, inside)
        self.codec.check(f"step {place.key!r}")
        reach("step.before")
        token = _current.set(call)
        try:
            with run.acting.one(place.key):
                await self._done(call)
        finally:
            _current.reset(token)
        reach("step.after")
        value: R = call.value
        return value

    async def _done(self, call: _Call) -> None:
        try:
            await (self._as_task(call) if self.options.visible else self._quietly(call))
        except CheckpointNotWritten:
            raise
        except Exception as error:
            if call.recording is None:
                call.run.failures.add(Failure(call.place, stored(error), error, intended=call.intended))
                raise
            await asyncio.shield(call.recording)

    async def _found_by_probe(self, call: _Call, inside: Part) -> R:
        """What an earlier attempt has done, where no more than that is to be known."""
        token = _current.set(call)
        try:
            probe = self.options.probe
            found = None if probe is None else await self._failing(probe(*call.args, **call.kwargs))
        finally:
            _current.reset(token)
        if found is None:
            inside.before_new()
        text, call.value = self.codec.encode(found, f"step {call.place.key!r}")
        await call.run.record(call.place, text)
        inside.after_settled()
        value: R = call.value
        return value

    async def _as_task(self, call: _Call) -> None:
        key = ResultKey(call.run.id, call.place.key)
        token = result_key.set(key)
        try:
            await self._task()
        finally:
            result_key.reset(token)

    @cached_property
    def _task(self) -> Task[[], Coroutine[Any, Any, Any]]:
        """The Prefect task that shows the step: it takes what to do from the context, not from parameters."""

        async def perform() -> Any:
            call = _current.get()
            current = result_key.get()
            assert call is not None
            assert current is not None
            await self._perform(call)
            current.recorded = True
            return call.plain

        def may_retry(_task: Any, _task_run: Any, state: State[Any]) -> bool:
            # What acted and could not be written down must not act again for that.
            return isinstance(state.data, self.options.retry_on) and not isinstance(state.data, CheckpointNotWritten)

        return Task(
            perform,
            name=self.options.name,
            description=inspect.getdoc(self.fn),
            task_run_name=_current_key,
            retries=self.options.retries,
            retry_delay_seconds=self.options.retry_delay_seconds,
            retry_condition_fn=may_retry,
            timeout_seconds=self.options.timeout_seconds,
            persist_result=True,
            cache_policy=JournalKey(),
            result_serializer=PLAIN_JSON,
            cache_result_in_memory=False,
        )

    async def _quietly(self, call: _Call) -> None:
        """The step without a Prefect task run, with the same retries and timeout."""
        for tries_left in range(self.options.retries, -1, -1):
            try:
                async with asyncio.timeout(self.options.timeout_seconds):
                    await self._perform(call)
                return
            except Exception as error:
                if not tries_left or not isinstance(error, self.options.retry_on):
                    raise
                if isinstance(error, CheckpointNotWritten):
                    raise
                await asyncio.sleep(self.options.retry_delay_seconds)

    async def _perform(self, call: _Call) -> None:
        """Act, or learn from the probe that an earlier try has acted, and record the value."""
        value: Any = None
        found = False
        if call.recording is not None:
            await asyncio.shield(call.recording)  # of the try before, which ran out of time meanwhile
            return
        if self.options.effect is Effect.ONCE:
            if call.intended and self.options.probe is not None:
                value = await self._failing(self.options.probe(*call.args, **call.kwargs))
                found = value is not None
            elif not call.intended:
                await call.run.intend(call.place)
                call.intended = True
                reach("step.intended")
        if not found:
            await call.run.be_sure()
            reach("step.acting")
            value = await self._failing(self._invoke(call.args, call.kwargs))
            reach("step.acted")
        text, call.value = self.codec.encode(value, f"step {call.place.key!r}")
        call.plain = self.codec.plain(text)
        if self.options.timeout_seconds is None:
            await call.run.record(call.place, text)
        else:
            call.recording = asyncio.ensure_future(call.run.record(call.place, text))
            await asyncio.shield(call.recording)
        reach("step.recorded")

    async def _failing(self, acting: Awaitable[Any]) -> Any:
        """A ``CancelledError`` is a cut from outside, which comes again on a replay, or else the step's own error."""
        task = asyncio.current_task()
        assert task is not None
        cancels = task.cancelling()
        try:
            return await acting
        except asyncio.CancelledError as error:
            if task.cancelling() > cancels:
                raise
            raise RuntimeError(
                f"Step {self.options.name!r} raised CancelledError, and was not itself cut off: something that it "
                "awaits was cancelled. Catch that there."
            ) from error

    async def _invoke(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if is_async(self.fn):
            return await self.fn(*args, **kwargs)
        run = current_run.get()
        act = for_a_future(partial(self.fn, *args, **kwargs), f"Step {self.options.name!r}")
        if run is None:
            return await asyncio.to_thread(act)
        return await run.threads.call(act, given_up=self.options.timeout_seconds is not None)

    def _decode(self, run: AgentRun, key: str, text: str) -> R:
        try:
            value: R = self.codec.decode(text)
        except ValidationError as error:
            raise run.must_stop(CheckpointUnreadable(run.id, key, summary(error))) from error
        return value


def _current_key() -> str:
    call = _current.get()
    return call.place.key if call is not None else "step"


async def _ask_outcome(run: AgentRun, intent: Entry, codec: Codec[Any]) -> str | None:
    """Ask a person whether a ``once`` step without a probe happened; its value as JSON, or None if it did not."""
    assert run.ask_outcome is not None
    return await run.ask_outcome(intent.key, intent.attempt, codec)


@overload
def step(fn: Callable[P, Coroutine[Any, Any, R]], /) -> Step[P, R]: ...
@overload
def step(fn: Callable[P, R], /) -> Step[P, R]: ...
@overload
def step(
    *,
    name: str | None = None,
    effect: str = ...,
    probe: Callable[..., Awaitable[Any]] | None = None,
    visible: bool = True,
    retries: int = 0,
    retry_delay_seconds: float = 0,
    retry_on: tuple[type[Exception], ...] = (Exception,),
    timeout_seconds: float | None = None,
) -> _StepDecorator: ...
def step(fn: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Mark a function as a step of agents. Async, or sync (then it runs in a thread).

    ``name``: the step's name in its key, by default the function's. Changing it breaks runs that are parked.
    ``effect``: ``"repeatable"`` (default): after a crash in the middle it runs again, with the same
    ``idempotency_key()``. ``"once"``: its intent is recorded first; if a crash hides whether it acted, ``probe`` is
    called with the same arguments and returns the result if it did and None if it did not; without a probe a person
    is asked.
    ``visible``: False keeps a very small step out of Prefect's task runs, in the ledger alone.
    ``retries`` (0), ``retry_delay_seconds`` (0), ``timeout_seconds`` (none): for exceptions, not for crashes.
    ``retry_on``: the exceptions that are worth another try, by default all.

    Raises ``UsageError`` for a function without a return annotation, for fewer than no retries, and for a ``once`` step
    with retries and no probe. A call raises ``NotStorable``, ``CheckpointNotWritten``, ``CheckpointDamaged``,
    ``CheckpointUnreadable``, ``JournalMismatch``, or what the function raises.
    """

    def mark(function: Callable[..., Any]) -> Step[..., Any]:
        chosen = dict(options)
        chosen["name"] = chosen.get("name") or function.__name__
        effect = chosen.get("effect", Effect.REPEATABLE)
        if effect not in list(Effect):
            raise UsageError(f"effect= is {' or '.join(repr(str(one)) for one in Effect)}, not {effect!r}.")
        chosen["effect"] = Effect(effect)
        return Step(function, StepOptions(**chosen))

    return mark if fn is None else mark(fn)


class _StepDecorator(Protocol):
    """What ``step(...)`` with options returns."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Step[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Step[P, R]: ...
