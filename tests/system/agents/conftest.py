"""One `standby up` for all tests in this folder, with a policy and a bank that do not keep them waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from blocks.payment_policy import PaymentPolicy
from blocks.payment_provider import PaymentProvider
from standby.doctor import audit
from tests.invoices.documents import PEPPOL
from tests.support.forks import Forks
from tests.support.server import PrefectServer
from tests.system.project import Project
from tests.system.runs import Runs

CALM: dict[str, Any] = {
    "slow_seconds": 0, "down": False, "forgetful": 0, "settle": "auto", "settle_after": 0.2, "report": True,
}  # fmt: skip
"""The bank at its best; each test begins with it."""


@pytest.fixture(scope="package")
def stack(
    tmp_path_factory: pytest.TempPathFactory, forks: Forks, server_and_new_database: tuple[PrefectServer, Path]
) -> Iterator[Project]:
    with closing(Project(tmp_path_factory.mktemp("agents") / "project", forks)) as project:
        project.begin_with(server_and_new_database[1])
        up = project.up().wait_ready()
        asyncio.run(configure(project))
        yield project
        assert asyncio.run(up.interrupted()).code == 0, project.logs()
        asyncio.run(project.gone())


async def configure(project: Project) -> None:
    """As people do in the Prefect UI: up to 2,000 EUR nobody is asked, and the bank has a second to answer."""
    policy = PaymentPolicy(require_order=False, require_iban=False, auto_approve_up_to={"EUR": Decimal(2000)})
    with temporary_settings({PREFECT_API_URL: project.api_url}):
        await policy.asave("default", overwrite=True)
        provider = PaymentProvider(base_url=project.env["PAYMENT_PROVIDER_URL"], timeout_seconds=1)
        await provider.asave("default", overwrite=True)


@pytest.fixture
async def runs(stack: Project) -> AsyncIterator[Runs]:
    """What runs there. The doctor looks at all of it after each test."""
    async with Runs.of(stack) as runs:
        await runs.bank.configure(**CALM)
        yield runs
        assert await audit(runs.ledger, runs.client) == []


@pytest.fixture
def peppol() -> Path:
    if not PEPPOL.is_dir():
        pytest.skip(f"the official Peppol examples are not at {PEPPOL}")
    return PEPPOL
