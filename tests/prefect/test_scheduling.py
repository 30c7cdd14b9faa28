"""A schedule in a deployment makes runs: with SQLAlchemy 2.1 the scheduler of Prefect 3.8.8 fails on every pass."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.support.server import PrefectServer
from tests.support.waiting import wait_until


async def test_a_deployment_with_a_schedule_gets_runs(prefect_server: PrefectServer) -> None:
    with temporary_settings({PREFECT_API_URL: prefect_server.url}):
        async with get_client() as client:
            flow_id = await client.create_flow_from_name("scheduled")
            schedule = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(minutes=5)), active=True)
            deployment: UUID = await client.create_deployment(
                flow_id, "scheduled", entrypoint="scheduled.py:scheduled", schedules=[schedule]
            )

            async def scheduled() -> bool:
                of_it = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
                sort = FlowRunSort.EXPECTED_START_TIME_ASC
                return bool(await client.read_flow_runs(deployment_filter=of_it, sort=sort))

            await wait_until(scheduled, 150)
