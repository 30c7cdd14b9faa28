"""What pydantic-ai's loop is given to go on with, so that code of the agent sees in ``ctx`` what it would have seen in
a run that nothing had cut off: the prompt, the step, and the usage.

Of what tools have added to ``ctx.usage`` themselves the journal knows the requests and all tokens together, so these
stand in it as tokens of requests.
"""

from __future__ import annotations

from typing import Any

from pydantic_ai import Agent
from pydantic_ai.run import AgentRun
from pydantic_ai.usage import RunUsage

from standby.agents.costs import Usage, usage_of
from standby.agents.records import Counted, Result
from standby.agents.thread import Thread


def usage_before(thread: Thread) -> Usage:
    """What was spent before the last turn; that one is counted when it is gone through."""
    before = thread.answers[:-1]
    usage = Usage(requests=len(before))
    rejected = [one for answer in before if answer.failed_attempts for one in answer.failed_attempts]
    usage.incr(usage_of([*(one.usage for one in before), *(one.usage for one in rejected if one.usage)]))
    calls = _calls_of(thread, range(1, len(before) + 1))
    usage.tool_calls += sum(_has_returned(rest, call) for rest, call in calls)
    _add(usage, calls)
    return usage


def count_told(thread: Thread, usage: RunUsage) -> None:
    """Before the calls of the last turn: those that are recorded are told, and count as calls, but what they have added
    by calling others and asking models is not added again."""
    if thread.turn == thread.recorded:
        _add(usage, _calls_of(thread, range(thread.turn, thread.turn + 1)))
        thread.made.clear()


def _add(usage: RunUsage, calls: list[tuple[str, Counted]]) -> None:
    for _, call in calls:
        usage.tool_calls += call.inner
        usage.requests += call.requests
        usage.input_tokens += call.tokens


def _calls_of(thread: Thread, turns: range) -> list[tuple[str, Counted]]:
    """What the calls of these turns have come to, by their keys below the thread's."""
    found = []
    for rest, call in thread.made.items():
        turn, ordinal, *_ = rest.split(".")
        if ordinal.isdigit() and int(turn) in turns:
            found.append((rest, call))
    return found


def _has_returned(rest: str, call: Counted) -> bool:
    """Whether pydantic-ai has counted it: a tool has returned, or the gate in its place. An approved one that has begun
    something elsewhere returns what that comes to."""
    deferred = call.result is Result.DEFERRED and rest.endswith(".approved")
    return deferred or call.result in (Result.RETURNED, Result.DENIED)


async def taken_up(run: AgentRun[Any, Any], thread: Thread, task: Any) -> Any:
    """The node from which pydantic-ai goes on: in a later attempt, the request of the last turn, in its step.

    ``task`` stands in the history by then, and is the prompt all the same.
    """
    node, state = run.next_node, run.ctx.state
    if thread.last is None or not Agent.is_user_prompt_node(node):
        return node
    state.output_retries_used = thread.last.output_retries
    node.user_prompt = None
    node = await run.next(node)
    state.run_step, run.ctx.deps.prompt = thread.recorded - 1, task
    return node
