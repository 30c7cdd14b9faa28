"""The ledger that the terminal's commands find."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from standby.ledger import Ledger


@pytest.fixture
async def ledger(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ledger]:
    """The ledger that the terminal finds; no Prefect server is known."""
    monkeypatch.setenv("STANDBY_HOME", str(tmp_path))
    opened = await Ledger.connect(sqlite_url)
    yield opened
    await opened.close()
