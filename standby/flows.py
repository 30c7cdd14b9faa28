"""``@agent``: a Prefect flow whose steps and waits survive anything."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import timedelta
from functools import wraps
from typing import Any, NoReturn, ParamSpec, TypeVar, get_type_hints, overload
from uuid import UUID

from prefect import Flow
from prefect.context import FlowRunContext
from prefect.exceptions import Abort, ExternalSignal, Pause
from pydantic import ValidationError

from standby import settings
from standby.attaching import Ended, WasCancelled, attach, release_quietly
from standby.branches import Branches
from standby.checkpoints import CheckpointStore, load_store, shared_ledger
from standby.errors import AgentExited, CheckpointNotWritten, CheckpointUnreadable, LedgerUnavailable, UsageError
from standby.failures import stored
from standby.faults import reach
from standby.hold import Asked
from standby.hold import chosen as chosen_hold
from standby.hosting import current_hosting
from standby.ledger.runs import Claim
from standby.parking import (
    asked_again_since,
    calm_logs,
    cancel_was_overruled,
    has_run,
    show_cancelled,
    wake_parents,
)
from standby.runs import AgentRun, current_run
from standby.states import RunState
from standby.stops import Away, Fenced, Left, met
from standby.values import Codec, summary
from standby.waiting import ask_outcome

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger("standby.flows")

LEFT_RUNNING = (
    "The attempt at run %s is over, and tasks that it has begun go on though they were cancelled: %s. Their steps do "
    "nothing more, but what they do themselves is done: let asyncio.CancelledError end them."
)


@overload
def agent(fn: Callable[P, Coroutine[Any, Any, R]], /) -> Flow[P, Coroutine[Any, Any, R]]: ...
@overload
def agent(
    *, name: str | None = None, hold: str | timedelta | None = None, **flow_options: Any
) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Flow[P, Coroutine[Any, Any, R]]]: ...
def agent(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    hold: str | timedelta | None = None,
    **flow_options: Any,
) -> Any:
    """Make an async function an agent: a Prefect flow, deployed and scheduled like any other.

    ``name``: the flow's name, by default the function's with dashes. ``hold``: what stays while it waits: ``"suspend"``
    (nothing), ``"pause"`` (the process), ``"warm"`` (its coroutine, in a host) or a timedelta (warm for so long at
    most). The default is the cheapest for deployed runs, which without a host is ``"suspend"``, and ``"pause"`` for
    runs without a deployment, which cannot be suspended. Other options go to ``prefect.flow``.

    Raises ``UsageError`` for a sync function, for another ``hold``, and for ``retries``: put those on steps.
    """

    def mark(function: Callable[..., Any]) -> Flow[..., Any]:
        if not inspect.iscoroutinefunction(function):
            raise UsageError(f"Agent {function.__name__!r} must be async: async def {function.__name__}(...).")
        if flow_options.get("retries"):
            raise UsageError(
                f"Agent {function.__name__!r} has flow retries, which forget what was paused. Put retries on steps."
            )
        chosen = Asked.of(hold) if hold is not None else None
        result: Codec[Any] = Codec(lambda: get_type_hints(function, include_extras=True).get("return", Any))

        @wraps(function)
        async def body(*args: Any, **kwargs: Any) -> Any:
            return await _run(function, args, kwargs, chosen, result)

        body.__standby_agent__ = True  # type: ignore[attr-defined]
        options: dict[str, Any] = {
            "persist_result": True,
            "result_serializer": "json",
            "cache_result_in_memory": False,
        } | flow_options
        options["name"] = name or function.__name__.replace("_", "-")
        return Flow(body, **options)

    return mark if fn is None else mark(fn)


def is_agent(flow: Flow[..., Any]) -> bool:
    """Whether the flow was made by ``agent``."""
    return getattr(flow.fn, "__standby_agent__", False) is True


async def _run(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], asked: Asked | None, codec: Codec[Any]
) -> Any:
    """One attempt: from the claim to a park, a crash or the end."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise UsageError("An agent runs as a Prefect flow: call the decorated function.")
    if current_run.get() is not None:
        raise UsageError("An agent cannot call another agent in its own run, which could then not wait. Deploy it.")
    if "STANDBY_CRASH_AT" in os.environ:
        from standby.testing.crash import arm

        arm(os.environ["STANDBY_CRASH_AT"])
    calm_logs()
    flow_run = context.flow_run
    store = await load_store(str(context.client.api_url))
    # The flow's own result store, so that all its tasks keep their results in the ledger.
    context.result_store.result_storage = store
    context.result_store.cache_result_in_memory = False
    deployed = flow_run.deployment_id is not None

    async def is_retry(ended: Claim) -> bool:
        assert ended.ended_at is not None
        return not deployed or await asked_again_since(flow_run.id, ended.ended_after, ended.ended_at)

    began = False
    began_in = str(flow_run.state.id) if flow_run.state is not None else None
    try:
        # Of a host's attempts their host sees to it.
        if deployed and current_hosting.get() is None and await cancel_was_overruled(flow_run.id):
            await _stay_cancelled(flow_run.id, began_in, store)
        async with attach(
            str(flow_run.id),
            flow=context.flow.name if context.flow else function.__name__,
            name=flow_run.name,
            deployment_id=str(flow_run.deployment_id) if deployed else None,
            hold=chosen_hold(asked, deployed=deployed, hosted=current_hosting.get() is not None),
            store=store,
            is_retry=is_retry,
        ) as run:
            began = True
            run.ask_outcome = ask_outcome
            run.asked, run.deployed, run.began_in = asked, deployed, began_in
            reach("run.attached")
            text, value = await _attempt(run, function, args, kwargs, codec)
            await run.leave()
            if not await run.ledger.runs.end(run.id, run.attempt, RunState.COMPLETED, result=text, after=began_in):
                run.stop()
            reach("run.ended")
            await wake_parents(run)
            return value
    except Ended as ended:
        try:
            return codec.decode(ended.result or "null")
        except ValidationError as error:
            raise CheckpointUnreadable(flow_run.id, "the run's result", summary(error)) from error
    except WasCancelled as cancelled:
        await show_cancelled(flow_run.id, str(cancelled))
        raise Abort(str(cancelled)) from cancelled
    except LedgerUnavailable as error:
        # At its first start it fails, and is seen; later that would close its questions, and one by hand be forgotten.
        if began or await has_run(flow_run.id):
            raise Away(flow_run.id, error) from error
        raise


async def _stay_cancelled(run_id: UUID, began_in: str | None, store: CheckpointStore) -> NoReturn:
    why = "It was cancelled in Prefect before this attempt began."
    await show_cancelled(run_id, why)
    with suppress(LedgerUnavailable):  # the keeper follows Prefect
        async with shared_ledger(store.resolved_url()) as ledger:
            await ledger.runs.end_from_outside(str(run_id), RunState.CANCELLED, why, after=began_in)
    raise Abort(why)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _exits(run: AgentRun) -> Callable[[BaseException], bool]:
    """Whether an error would end the process, or have the run crash and be taken up again for ever, and is the agent's
    own. In a host that is any, for its host hears of signals in another way; in a process of its own ``SystemExit``."""
    signals = (asyncio.CancelledError, GeneratorExit, Abort, Pause, ExternalSignal)

    def exits(error: BaseException) -> bool:
        if run.hosting is None:
            return run.deployed and isinstance(error, SystemExit)
        if isinstance(error, (Exception, *signals)):
            return False
        return not isinstance(error, BaseExceptionGroup) or error.subgroup(signals) is None

    return exits


async def _attempt(
    run: AgentRun, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], codec: Codec[Any]
) -> tuple[str, Any]:
    """The agent's result: as JSON text and as it will be read back."""
    what = f"agent {function.__name__!r}"
    branches = Branches(_exits(run))
    try:
        try:
            codec.check(what)
            with branches.begun_here():
                value = await function(*args, **kwargs)
        except BaseException as error:
            stop = met(error, Fenced, Left, Away, Pause)
            if stop is not None and not isinstance(stop, Fenced):
                with run.acting.holding_back():  # it goes on elsewhere, and there does not do again what is under way
                    await run.lets_end()
            if isinstance(error, BaseExceptionGroup) and stop is not None:
                raise stop from None  # of a branch: a TaskGroup raises it among what the others raised
            if branches.exits(error):
                raise AgentExited(error) from error
            raise
        finally:
            run.over = True
            if left := await branches.end(settings.STOPPED_WITHIN.total_seconds()):
                log.warning(LEFT_RUNNING, run.id, ", ".join(task.get_name() for task in left))
        await run.ends()
        run.check_all_met()
        await run.record_failed_waits()
        return codec.encode(value, what)
    except Left as left:
        if run.hosting is None:
            await release_quietly(run)
            if _is_cancelled():  # it ends as it would without a step on the way
                raise asyncio.CancelledError from left
        raise
    except Fenced:
        raise
    except asyncio.CancelledError:
        if run.fenced:
            raise Fenced(run.id, run.attempt) from None
        if run.host_ends:
            raise Left(run.id) from None
        await release_quietly(run)
        raise
    except Pause:
        # Ours has parked the run already; one from Prefect's own Pause button only ends the attempt.
        await release_quietly(run)
        raise
    except Exception as error:
        await run.ends()
        run.error = f"{type(error).__name__}: {error}"
        await run.leave()
        if not run.deployed and (away := met(error, CheckpointNotWritten, LedgerUnavailable)) is not None:
            # Nobody could retry it in Prefect; the same command goes on with what has not failed.
            await release_quietly(run)
            raise Away(run.id, away) from error
        try:
            await run.take_back_failures(error)
            if not await run.ledger.runs.end(
                run.id, run.attempt, RunState.FAILED, error=run.error, after=run.began_in, by=run.failed_wait,
                step=run.failed_step(stored(error)),
            ):  # fmt: skip
                raise Fenced(run.id, run.attempt) from error
            reach("run.failed")
            await wake_parents(run)
        except Exception as why:
            log.warning("That run %s failed could not be recorded: %s: %s", run.id, type(error).__name__, error)
            if isinstance(why, LedgerUnavailable):
                # The run may be another attempt's by now: it must not fail for it.
                raise Away(run.id, why) from error
        raise
    except BaseException:
        await release_quietly(run)
        raise
