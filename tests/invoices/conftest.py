"""Books of its own for each test, and no Prefect server: steps run as plain functions on the blocks' defaults."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.invoices.documents import PEPPOL


@pytest.fixture(autouse=True, scope="package")
def no_server() -> Iterator[None]:
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        yield


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder, empty."""
    monkeypatch.setenv("STANDBY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def books_url(home: Path) -> str:
    return f"sqlite:///{home / 'books.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def any_books_url(request: pytest.FixtureRequest) -> str:
    """Empty books on each kind of database, for what depends on how it locks."""
    return str(request.getfixturevalue("books_url" if request.param == "sqlite" else "empty_postgres_url"))


@pytest.fixture
def peppol() -> Path:
    if not PEPPOL.is_dir():
        pytest.skip(f"the official Peppol examples are not at {PEPPOL}")
    return PEPPOL


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    """The idempotency key that steps find, as they do inside an agent."""
    for module in ("tasks.pay", "tasks.book"):
        monkeypatch.setattr(f"{module}.idempotency_key", lambda: "run-1/step")
    return "run-1/step"
