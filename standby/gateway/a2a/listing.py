"""Tasks by the page."""

from __future__ import annotations

from datetime import UTC, datetime

from a2a.types import ListTasksRequest, ListTasksResponse, Task
from a2a.types import TaskState as WireState
from a2a.utils.constants import DEFAULT_LIST_TASKS_PAGE_SIZE, MAX_LIST_TASKS_PAGE_SIZE

from standby.agent_tasks import task
from standby.callers import Caller, delegates
from standby.gateway.a2a.wire import made
from standby.gateway.agents import named
from standby.gateway.refusals import Refused
from standby.ledger import Ledger
from standby.ledger.tasks import Listed

MOST = 500
"""Tasks that are looked at for one page; where fewer than asked for are among them, the page is shorter."""


async def listed(ledger: Ledger, params: ListTasksRequest, caller: Caller) -> ListTasksResponse:
    """The tasks that the caller may see, the newest first. ``total_size`` counts without status and time."""
    size = params.page_size if params.HasField("page_size") else DEFAULT_LIST_TASKS_PAGE_SIZE
    if not 1 <= size <= MAX_LIST_TASKS_PAGE_SIZE:
        raise Refused(422, "The request does not fit.", [("pageSize", f"it is from 1 to {MAX_LIST_TASKS_PAGE_SIZE}")])
    if params.context_id:
        named("contextId", params.context_id)
    after = _read(params.page_token) if params.page_token else None
    which = {"sources": None if caller.sees_all else caller.sources, "context_id": params.context_id or None}
    given = await delegates(ledger)
    tasks: list[Task] = []
    looked, more = 0, True
    while more and len(tasks) < size and looked < MOST:
        wanted = size - len(tasks)
        page = await ledger.tasks.page(wanted + 1, after=after, **which)  # type: ignore[arg-type]
        more = len(page) > wanted
        for after in page[:wanted]:
            looked += 1
            found = await ledger.tasks.find(after.id)
            if found is not None:
                shown = made(Task, task(found, caller, given, artifacts=params.include_artifacts))
                if _fits(shown, params):
                    tasks.append(shown)
    token = f"{after.at.timestamp():.6f}/{after.id}" if more and after is not None else ""
    total = await ledger.tasks.count(**which)  # type: ignore[arg-type]
    return ListTasksResponse(tasks=tasks, next_page_token=token, page_size=size, total_size=total)


def _fits(shown: Task, params: ListTasksRequest) -> bool:
    if params.status != WireState.TASK_STATE_UNSPECIFIED and shown.status.state != params.status:
        return False
    if params.HasField("status_timestamp_after"):
        return bool(shown.status.timestamp.ToNanoseconds() > params.status_timestamp_after.ToNanoseconds())
    return True


def _read(token: str) -> Listed:
    at, _, task_id = token.partition("/")
    try:
        return Listed(named("pageToken", task_id), datetime.fromtimestamp(float(at), UTC))
    except (Refused, ValueError, OverflowError, OSError):
        raise Refused(422, "The request does not fit.", [("pageToken", "it is none that was given out")]) from None
