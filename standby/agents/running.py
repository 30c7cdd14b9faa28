"""``run_agent``: a pydantic-ai agent as a part of a durable run, inside its scope."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, UserContent

from standby import clock
from standby.agents.artifact import keep_transcript
from standby.agents.budgets import Spent
from standby.agents.costs import under_way
from standby.agents.outcomes import answered, output_call
from standby.agents.permissions import ruling
from standby.agents.records import Beginning, Ending, began, ended
from standby.agents.scope import AgentScope, Permission
from standby.agents.serving import Serving, ends_the_agent
from standby.agents.thinking import Fresh, Scoped, Thinking
from standby.agents.thread import Thread
from standby.agents.tracing import new_trace
from standby.caught import Failure
from standby.errors import ScopeStopped, UsageError
from standby.failures import revived, stored
from standby.places import check_key
from standby.runs import AgentRun, current_run
from standby.states import CheckpointState
from standby.steps import in_step, unmarked

T = TypeVar("T")

log = logging.getLogger("standby.agents")

_current: ContextVar[Thinking | None] = ContextVar("standby_thinking", default=None)


async def current_scope() -> AgentScope:
    """In a tool: what is left of the scope of the agent that calls it, to hand on ``.narrowed(...)``.

    What is spent under it counts to this agent's limits as well, also while this one goes on.
    Raises ``UsageError`` outside of ``run_agent``, and when it is not known what is left.
    """
    return await _thinking("current_scope").left_to_hand_on()


def would_be_allowed(tool: str, arguments: dict[str, Any]) -> bool:
    """In a tool: whether the scope of the agent that calls it allows this call without asking.

    Raises ``UsageError`` outside of ``run_agent``.
    """
    scope = _thinking("would_be_allowed").scope
    return ruling(scope, tool, arguments).permission is Permission.ALLOW


def _thinking(asked: str) -> Thinking:
    thinking = _current.get()
    if thinking is None:
        raise UsageError(f"{asked}() was called outside of run_agent, where there is no scope.")
    return thinking


@dataclass(frozen=True)
class AgentResult(Generic[T]):
    """What came of an agent.

    ``output``: of the agent's output type; None if it was stopped before. ``stopped``: which limit of its scope stopped
    it (``steps``, ``money``, ``deadline`` ...), ``why`` in words. ``spent``: by itself, across waits and crashes.
    ``messages``: the whole conversation, which can be gone on with; calls that a stop came before have no result in it.
    """

    output: T | None
    stopped: str | None
    why: str
    spent: Spent
    messages: list[ModelMessage]


async def run_agent(
    agent: Agent[Any, T],
    task: str | Sequence[UserContent],
    *,
    scope: Scoped,
    deps: Any = None,
    model: Any = None,
    history: Sequence[ModelMessage] | None = None,
    fresh: Mapping[str, Fresh] | None = None,
    recheck: Callable[[], Awaitable[None] | None] | None = None,
    until: Callable[[Sequence[ModelMessage]], Awaitable[bool] | bool] | None = None,
    on_change: Literal["continue", "stop"] = "continue",
    visible: bool = False,
    name: str | None = None,
) -> AgentResult[T]:
    """Have a pydantic-ai agent work on a task, in an ``@agent``, inside its scope.

    Every model request and every tool call is a step. After a park or a crash it goes on at the first one that is not
    done.

    ``scope``: an ``AgentScope``, or a function that reads it, which is called again in each attempt and after each
    wait. ``deps``, ``model``: as for ``Agent.run``. ``history``: an earlier conversation to go on with.
    ``fresh``: by the name of a tool, what its call is about as of now, from its arguments; an approval for which that
    has changed is asked anew. ``recheck``: called in each attempt and after each wait, raises if the agent must not go
    on (credentials that were revoked). ``until``: called before each further model request with the conversation; what
    is true ends it, as ``stopped="goal"``. These functions are async, or are done at once. ``on_change``: what happens
    when the model, the instructions, the tools or the scope are others than before: ``"continue"`` with a line in the
    log and the transcript, or ``"stop"``, before any further call acts. ``visible``: whether Prefect shows the steps as
    task runs. ``name``: in the keys of its steps, by default the agent's, or ``agent``.

    Raises ``ScopeStopped`` when a limit is reached and the scope says ``fail``, ``UsageError`` outside an agent's own
    task, and whatever the model and the tools raise.
    """
    run = current_run.get()
    if run is None or in_step() or not run.in_own_task:
        raise unmarked("calls run_agent") or UsageError(
            "run_agent works in an agent's own task, between its steps: in an @agent function."
        )
    name = name or "".join(char if char not in "#/?" else ":" for char in agent.name or "agent")
    check_key(name)
    place = run.place(name)
    thread = Thread(run, place.key, visible=visible)
    thread.messages = list(history or ())
    await thread.load()

    async def begin() -> Beginning:
        return Beginning(at=clock.utcnow(), trace=new_trace())

    thread.beginning = await began.at(place)(begin)
    outer, meter = _current.get(), under_way()
    if outer is not None and meter is not None:
        thread.within = outer.thread, meter
    serving = Serving(thread.prefix)
    thinking = Thinking(agent, thread, scope, serving, deps, model, fresh or {}, recheck, until, on_change, outer)
    keep_transcript(run, place.key, task)
    token = _current.set(thinking)
    try:
        return await _ended(run, thinking, task)
    finally:
        _current.reset(token)


async def _ended(run: AgentRun, thinking: Thinking, task: Any) -> AgentResult[Any]:
    thread = thinking.thread
    failed = thread.entry("end")
    if failed is not None and failed.state == CheckpointState.FAILED:
        await thread.leave_out()
        await thread.close_left("")
        raise revived(await run.text_of(failed))
    if thread.ending is not None and thread.ending.stopped is not None:
        await thread.leave_out()
        return await _result(thread, None, thread.ending)
    output: Any = None
    stop: ScopeStopped | None = None
    try:
        await thinking.refresh()
        output = await thinking.serving.while_thinking(thinking.think(task))
    except ScopeStopped as stopped:
        await thread.leave_out()
        await _close(thread)
        if thinking.must_fail(stopped):
            run.failures.add(Failure(thread.place("end"), stored(stopped), stopped))
            raise
        if stopped.what not in ("goal", "person"):
            log.warning("Run %s: agent %s ends without an output: %s.", run.id, thread.name, stopped.why)
        stop = stopped
    except Exception as error:
        # Recorded only if the agent catches it and goes on: else a retry of the run tries again.
        run.failures.add(Failure(thread.place("end"), stored(error), error))
        if ends_the_agent(error):
            await thinking.serving.close_open(run)
        if thread.purse is not None:
            await thread.purse.give_up()
        raise

    if stop is None:
        await _close(thread)

    async def end() -> Ending:
        now, turn = clock.utcnow(), thread.turn
        if stop is not None:
            return Ending(at=now, turn=turn, stopped=stop.what, why=stop.why)
        return Ending(at=now, turn=turn, output=output_call(thread.messages))

    ending = thread.ending or await ended.at(thread.place("end"))(end)
    return await _result(thread, output, ending)


async def _close(thread: Thread) -> None:
    await thread.close_left("")
    if thread.purse is not None:
        await thread.purse.close()


async def _result(thread: Thread, output: Any, ending: Ending) -> AgentResult[Any]:
    messages = list(thread.messages)
    if ending.stopped is not None and ending.turn and thread.response().tool_calls:
        calls = await thread.last_calls(ending.turn)
        messages.append(answered(calls, f"the agent was stopped ({ending.why})", ending.at))
    return AgentResult(output, ending.stopped, ending.why, thread.spent_at(ending.at), messages)
