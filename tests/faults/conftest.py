"""Real processes for the failure matrix: attempts of agents that are killed, and a keeper that puts it right."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from standby import confirming, settings
from standby.ledger import Ledger
from tests.support.attempts import Attempts
from tests.support.server import PrefectServer
from tests.support.stage import Stage, playing

AGENTS = Path(__file__).parent / "agents"


@pytest.fixture(scope="session")
def attempts(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attempts]:
    started = Attempts(prefect_server.url, tmp_path_factory.mktemp("attempts"))
    yield started
    started.close()


@pytest.fixture(autouse=True)
def _keeper_in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper of these tests waits for nothing that cannot come any more."""
    monkeypatch.setattr(settings, "KEEPER_TICK", timedelta(seconds=0.2))
    monkeypatch.setattr(settings, "WAKE_GRACE", timedelta(seconds=0.5))
    monkeypatch.setattr(confirming, "CONFIRM_AFTER", timedelta(seconds=1))


@pytest.fixture
async def stage(
    prefect_server: PrefectServer, attempts: Attempts, ledger: Ledger, ledger_url: str, tmp_path: Path
) -> AsyncIterator[Stage]:
    """A stage on each kind of database; when the test is over, the four conditions must hold."""
    async with playing(Stage(prefect_server, attempts, ledger, ledger_url, tmp_path, AGENTS)) as played:
        yield played


@pytest.fixture
async def stage_of_its_own(
    own_prefect_server: PrefectServer, ledger: Ledger, ledger_url: str, tmp_path: Path
) -> AsyncIterator[Stage]:
    """A stage whose Prefect server the test may kill and start again."""
    attempts = Attempts(own_prefect_server.url, tmp_path)
    try:
        async with playing(Stage(own_prefect_server, attempts, ledger, ledger_url, tmp_path, AGENTS)) as played:
            yield played
    finally:
        attempts.close()
