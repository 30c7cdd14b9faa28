"""A work pool: its deployments, and whether Prefect's queue says who goes on, for the pool, or a queue of it, is paused
or has a concurrency limit.

Then a run that wakes stands in that queue as a new one does, whoever woke it: a slot is the server's to give, for other
hosts and stock workers share the pool.
"""

from __future__ import annotations

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName
from prefect.client.schemas.objects import WorkPool

from standby.projection import BATCH


async def is_bound(client: PrefectClient, pool: WorkPool) -> bool:
    """``pool`` as it was just read."""
    if pool.is_paused or pool.concurrency_limit is not None:
        return True
    seen = 0
    while True:
        some = await client.read_work_queues(work_pool_name=pool.name, limit=BATCH, offset=seen)
        if any(queue.is_paused or queue.concurrency_limit is not None for queue in some):
            return True
        seen += len(some)
        if len(some) < BATCH:
            return False


async def deployments_of(client: PrefectClient, pool: str) -> set[str]:
    """The ids of those that the pool of this name has."""
    found: set[str] = set()
    only = WorkPoolFilter(name=WorkPoolFilterName(any_=[pool]))
    while True:
        some = await client.read_deployments(work_pool_filter=only, limit=BATCH, offset=len(found))
        found |= {str(deployment.id) for deployment in some}
        if len(some) < BATCH:
            return found
